from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff import keys

WORDS = st.sampled_from(["layer", "bn", "weight", "a{b", "}", "\\", "", "ü", "01", "x,y", "..", "é{0..2}"])
NUMBERS = st.integers(0, 4).map(str)
COMPONENT = st.one_of(WORDS, NUMBERS, st.builds(lambda word, number: word + number, WORDS, NUMBERS))
STRUCTURED = st.lists(COMPONENT, max_size=5).map(".".join)


@given(st.lists(st.one_of(STRUCTURED, st.text()), max_size=60))
def test_folds_denote_exactly_the_keys_they_were_made_from(names: list[str]) -> None:
    folds = keys.fold(names)
    expanded = [key for item in folds for key in keys.expand(item.pattern)]
    assert len(expanded) == len(set(expanded)), "a key appears in two folds"
    assert set(expanded) == set(names)
    assert [item.count for item in folds] == [len(list(keys.expand(item.pattern))) for item in folds]


@given(st.lists(STRUCTURED, max_size=60))
def test_folds_come_in_the_order_of_their_first_keys(names: list[str]) -> None:
    firsts = [item.first for item in keys.fold(names)]
    assert [names.index(first) for first in firsts] == sorted(names.index(first) for first in firsts)
    assert all(item.first in set(keys.expand(item.pattern)) for item in keys.fold(names))


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (
            [f"layer4.{i}.bn{j}.running_mean" for i in range(3) for j in (1, 2, 3)],
            ["layer4.{0..2}.bn{1..3}.running_mean"],
        ),
        (["h.0", "h.2", "h.5", "h.6", "h.7", "h.8", "h.9"], ["h.{0,2,5..9}"]),
        ([f"h.{i}.w" for i in range(5, 5000, 11)], ["h.{5..4999 step 11}.w"]),
        ([f"h.{i}" for i in (0, 2, 4, 6, 8, 9, 10, 11)], ["h.{0..8 step 2,9..11}"]),
        ([f"h.{i}" for i in (0, 2, 4, 6)], ["h.{0,2,4,6}"]),
        (["h.0", "h.1"], ["h.{0..1}"]),
        (["h.01", "h.02"], ["h.01", "h.02"]),  # a leading zero is text: {1..2} would denote other keys
        (["fc.weight"], ["fc.weight"]),
        (["a{0}.b", "a{1}.b"], ["a\\{{0..1}\\}.b"]),
        (["", "."], ["", "."]),
        # one corner missing: two boxes, not a lie
        (["a.0.0", "a.0.1", "a.1.0"], ["a.0.{0..1}", "a.1.0"]),
    ],
)
def test_folding(names: list[str], patterns: list[str]) -> None:
    assert [item.pattern for item in keys.fold(names)] == patterns


def test_a_key_full_of_numbers_is_left_alone() -> None:
    hostile = ["1." * 100_000 + str(last) for last in range(3)]
    assert [item.pattern for item in keys.fold(hostile)] == hostile


def test_deepseek_sized_folding() -> None:
    names = [
        f"model.layers.{layer}.mlp.experts.{expert}.{leaf}.weight"
        for layer in range(61)
        for expert in range(256)
        for leaf in ("gate_proj", "up_proj", "down_proj")
    ]
    assert [item.pattern for item in keys.fold(names)] == [
        f"model.layers.{{0..60}}.mlp.experts.{{0..255}}.{leaf}.weight" for leaf in ("gate_proj", "up_proj", "down_proj")
    ]


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*.bias", ["a.bias", "a.b.bias"], ["bias", "a.biases"]),
        ("encoder.*", ["encoder.a", "encoder.a.b"], ["encoder", "xencoder.a"]),
        ("fc.weight", ["fc.weight"], ["fc0weight", "fc.weight2"]),
        ("layer?.x", ["layer1.x"], ["layer10.x"]),
        ("layer[12].x", ["layer1.x", "layer2.x"], ["layer3.x"]),
        ("layer[!12].x", ["layer3.x"], ["layer1.x"]),
        ("layer[0-2].x", ["layer1.x"], ["layer3.x"]),
        ("h.{0..2,12}.w", ["h.0.w", "h.2.w", "h.12.w"], ["h.3.w", "h.1.", "h.22.w"]),
        ("h.{5..38 step 11}.w", ["h.5.w", "h.16.w", "h.38.w"], ["h.6.w", "h.49.w"]),
        ("h.{0..9 step 0}", ["h.3"], ["h.10"]),
        ("a\\{b\\*", ["a{b*"], ["a{bx"]),
        ("[", ["["], ["x"]),
        ("[z-a]", ["[z-a]"], ["z"]),
        ("[a--b&&c]", ["a", "-", "&"], ["x"]),
        ("h.{3..1}", ["h.{3..1}"], ["h.2", "h."]),
        ("h.{0..999999999999}", ["h.{0..999999999999}"], ["h.0"]),
        ("a{b}", ["a{b}"], ["ab"]),
        ("*", ["", "a\nb", "a.b"], []),
    ],
)
def test_globs(pattern: str, matching: list[str], other: list[str]) -> None:
    matches = keys.glob(pattern)
    assert [key for key in matching if not matches(key)] == []
    assert [key for key in other if matches(key)] == []


@given(st.lists(STRUCTURED, min_size=1, max_size=20), STRUCTURED)
def test_a_fold_pasted_as_a_glob_matches_its_keys_and_no_others(names: list[str], stranger: str) -> None:
    for item in keys.fold(names):
        if re.search(r"[*?\[]", item.pattern):
            continue
        matches = keys.glob(item.pattern)
        members = set(keys.expand(item.pattern))
        assert all(matches(key) for key in members)
        assert matches(stranger) == (stranger in members)


@given(st.text(max_size=12), st.text(max_size=12))
def test_no_glob_is_an_error(pattern: str, key: str) -> None:
    assert keys.glob(pattern)(key) in (True, False)
