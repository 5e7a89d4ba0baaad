from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.cli.flags import Flags
from ckptdiff.render import escape
from ckptdiff.render import phrases as words
from ckptdiff.spelling import spelled, word

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)


@given(ANY_TEXT)
def test_escaped_text_has_no_effect(text: str) -> None:
    shown = escape.plain(text)
    assert shown.isprintable()
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown)
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer.0", "layer.0"),
        ("größe.权重", "größe.权重"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202etxt\u2066", "\\u202etxt\\u2066"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\u200b", "\\u200b"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert escape.plain(text) == shown


def test_a_megabyte_of_a_key_is_shortened_and_counted() -> None:
    shown = escape.plain("a" * 500_000 + "\x00" * 500_000 + "end")
    assert len(shown) < 1000
    assert shown.startswith("aaa")
    assert shown.endswith("\\x00end")
    assert "(999,844 more characters)" in shown


def test_lines_of_a_longer_text() -> None:
    assert escape.lines("a\n\tb\x07\n") == ["a", "    b\\x07"]
    assert escape.lines("1\n2\n3\n4", 2) == ["1", "2", "... (2 more lines)"]
    assert escape.lines("") == [""]


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (90_868_376, "90.9 MB"),
        (999_999_999, "1.0 GB"),
        (3 * 10**15, "3000.0 TB"),
    ],
)
def test_sizes(nbytes: int, shown: str) -> None:
    assert words.size(nbytes) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 0, "100%"),
        (3, 3, "100%"),
        (0, 3, "0%"),
        (999_999, 1_000_000, "99.9%"),
        (1, 1_000_000, "0.1%"),
        (1, 2, "50.0%"),
    ],
)
def test_a_share_is_whole_only_when_it_is(part: int, whole: int, shown: str) -> None:
    assert words.percent(part, whole) == shown


@given(ANY_TEXT.filter(lambda text: text.isprintable() and len(text) <= escape.LONGEST))
def test_a_quoted_name_is_one_word_of_a_shell(name: str) -> None:
    import shlex

    with spelled(Flags()):
        assert shlex.split(word(name)) == [name]
