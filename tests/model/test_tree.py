"""A ModuleTree that is sent to another process."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of, unusual_keys
from ckptdiff.errors import ModelError
from ckptdiff.model.extract import extract
from ckptdiff.renaming.applied import Renames, renamed
from tests.model.test_snapshot import Everything


def test_a_tree_survives_pickling_without_its_live_modules() -> None:
    tree = extract(Everything())
    sent = pickle.loads(pickle.dumps(tree))
    assert sent == tree
    assert sent.root.children["conv"] is sent.root.children["nested"].children["again"]
    assert sent.root.children["later"] is None
    assert all(node.live is None for _, node in sent.walk())
    assert tree.root.live is not None
    assert not sent.root != tree.root  # noqa: SIM202 - a tuple has an operator for each
    assert extract(Everything()) == tree


def test_modules_nested_deeper_than_the_recursion_limit_can_be_sent() -> None:
    model: nn.Module = nn.Linear(1, 1)
    for _ in range(3000):
        model = nn.Sequential(model)
    tree = extract(model)
    assert list(pickle.loads(pickle.dumps(tree)).keys()) == list(tree.keys())


@pytest.mark.parametrize("between", [0, 1, 2])
def test_a_module_that_contains_itself_is_refused(between: int) -> None:
    """Whether it is its own child or one further down's, where torch's recursion has no end either."""
    root = lowest = nn.Module()
    for _ in range(between):
        lowest.below = nn.Module()
        lowest = lowest.below
    lowest.root = root
    with pytest.raises(RecursionError):
        root.load_state_dict({})
    with pytest.raises(ModelError, match="contains itself, by way of its child root"):
        extract(root)


def test_one_module_in_several_places_is_one_node() -> None:
    """Also below one that stands in its way to the top, first or last."""
    shared = nn.Sequential(nn.Linear(1, 1))
    holder = nn.ModuleDict({"early": shared, "inner": nn.ModuleList([shared, nn.ModuleList([shared])]), "late": shared})
    tree = extract(holder)
    nodes = {id(node) for prefix, node in tree.walk() if node.class_name == "Sequential"}
    assert len(nodes) == 1
    assert list(tree.keys()) == list(holder.state_dict())
    assert len({slot.identity for slot in tree.keys().values()}) == 2


def test_tensors_alike_are_told_apart_by_what_each_of_them_is() -> None:
    """Descriptions are shared; what is not the same of two tensors of one shape is not."""
    with torch.inference_mode():
        inference = torch.zeros(2)
    state = {
        "plain": torch.zeros(2),
        "meta": torch.zeros(2, device="meta"),
        "inference": inference,
        "late": torch.zeros(4)[2:],
        "apart": torch.zeros(4)[::2],
        "wide": torch.zeros(2, dtype=torch.float64),
        "again": torch.zeros(2),
    }
    checkpoint = checkpoint_of(state)
    entries = checkpoint.entries
    assert entries["plain"] == entries["again"] == entries["meta"]
    assert (entries["late"].offset, entries["apart"].stride, entries["wide"].dtype) == (2, (2,), "float64")
    assert checkpoint.without_values() == {"meta"}
    assert unusual_keys(checkpoint) == {"inference"}
    under_other_names, _ = renamed(checkpoint, Renames(add_prefix="model."))
    assert under_other_names.without_values() == {"model.meta"}
    assert unusual_keys(under_other_names) == {"model.inference"}

    module = nn.Module()
    for name, value in state.items():
        module.register_buffer(name, value)
    slots = extract(module).keys()
    assert [name for name, slot in slots.items() if not slot.ordinary] == ["inference"]
    assert [name for name, slot in slots.items() if slot.tensor.device == "meta"] == ["meta"]
    assert slots["apart"].tensor.stride == (2,)
