"""The witness agrees where the walk is right, and says both answers where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckptdiff.checkpoint import read
from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.errors import UsageError
from ckptdiff.loaders.outcome import Problem
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.loaders.torch.witness import Disagreement, confirm
from ckptdiff.model.extract import extract
from ckptdiff.model.snapshot import dumps, loads
from tests.loaders.torch.oracle import state_of
from tests.loaders.torch.test_hooks import every_state_dict, look, net, pre, reading, with_counters
from tests.loaders.torch.test_keys import chain, net_and_dict


class NeedsValues(nn.Linear):
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if prefix + "weight" in state_dict and state_dict[prefix + "weight"].sum().item() > 0:
            state_dict[prefix + "bias"] = torch.zeros(self.out_features)
        super()._load_from_state_dict(state_dict, prefix, *rest)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2)),
    "hooks": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.LazyLinear(2)),
    "values": lambda: nn.Sequential(NeedsValues(2, 2)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("change", ["none", "dropped", "reshaped", "extra"])
def test_torch_confirms_the_walk(name: str, change: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    state_dict = MODELS[name]().state_dict()
    first = next(iter(state_dict))
    if change == "dropped":
        del state_dict[first]
    elif change == "reshaped":
        state_dict[first] = torch.ones(7, 7)
    elif change == "extra":
        state_dict["nowhere.at.all"] = torch.ones(1)
    confirm(compare(extract(model), checkpoint_of(state_dict)))
    if name != "hooks":
        torch.save(state_dict, tmp_path / "file.pth")
        confirm(compare(extract(model), read(tmp_path / "file.pth")))


def test_a_wrong_answer_is_contradicted_with_both() -> None:
    model = nn.Linear(2, 2)
    wrong = replace(
        compare(extract(model), checkpoint_of(model.state_dict())), problems=(Problem("missing", "weight"),)
    )
    with pytest.raises(Disagreement) as caught:
        confirm(wrong)
    assert "torch:    loads" in caught.value.detail
    assert 'Missing key(s) in state_dict: "weight"' in caught.value.detail


def test_the_model_stays_as_it_is() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    confirm(compare(extract(model), checkpoint_of(nn.Linear(2, 2).state_dict())))
    assert torch.equal(model.weight, before)
    assert not model.weight.is_meta


def hooked() -> nn.Module:
    model = net()
    pre(model.body, reading)
    model.register_load_state_dict_post_hook(look)
    return model


@pytest.mark.parametrize("make", [net, hooked, with_counters])
@pytest.mark.parametrize("assign", [False, True])
def test_torch_agrees_and_nothing_is_touched(make: Callable[[], nn.Module], assign: bool) -> None:
    model = make()
    before = state_of(model)
    for state_dict in every_state_dict():
        confirm(compare(extract(model), checkpoint_of(state_dict), assign=assign))
    assert state_of(model) == before


def test_models_built_without_values() -> None:
    with torch.device("meta"):
        model = net()
        model.register_buffer("spread", torch.zeros(1).expand(3))
    for state_dict in (*every_state_dict(), {"spread": torch.zeros(3)}):
        confirm(compare(extract(model, built="meta"), checkpoint_of(state_dict)))


def test_values_of_all_kinds() -> None:
    model, state_dict = net_and_dict()
    for value in (torch.zeros(3, 2, 1, 1).to_sparse(), torch.zeros(3, 2, 1, 1, device="meta"), None, torch.zeros(9)):
        confirm(compare(extract(model), checkpoint_of({**state_dict, "conv.weight": value})))


def test_a_model_too_deep_for_torch() -> None:
    confirm(compare(extract(chain(1100)), checkpoint_of({})))


def test_every_part_of_an_answer_counts() -> None:
    model, state_dict = net_and_dict()
    right = compare(extract(model), checkpoint_of(state_dict))
    for problem in (Problem("missing", "x"), Problem("unexpected", "x"), Problem("other", "", "x")):
        with pytest.raises(Disagreement):
            confirm(replace(right, problems=(problem,)))
    with pytest.raises(Disagreement):
        confirm(replace(right, raised="x"))


def test_a_snapshot_has_no_witness() -> None:
    tree = loads(dumps(extract(nn.Linear(2, 2))), "model.json")
    with pytest.raises(UsageError, match="verify=True"):
        confirm(compare(tree, checkpoint_of({})))
