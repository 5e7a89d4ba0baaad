"""A ModuleTree that is sent to another process."""

from __future__ import annotations

import pickle

from torch import nn

from ckptdiff.model.extract import extract
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
