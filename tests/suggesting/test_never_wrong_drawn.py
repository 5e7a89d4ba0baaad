"""The kinds of which a wrong rule loads without an error, drawn: permuted layouts, transposes, originals and copies,
and arguments of a constructor. What is certain is applied to real values and held against what they should be."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ckptdiff.renaming.rename_rules import apply_rules
from ckptdiff.suggesting.constructor_arguments import Search
from ckptdiff.suggesting.finder import suggest_rules
from tests.suggesting.test_never_wrong import adapter, decided, llama

Shapes = dict[str, tuple[int, ...]]
FAMILIES = {
    "transformers": ("self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "halves"),
    "torchtune": ("attn", "q_proj", "k_proj", "v_proj", "output_proj", "pairs"),
    "meta": ("attention", "wq", "wk", "wv", "wo", "pairs"),
    "mistral": ("attention", "wq", "wk", "wv", "wo", "pairs"),
}
NAMES = st.sampled_from(["h", "blocks", "layers", "stage", "x", "encoder.layer", "transformer.h"])


def in_family(family: str, width: int, kv: int, layers: int) -> Shapes:
    """A decoder's names as a family has them; the rest of the block as transformers has it."""
    home, *names, _ = FAMILIES[family]
    out: Shapes = {}
    for key, shape in llama(width, kv, hidden=3 * width, layers=layers).items():
        for name, theirs in zip(("q_proj", "k_proj", "v_proj", "o_proj"), names, strict=True):
            key = key.replace(f"self_attn.{name}", f"{home}.{theirs}")
        out[key if family == "transformers" else key.removeprefix("model.")] = shape
    return out


@given(
    st.permutations(list(FAMILIES)),
    st.sampled_from([8, 16, 24]),
    st.sampled_from([1, 2]),
    st.integers(2, 4),
    st.booleans(),
)
@settings(deadline=None, max_examples=20)
def test_rows_of_queries_and_keys_pass_between_layouts_only_reordered(
    families: list[str], width: int, groups: int, layers: int, likely: bool
) -> None:
    file, model = families[:2]
    assume(FAMILIES[file][-1] != FAMILIES[model][-1])
    checkpoint = in_family(file, width, width // groups, layers)
    wanted = in_family(model, width, width // groups, layers)
    found = suggest_rules(checkpoint, wanted, include_likely=likely)
    turned = [key for key in checkpoint if key.split(".")[-2] in (FAMILIES[file][1], FAMILIES[file][2])]
    mapping = apply_rules(found.rules, checkpoint, strict=False).mapping
    assert turned
    assert not [key for key in turned if mapping.get(key, key) in wanted and mapping.get(key, key) != key]
    assert not found.complete
    known = suggest_rules(checkpoint, wanted, heads=(4 * groups, 4))
    for operation in known.operations:
        assert str(operation.rule).startswith("rotary_to_")


@given(NAMES, st.lists(st.sampled_from([4, 6, 8]), min_size=3, max_size=5), st.integers(2, 4), st.booleans())
@settings(deadline=None, max_examples=25)
def test_a_square_matrix_is_never_straight_beside_transposed_ones(
    name: str, widths: list[int], layers: int, renames: bool
) -> None:
    """All matrices of the file lie the other way round, the square ones too: as a whole or not at all."""
    model: Shapes = {}
    for layer in range(layers):
        for place, (rows, columns) in enumerate(pairwise(widths)):
            model[f"{name}.{layer}.fc{place}.weight"] = (rows, columns)
            model[f"{name}.{layer}.fc{place}.bias"] = (rows,)
    assume(len({shape for shape in model.values() if len(shape) == 2}) > 1)
    assume(any(shape[0] != shape[1] for shape in model.values() if len(shape) == 2))
    new = {key: key.replace(f"{name}.", "body.parts.", 1) if renames else key for key in model}
    checkpoint = {new[key]: shape[::-1] if len(shape) == 2 else shape for key, shape in model.items()}
    values = {key: torch.randn(shape) for key, shape in checkpoint.items()}
    truth = {key: values[new[key]].T if len(shape) == 2 else values[new[key]] for key, shape in model.items()}
    found = suggest_rules(checkpoint, model)
    made = carried_out(found, values)
    mapping = apply_rules(found.rules, checkpoint, strict=False).mapping
    unsure = {mapping.get(key, key) for key in found.undecided}
    for key, value in made.items():
        if key in truth and tuple(value.shape) == model[key] and key not in unsure:
            assert torch.equal(value, truth[key]), (key, found.operations)
    if found.complete:
        assert made.keys() >= truth.keys()


def carried_out(found: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The rules and transposes on values, by torch itself."""
    from ckptdiff.renaming.tensor_rules import plan_operations

    shapes = {key: tuple(value.shape) for key, value in values.items()}
    made, used = {}, set()
    for operation in plan_operations(found.renames.operations, shapes):
        assert str(operation.rule).startswith("transpose"), operation.rule
        used |= set(operation.sources)
        made[operation.targets[0]] = values[operation.sources[0]].T
    mapping = apply_rules(found.rules, [key for key in values if key not in used], strict=False).mapping
    return {**{mapping.get(key, key): value for key, value in values.items() if key not in used}, **made}


@given(
    st.lists(st.sampled_from(["default", "other", "task_a", "x"]), min_size=1, max_size=3, unique=True),
    st.sampled_from(["score", "classifier", "lm_head", "embed_tokens"]),
    st.integers(2, 9),
    st.booleans(),
)
@settings(deadline=None, max_examples=20)
def test_a_trained_copy_never_goes_to_its_original(names: list[str], head: str, classes: int, likely: bool) -> None:
    def headed(shapes: Shapes) -> Shapes:
        return {
            key.replace(".score.", f".{head}."): (classes, 16) if ".score." in key else shape
            for key, shape in shapes.items()
        }

    checkpoint, model = map(headed, adapter(*names))
    found = suggest_rules(checkpoint, model, include_likely=likely)
    mapping = apply_rules(found.rules, checkpoint, strict=False).mapping
    assert not [new for new in mapping.values() if "original_module" in new or "base_layer" in new]
    if len(names) > 1:
        assert not decided(found)


SIZES = st.fixed_dictionaries(
    {"width": st.sampled_from([4, 6, 8, 12]), "ratio": st.integers(1, 4), "depth": st.integers(1, 4),
     "classes": st.integers(2, 9), "bias": st.booleans(), "heads": st.sampled_from([1, 2])}
)  # fmt: skip


def sized(width: int, ratio: int, depth: int, classes: int, bias: bool, heads: int) -> Shapes | None:
    if not heads or width % heads:
        return None
    out: Shapes = {"embed.weight": (width, 3)}
    for layer in range(depth):
        out[f"blocks.{layer}.up.weight"] = (ratio * width, width)
        out[f"blocks.{layer}.down.weight"] = (width, ratio * width)
        out[f"blocks.{layer}.norm.weight"] = (width,)
    out["head.weight"] = (classes, width)
    return {**out, "head.bias": (classes,)} if bias else out


@given(SIZES, SIZES)
@settings(deadline=None, max_examples=25)
def test_arguments_that_are_found_are_those_of_the_sizes(here: dict[str, Any], there: dict[str, Any]) -> None:
    shapes = sized(**there)
    assert shapes is not None
    search = Search(shapes, here, lambda values: sized(**{**here, **values}))
    if not search.begin():
        assert sized(**here) == shapes
        return
    values = search.by_trying()
    assert values is not None
    assert sized(**{**here, **values}) == shapes
    assert values == {name: value for name, value in there.items() if value != here[name] and name != "heads"}
    assert not [other for other in search.alike(values) if sized(**{**here, **other}) != shapes]
    assert "heads" not in values
