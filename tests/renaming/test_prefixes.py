from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.renaming import prefixes
from ckptdiff.renaming.prefixes import PrefixChange, prefix_change

SHAPES = {f"layers.{i}.{leaf}": (i + 1,) for i in range(5) for leaf in ("weight", "bias")}


def renamed(prefix: str, keys: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, tuple[int, ...] | None]:
    return {prefix + key: shape for key, shape in keys.items()}


def test_a_wrapper_around_the_saved_model() -> None:
    assert prefix_change(renamed("module."), renamed("")) == PrefixChange("stripping", "module.", "model", 10, 10)
    assert prefix_change(renamed("_orig_mod.module."), renamed("")) == PrefixChange(
        "stripping", "_orig_mod.module.", "model", 10, 10
    )


def test_a_wrapper_around_the_model() -> None:
    assert prefix_change(renamed(""), renamed("backbone.")) == PrefixChange("adding", "backbone.", "model", 10, 10)


def test_a_part_of_a_larger_checkpoint_and_of_a_larger_model() -> None:
    larger = {**renamed("backbone."), "head.weight": (3,), "head.bias": (3,)}
    assert prefix_change(larger, renamed("")) == PrefixChange("stripping", "backbone.", "model", 10, 10)
    assert prefix_change(renamed(""), larger) == PrefixChange("adding", "backbone.", "checkpoint", 10, 10)


def test_other_shapes_are_counted() -> None:
    other = {**renamed("module."), "module.layers.0.bias": (9,)}
    assert prefix_change(other, renamed("")) == PrefixChange("stripping", "module.", "model", 10, 9)


def test_no_change_where_it_would_not_help() -> None:
    assert prefix_change(renamed(""), renamed("")) is None
    assert prefix_change(renamed("modules"), renamed("")) is None  # not a whole component
    assert prefix_change({"a.b": (1,)}, {"c.d": (1,)}) is None
    assert prefix_change({}, renamed("")) is None
    assert prefix_change(renamed("module."), {**renamed(""), "new": (1,)}) == PrefixChange(
        "stripping", "module.", "checkpoint", 10, 10
    )


WORDS = st.sampled_from(["layer", "bn", "weight", "a{b", "\\", "", "ü", "01", "..", "0", "layer1"])
KEYS = st.lists(WORDS, max_size=5).map(".".join)
COMPONENTS = st.lists(st.sampled_from(["a", "b", "module", "0", "weight"]), min_size=1, max_size=4).map(".".join)


@given(st.sets(COMPONENTS, min_size=1, max_size=12), st.sets(COMPONENTS, min_size=1, max_size=12))
def test_what_is_advised_holds(checkpoint: set[str], model: set[str]) -> None:
    change = prefix_change(dict.fromkeys(checkpoint, (1,)), dict.fromkeys(model, (1,)))
    if change is None:
        return
    if change.operation == "stripping":
        after = {key[len(change.prefix) :] for key in checkpoint if key.startswith(change.prefix)}
    else:
        after = {change.prefix + key for key in checkpoint}
    side = model if change.side == "model" else checkpoint
    assert change.prefix.endswith(".")
    assert len(after & model) == change.matched == len(side) > len(checkpoint & model)


@given(st.sets(COMPONENTS, min_size=1, max_size=12), COMPONENTS)
def test_a_plain_wrapper_is_always_seen(keys: set[str], wrapper: str) -> None:
    wrapped = {f"{wrapper}.{key}": (1,) for key in keys}
    if wrapped.keys() & keys:
        return
    stripped, added = (
        prefix_change(wrapped, dict.fromkeys(keys, (1,))),
        prefix_change(dict.fromkeys(keys, (1,)), wrapped),
    )
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
    change = prefix_change({wrap(key): shape for key, shape in model.items()}, model)
    assert change == PrefixChange("stripping", prefix, "model", 3, 3, wrappers)


def test_a_nested_prefix_is_one_prefix() -> None:
    model: dict[str, tuple[int, ...] | None] = {"a.weight": (2,), "b.weight": (3,)}
    change = prefix_change({f"_orig_mod.module.{key}": shape for key, shape in model.items()}, model)
    assert change == PrefixChange("stripping", "_orig_mod.module.", "model", 2, 2)


def test_prefixes_are_whole_components() -> None:
    assert prefixes.strip_prefix("module.conv.weight", "module") == "conv.weight"
    assert prefixes.strip_prefix("module.conv.weight", "module.") == "conv.weight"
    assert prefixes.strip_prefix("modulelist.0", "module") == "modulelist.0"
    assert prefixes.strip_prefix("module", "module") == "module"
    assert prefixes.strip_prefix("a.b", "") == "a.b"
    assert prefixes.add_prefix("a.b", "x.y") == "x.y.a.b"
    assert prefixes.add_prefix("a.b", "x.") == "x.a.b"
    assert prefixes.add_prefix("a", "") == "a"


@given(KEYS, KEYS)
def test_stripping_undoes_adding(key: str, prefix: str) -> None:
    assert prefixes.strip_prefix(prefixes.add_prefix(key, prefix), prefix) == key


def test_metadata_moves_with_its_modules() -> None:
    names = {
        "module.encoder.layer.0.bn.weight": "blocks.0.bn.weight",
        "module.head.weight": "head.weight",
        "module.a.w": "b.w",
        "module.b.w": "a.w",
    }
    old = ("", "module", "module.encoder.layer.0.bn", "module.encoder.layer.0.relu", "module.head", "module.a",
           "module.b", "module.act")  # fmt: skip
    moved = prefixes.moved_metadata({name: {"of": name} for name in old}, names)
    assert {name: entry["of"] for name, entry in moved.items()} == {
        "": "module",  # the wrapper's own entry gives way to what it wrapped
        "blocks.0.bn": "module.encoder.layer.0.bn",
        "blocks.0.relu": "module.encoder.layer.0.relu",
        "head": "module.head",
        "b": "module.a",
        "a": "module.b",
        "act": "module.act",
    }
    assert next(iter(moved)) == ""


def test_metadata_moves_below_a_prefix() -> None:
    moved = prefixes.moved_metadata({"": {"v": 0}, "norm": {"v": 2}, "act": {}}, {"norm.weight": "net.norm.weight"})
    assert moved == {"net": {"v": 0}, "net.norm": {"v": 2}, "net.act": {}}
