"""What rename rules promise: whole components, once, in order, reversible, no two keys under one name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.errors import UsageError
from ckptdiff.renaming.rename_rules import RenameRule, apply_rules, escape, parse_rule


@pytest.mark.parametrize(
    ("rule", "key", "renamed"),
    [
        ("module.{*} -> {*}", "module.fc.weight", "fc.weight"),
        ("module.{*} -> {*}", "module", None),
        ("module.{*} -> {*}", "modules.fc", None),
        ("module.{*} -> {*}", "net.module.fc", None),
        ("{*} -> net.{*}", "fc.weight", "net.fc.weight"),
        ("{*}.gamma -> {*}.weight", "a.b.gamma", "a.b.weight"),
        ("{*}.gamma -> {*}.weight", "gamma", "weight"),
        ("{p}.gamma -> {p}.weight", "a.b.gamma", "a.b.weight"),
        ("{p}.gamma -> {p}.weight", "gamma", None),
        ("a.{*}.b -> c.{*}.d", "a.x.y.b", "c.x.y.d"),
        ("a.{*}.b -> c.{*}.d", "a.b", "c.d"),
        (
            "encoder.layer.{i}.attention.self.query.{p} -> blocks.{i}.attn.q.{p}",
            "encoder.layer.11.attention.self.query.bias",
            "blocks.11.attn.q.bias",
        ),
        ("layers.{i}.w -> blocks.{i}.w", "layers.0.1.w", None),
        ("{i:int}.w -> layers.{i}.w", "0.1.w", None),
        ("layer.{i}.{*} -> layers.{i-1}.{*}", "layer.1.q.w", "layers.0.q.w"),
        ("layer.{i}.{*} -> layers.{i-1}.{*}", "layer.0.q.w", None),
        ("layer.{i}.{*} -> layers.{i-1}.{*}", "layer.x.q.w", None),
        ("layer{i}.{j}.{*} -> stages.{i-1}.{j}.{*}", "layer4.2.bn1.weight", "stages.3.2.bn1.weight"),
        ("a.{i}.{i} -> b.{i}", "a.x.x", "b.x"),
        ("a.{i}.{i} -> b.{i}", "a.x.y", None),
        (r"a\{0\}.b -> c", "a{0}.b", "c"),
        (r"a \-> b -> c", "a -> b", "c"),
    ],
)
def test_a_rule_matches_whole_components_and_nothing_else(rule: str, key: str, renamed: str | None) -> None:
    assert parse_rule(rule).rename(key) == renamed


@pytest.mark.parametrize(
    "text",
    [
        "a.b",
        "a -> b -> c",
        "-> a",
        "a ->",
        "a.{x} -> b.{y}",
        "{*}.{*} -> a.{*}",
        "a.{i+1} -> a.{i}",
        "a{ -> b",
        "a.{} -> b",
    ],
)
def test_an_unusable_rule_is_refused_with_its_own_text(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rule(text)
    assert repr(text)[1:-1] in caught.value.message or text.strip() in caught.value.message
    assert caught.value.hint


def test_the_first_rule_decides_and_no_rule_sees_another_s_output() -> None:
    rules = [parse_rule("a.{*} -> b.{*}"), parse_rule("b.{*} -> c.{*}"), parse_rule("a.x -> z")]
    renaming = apply_rules(rules, ["a.x", "b.y", "other"])
    assert renaming.mapping == {"a.x": "b.x", "b.y": "c.y", "other": "other"}
    assert renaming.counts == (1, 1, 0)
    assert renaming.moved == {"a.x": "b.x", "b.y": "c.y"}


def test_swapped_names_do_not_collide() -> None:
    rules = [parse_rule("a.{p} -> b.{p}"), parse_rule("b.{p} -> a.{p}")]
    assert apply_rules(rules, ["a.w", "b.w"]).mapping == {"a.w": "b.w", "b.w": "a.w"}


@pytest.mark.parametrize("keys", [["m.a", "n.a"], ["m.a", "a"]])
def test_two_sources_of_one_name_are_an_error(keys: list[str]) -> None:
    rules = [parse_rule("m.{*} -> {*}"), parse_rule("n.{*} -> {*}")]
    with pytest.raises(UsageError, match="one name"):
        apply_rules(rules, keys)
    assert apply_rules(rules, keys, strict=False).collisions == {"a": tuple(keys)}


def test_a_rule_that_forgets_a_capture_cannot_be_reversed() -> None:
    with pytest.raises(UsageError, match="cannot be reversed"):
        parse_rule("a.{i}.w -> b.w").reversed()


_NAMES = st.text(alphabet=st.sampled_from("ab{}\\ ->,é0.:*"), min_size=1, max_size=12)


@given(_NAMES, _NAMES)
def test_any_key_can_be_written_as_a_rule(old: str, new: str) -> None:
    rule = parse_rule(f"{escape(old)} -> {escape(new)}")
    assert rule.rename(old) == new
    assert rule.reversed().rename(new) == old


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("module.{*} -> {*}", "module.a.b"),
        ("layer.{i}.{*} -> layers.{i-1}.{*}", "layer.3.w"),
        ("layer{i}.{j}.{*} -> stages.{i-1}.{j}.{*}", "layer4.2.bn1.weight"),
        ("{p}.gamma -> {p}.weight", "a.b.gamma"),
        ("{i:int}.{*} -> layers.{i}.{*}", "7.w"),
    ],
)
def test_reversing_undoes(rule: str, key: str) -> None:
    there = parse_rule(rule)
    renamed = there.rename(key)
    assert renamed is not None
    assert there.reversed().rename(renamed) == key
    assert there.reversed().reversed().rename(key) == renamed


def test_a_rule_is_plain_text() -> None:
    assert str(RenameRule("a.{i}", "b.{i}")) == "a.{i} -> b.{i}"
