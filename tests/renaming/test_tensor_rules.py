"""What tensor-operation rules promise: parsed, checked against shapes, planned with sources and targets, reversible."""

from __future__ import annotations

import pytest

from ckptdiff.errors import UsageError
from ckptdiff.renaming.tensor_rules import parse_tensor_rule, plan_operations

Q, K, V = (f"layers.0.attn.{name}_proj.weight" for name in "qkv")


def test_concat_as_documented() -> None:
    rule = parse_tensor_rule("concat(0): {p}.q_proj.weight, {p}.k_proj.weight, {p}.v_proj.weight -> {p}.qkv.weight")
    (operation,) = plan_operations([rule], {V: (16, 64), Q: (64, 64), K: (16, 64), "other": (1,)})
    assert operation.sources == (Q, K, V)
    assert operation.targets == ("layers.0.attn.qkv.weight",)
    assert operation.shapes == ((96, 64),)


def test_a_group_that_lacks_a_source_is_left_alone() -> None:
    rule = parse_tensor_rule("concat(0): {p}.q_proj.weight, {p}.k_proj.weight -> {p}.qk.weight")
    assert plan_operations([rule], {Q: (4, 4)}) == []


@pytest.mark.parametrize(
    ("text", "shapes", "targets"),
    [
        ("split(0): {p}.qkv -> {p}.q, {p}.k, {p}.v", {"a.qkv": (9, 2)}, {"a.q": (3, 2), "a.k": (3, 2), "a.v": (3, 2)}),
        ("chunk(-1): x -> y, z", {"x": (2, 4)}, {"y": (2, 2), "z": (2, 2)}),
        ("split(0; 4, 1): x -> y, z", {"x": (5, 2)}, {"y": (4, 2), "z": (1, 2)}),
        ("transpose(0, 1): h.{i}.w -> h.{i}.w", {"h.0.w": (2, 3)}, {"h.0.w": (3, 2)}),
        ("squeeze(0): p -> q", {"p": (1, 5)}, {"q": (5,)}),
        ("unsqueeze(0): p -> q", {"p": (5,)}, {"q": (1, 5)}),
        ("reshape(6): p -> q", {"p": (2, 3)}, {"q": (6,)}),
        ("stack(0): e.{n}.w -> e.w", {"e.1.w": (2,), "e.0.w": (2,)}, {"e.w": (2, 2)}),
        ("unstack(0): e.w -> e.{n}.w", {"e.w": (2, 3)}, {"e.0.w": (3,), "e.1.w": (3,)}),
    ],
)
def test_shapes_of_what_is_made(
    text: str, shapes: dict[str, tuple[int, ...]], targets: dict[str, tuple[int, ...]]
) -> None:
    rule = parse_tensor_rule(text)
    (operation,) = plan_operations([rule], shapes)
    assert dict(zip(operation.targets, operation.shapes, strict=True)) == targets
    assert parse_tensor_rule(str(rule)) == rule
    (back,) = plan_operations([rule.reversed(shapes)], targets)
    assert dict(zip(back.targets, back.shapes, strict=True)) == shapes


def test_experts_are_stacked_and_then_concatenated() -> None:
    rules = [
        parse_tensor_rule("stack(0): l.{i}.e.{n}.gate -> l.{i}.e.gate_up.gate"),
        parse_tensor_rule("stack(0): l.{i}.e.{n}.up -> l.{i}.e.gate_up.up"),
        parse_tensor_rule("concat(1): l.{i}.e.gate_up.gate, l.{i}.e.gate_up.up -> l.{i}.e.gate_up"),
    ]
    shapes = {f"l.0.e.{n}.{name}": (4, 2) for n in range(3) for name in ("gate", "up")}
    plan = plan_operations(rules, shapes)
    assert [operation.operation for operation in plan] == ["stack", "stack", "concat"]
    assert plan[0].sources == ("l.0.e.0.gate", "l.0.e.1.gate", "l.0.e.2.gate")
    assert plan[-1].targets == ("l.0.e.gate_up",)
    assert plan[-1].shapes == ((3, 8, 2),)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("concat(0): a, b -> c", {"a": (2, 3), "b": (2, 4)}),
        ("split(0): a -> b, c", {"a": (3, 2)}),
        ("split(5): a -> b, c", {"a": (3, 2)}),
        ("squeeze(0): a -> b", {"a": (3, 2)}),
        ("reshape(7): a -> b", {"a": (3, 2)}),
        ("stack(0): a.{n} -> a", {"a.0": (3, 2), "a.1": (2, 3)}),
        ("unstack(0): a -> a.{n}", {"a": (1 << 40, 2)}),
    ],
)
def test_what_shapes_forbid_is_refused_with_the_key(text: str, shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UsageError, match=next(iter(shapes))):
        plan_operations([parse_tensor_rule(text)], shapes)


@pytest.mark.parametrize(
    "text",
    [
        "concat(0): a -> b",
        "concat: a, b -> c",
        "melt(0): a -> b",
        "split(0): a -> b",
        "split(0; 1): a -> b, c",
        "transpose(0): a -> b",
        "stack(0): a.{n} -> b.{n}",
        "concat(0): {p}.a, {q}.b -> {p}.c",
        "concat(x): a, b -> c",
        "squeeze(0): a -> ",
    ],
)
def test_a_malformed_operation_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tensor_rule(text)
