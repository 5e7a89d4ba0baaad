"""A snapshot says all that the walk asks of a model."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.errors import ModelError
from ckptdiff.loaders.torch import answer
from ckptdiff.loaders.torch.answer import error_message
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from ckptdiff.model.snapshot import dumps, loads
from ckptdiff.model.tree import ModuleTree


class Everything(nn.Module):
    """Shared and None modules, tied, lazy, non-persistent, strided and None tensors, odd names, version rules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.instance = nn.InstanceNorm1d(4)
        self.nothing = None
        self.register_module("later", None)
        self.nested = nn.Sequential(OrderedDict(again=self.conv, lazy=nn.LazyLinear(2)))
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("position_ids", torch.arange(4).expand(2, -1), persistent=False)
        self.register_buffer("mask", torch.ones(1, 3, dtype=torch.bool).expand(2, 3))
        self.register_buffer("step", None)
        self.frozen = nn.Parameter(torch.zeros(4, 2).t(), requires_grad=False)
        self._modules["odd.name"] = nn.Linear(1, 1)


def perturbed(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    whole = {key: value for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    without = {key: value for key, value in whole.items() if "conv" not in key}
    reshaped = {key: torch.zeros(7) for key in whole}
    strange = {**whole, "later.weight": torch.zeros(1), "conv.weight.x": torch.zeros(1), "": torch.zeros(1)}
    return [whole, without, reshaped, strange, {}]


def same_answers(left: ModuleTree, right: ModuleTree, model: nn.Module) -> None:
    for state_dict in perturbed(model):
        checkpoint = checkpoint_of(state_dict)
        ours, theirs = compare(left, checkpoint), compare(right, checkpoint)
        assert error_message(ours) == error_message(theirs)
        assert ours.problem_keys("missing") == theirs.problem_keys("missing")
        assert ours.problem_keys("unexpected") == theirs.problem_keys("unexpected")
        assert ours.unused == theirs.unused


def test_a_snapshot_read_back_writes_the_same_text() -> None:
    text = dumps(extract(Everything()))
    assert dumps(loads(text, "model.json")) == text


def test_a_snapshot_gives_the_answers_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.InstanceNorm1d(2)))
    same_answers(extract(model), loads(dumps(extract(model)), "model.json"), model)


def test_shared_modules_and_ties_survive() -> None:
    tree = loads(dumps(extract(Everything())), "model.json")
    assert tree.root.children["conv"] is tree.root.children["nested"].children["again"]
    keys = tree.keys()
    assert keys["head.weight"].identity == keys["embedding.weight"].identity
    assert keys["nested.again.weight"].identity == keys["conv.weight"].identity
    assert len({slot.identity for slot in keys.values()}) == len(keys) - 2
    assert keys["nested.lazy.weight"].lazy
    assert not keys["mask"].ordinary
    assert not keys["frozen"].requires_grad


def test_one_line_a_tensor_and_a_module_and_valid_json() -> None:
    text = dumps(extract(Everything()))
    content = json.loads(text)
    assert len(text.splitlines()) == 6 + len(content["modules"]) + len(content["tensors"])


def test_code_that_a_snapshot_cannot_hold_is_said() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    outcome = compare(loads(dumps(extract(model)), "model.json"), checkpoint_of(model.state_dict()))
    assert answer.loads(outcome)
    assert len(outcome.doubts) == 1
    assert "could not be run" in outcome.doubts[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no ckptdiff snapshot"),
        ("[]", "is no ckptdiff snapshot"),
        ("[" * 100_000, "is no ckptdiff snapshot"),
        ('{"ckptdiff_snapshot": 2}', "of version 2"),
        ('{"ckptdiff_snapshot": 1}', "damaged"),
        ('{"ckptdiff_snapshot": 1, "modules": [], "tensors": []}', "damaged"),
        ('{"ckptdiff_snapshot": 1, "modules": [{"path": ""}, {"path": "a.b"}], "tensors": []}', "damaged"),
        ('{"ckptdiff_snapshot": 1, "modules": [{"path": ""}], "tensors": [{"key": "a.b"}]}', "damaged"),
    ],
)
def test_what_is_no_snapshot_is_refused(text: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        loads(text, "model.json")
