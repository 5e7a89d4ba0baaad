from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.judging.prefixes import PrefixAdvice, advise

SHAPES = {f"layers.{i}.{leaf}": (i + 1,) for i in range(5) for leaf in ("weight", "bias")}


def renamed(prefix: str, keys: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, tuple[int, ...] | None]:
    return {prefix + key: shape for key, shape in keys.items()}


def test_a_wrapper_around_the_saved_model() -> None:
    assert advise(renamed("module."), renamed("")) == PrefixAdvice("stripping", "module.", "model", 10, 10)
    assert advise(renamed("_orig_mod.module."), renamed("")) == PrefixAdvice(
        "stripping", "_orig_mod.module.", "model", 10, 10
    )


def test_a_wrapper_around_the_model() -> None:
    assert advise(renamed(""), renamed("backbone.")) == PrefixAdvice("adding", "backbone.", "model", 10, 10)


def test_a_part_of_a_larger_checkpoint_and_of_a_larger_model() -> None:
    larger = {**renamed("backbone."), "head.weight": (3,), "head.bias": (3,)}
    assert advise(larger, renamed("")) == PrefixAdvice("stripping", "backbone.", "model", 10, 10)
    assert advise(renamed(""), larger) == PrefixAdvice("adding", "backbone.", "checkpoint", 10, 10)


def test_other_shapes_are_counted() -> None:
    other = {**renamed("module."), "module.layers.0.bias": (9,)}
    assert advise(other, renamed("")) == PrefixAdvice("stripping", "module.", "model", 10, 9)


def test_no_advice_where_it_would_not_help() -> None:
    assert advise(renamed(""), renamed("")) is None
    assert advise(renamed("modules"), renamed("")) is None  # not a whole component
    assert advise({"a.b": (1,)}, {"c.d": (1,)}) is None
    assert advise({}, renamed("")) is None
    assert advise(renamed("module."), {**renamed(""), "new": (1,)}) == PrefixAdvice(
        "stripping", "module.", "checkpoint", 10, 10
    )


COMPONENTS = st.lists(st.sampled_from(["a", "b", "module", "0", "weight"]), min_size=1, max_size=4).map(".".join)


@given(st.sets(COMPONENTS, min_size=1, max_size=12), st.sets(COMPONENTS, min_size=1, max_size=12))
def test_what_is_advised_holds(checkpoint: set[str], model: set[str]) -> None:
    advice = advise(dict.fromkeys(checkpoint, (1,)), dict.fromkeys(model, (1,)))
    if advice is None:
        return
    if advice.operation == "stripping":
        after = {key[len(advice.prefix) :] for key in checkpoint if key.startswith(advice.prefix)}
    else:
        after = {advice.prefix + key for key in checkpoint}
    side = model if advice.side == "model" else checkpoint
    assert advice.prefix.endswith(".")
    assert len(after & model) == advice.matched == len(side) > len(checkpoint & model)


@given(st.sets(COMPONENTS, min_size=1, max_size=12), COMPONENTS)
def test_a_plain_wrapper_is_always_seen(keys: set[str], wrapper: str) -> None:
    wrapped = {f"{wrapper}.{key}": (1,) for key in keys}
    if wrapped.keys() & keys:
        return
    stripped, added = advise(wrapped, dict.fromkeys(keys, (1,))), advise(dict.fromkeys(keys, (1,)), wrapped)
    assert stripped is not None
    assert added is not None
    assert stripped.matched == added.matched == len(keys)


@pytest.mark.parametrize(
    ("wrap", "prefix", "wrappers"),
    [
        (lambda key: key.replace("encoder.", "encoder._orig_mod."), "", ("_orig_mod",)),
        (lambda key: "module." + key.replace("encoder.", "encoder._orig_mod."), "module.", ("_orig_mod",)),
        (
            lambda key: "_fsdp_wrapped_module." + key.replace("encoder.", "encoder._checkpoint_wrapped_module."),
            "",
            ("_checkpoint_wrapped_module", "_fsdp_wrapped_module"),
        ),
    ],
)
def test_wrappers_inside_keys_are_found_to_a_fixpoint(
    wrap: Callable[[str], str], prefix: str, wrappers: tuple[str, ...]
) -> None:
    model: dict[str, tuple[int, ...] | None] = {"encoder.weight": (2,), "encoder.norm.bias": (3,), "head.weight": (4,)}
    advice = advise({wrap(key): shape for key, shape in model.items()}, model)
    assert advice == PrefixAdvice("stripping", prefix, "model", 3, 3, wrappers)


def test_a_nested_prefix_is_one_prefix() -> None:
    model: dict[str, tuple[int, ...] | None] = {"a.weight": (2,), "b.weight": (3,)}
    advice = advise({f"_orig_mod.module.{key}": shape for key, shape in model.items()}, model)
    assert advice == PrefixAdvice("stripping", "_orig_mod.module.", "model", 2, 2)
