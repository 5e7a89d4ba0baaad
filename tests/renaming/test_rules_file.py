"""What a rules file promises: what is written is read back, and what is wrong is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.errors import OutputError, UsageError
from ckptdiff.renaming.rename_rules import RenameRule, escape, parse_rule
from ckptdiff.renaming.rules_file import format_rules, parse_rules, read_rules, write_rules
from ckptdiff.renaming.tensor_rules import parse_tensor_rule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_written_rules_are_read_back(tmp_path: Path) -> None:
    rules = (RenameRule("a.{i}", "b.{i}", "certain", 3, 'because "x"\n'), parse_rule(r"a\{.b -> c"))
    operations = (parse_tensor_rule("concat(0): {p}.a, {p}.b -> {p}.c"),)
    path = tmp_path / "x.rules.toml"
    write_rules(path, rules, operations)
    found = read_rules(path)
    assert found.rules == rules
    assert found.operations == operations
    assert list(tmp_path.iterdir()) == [path]


@given(st.text(min_size=1), st.text())
def test_any_key_survives_the_file(key: str, note: str) -> None:
    key, note = (text.encode("utf-8", "replace").decode() for text in (key, note))
    rule = parse_rule(f"{escape(key)} -> x")
    rule = RenameRule(rule.pattern, rule.replacement, reason=note)
    assert parse_rules(tomllib.loads(format_rules([rule])), "f").rules == (rule,)


def test_reversed_undoes_the_file() -> None:
    found = parse_rules({"version": 1, "rule": [{"rename": "a.{*} -> b.{*}"}, {"tensors": "squeeze(0): x -> y"}]}, "f")
    back = found.reversed()
    assert [str(rule) for rule in back.rules] == ["b.{*} -> a.{*}"]
    assert [str(rule) for rule in back.operations] == ["unsqueeze(0): y -> x"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no version"),
        ("version = 2", "version 2"),
        ("version = true", "version True"),
        ("version = 1\nrules = 3", "unknown entry"),
        ("version = 1\nrule = 3", "list"),
        ("version = 1\n[[rule]]\n", "rule 1"),
        ("version = 1\n[[rule]]\nrename = 'a'", "rule 1"),
        ("version = 1\n[[rule]]\nrename = 'a -> b'\n[[rule]]\nrename = 'a -> b'\nfoo = 1", "rule 2"),
        ("version = 1\n[[rule]]\nrename = 'concat(0): a, b -> c'", "tensor operation"),
        ("version = 1\n[[rule]]\ntensors = 'a -> b'", "rule 1"),
        ("version =", "TOML"),
        ("\udc80", "TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.rules.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=said) as caught:
        read_rules(path)
    assert "bad.rules.toml" in caught.value.message
    assert caught.value.hint


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent"):
        read_rules(tmp_path / "absent")
    with pytest.raises(OutputError):
        write_rules(tmp_path / "no" / "such" / "dir", [])
