"""The pass over plain trees gives the walk's own outcome, and is given up where more than names and shapes decides."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch import walk
from ckptdiff.loaders.torch.one_pass import Matched, one_pass
from ckptdiff.loaders.torch.walk import Walk
from ckptdiff.model.extract import extract
from ckptdiff.tensors import Storage, TensorInfo
from tests.loaders.torch.oracle import assert_agrees
from tests.loaders.torch.test_properties import EXAMPLES, made, recipes, state_dicts


class Net(nn.Module):
    """Norms, a scalar, a child that is None, a tied and a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        instance_norm = nn.InstanceNorm1d(3, track_running_stats=True)
        self.norms = nn.Sequential(nn.BatchNorm1d(3), nn.InstanceNorm1d(3), instance_norm)
        self.scale = nn.Parameter(torch.ones(()))
        self.none = None
        self.register_module("nothing", None)
        self.tied = nn.Linear(2, 3)
        self.tied.weight = self.first.weight
        self.shared = self.first


def passed(model: nn.Module, state_dict: Any) -> Matched | None:
    checkpoint = checkpoint_of(state_dict)
    return one_pass(extract(model), checkpoint, checkpoint.without_values(), 500)


def both_ways(model: nn.Module, state_dict: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Outcome, Outcome]:
    tree, checkpoint = extract(model), checkpoint_of(state_dict)
    quick = Walk(tree, checkpoint, None, False, literal=False).run()
    with monkeypatch.context() as patched:
        patched.setattr(walk, "one_pass", lambda *_: None)
        return quick, Walk(tree, checkpoint, None, False, literal=False).run()


def edited(**changes: Any) -> Any:
    """The state dict of Net with some keys changed, those that are None left out."""
    state_dict = Net().state_dict()
    for key, value in changes.items():
        if value is None:
            del state_dict[key.replace("__", ".")]
        else:
            state_dict[key.replace("__", ".")] = value
    return state_dict


PLAIN: dict[str, Any] = {
    "as saved": edited,
    "missing": lambda: edited(first__bias=None, scale=None),
    "unexpected": lambda: edited(first__other=torch.ones(1), zz=torch.ones(1), norms__7__weight=torch.ones(1)),
    "of another shape": lambda: edited(first__weight=torch.ones(3, 3), scale=torch.ones(2)),
    "a vector for a scalar": lambda: edited(scale=torch.ones(1)),
    "a vector of no element for a scalar": lambda: edited(scale=torch.ones(0)),
    "for no module": lambda: edited(nothing__weight=torch.ones(1), nothing=torch.ones(1), none=torch.ones(1)),
    "extra state": lambda: edited(zz=torch.ones(1), _extra_state=torch.ones(1), first___extra_state=torch.ones(1)),
    "half": lambda: OrderedDict((key, value.half()) for key, value in Net().state_dict().items()),
    "of another order": lambda: OrderedDict(reversed(Net().state_dict().items())),
    "prefixed": lambda: OrderedDict((f"module.{key}", value) for key, value in Net().state_dict().items()),
    "nothing": OrderedDict,
}


@pytest.mark.parametrize("case", PLAIN)
def test_a_plain_model_takes_one_pass(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state_dict = PLAIN[case]()
    if not hasattr(state_dict, "_metadata"):
        state_dict._metadata = Net().state_dict()._metadata  # without which the norms' rules for old files apply
    if case.startswith("a vector of no") and torch.__version__ < "2.5":
        assert_agrees(Net, state_dict)  # torch 2.4 takes the first of its elements before it looks at shapes
        return
    assert passed(Net(), state_dict) is not None
    quick, slow = both_ways(Net(), state_dict, monkeypatch)
    assert quick == slow
    assert list(quick.filled) == list(slow.filled)
    assert_agrees(Net, state_dict, untouched=True)


def without_metadata(state_dict: Any) -> Any:
    return dict(state_dict)


def with_metadata(local: Any) -> Any:
    state_dict = Net().state_dict()
    state_dict._metadata["first"] = local  # type: ignore[attr-defined]
    return state_dict


class Text(str):
    __slots__ = ()


GIVEN_UP: dict[str, Any] = {
    "no tensor": lambda: edited(scale=1),
    "sparse": lambda: edited(first__weight=torch.ones(3, 2).to_sparse()),
    "without values": lambda: edited(first__bias=torch.ones(3, device="meta")),
    "an old norm": lambda: without_metadata(edited(norms__0__num_batches_tracked=None)),
    "an old instance norm": lambda: without_metadata(edited(norms__1__running_mean=torch.ones(3))),
    "a version that is none": lambda: with_metadata({"version": "2"}),
    "more metadata": lambda: with_metadata({"version": 1, "assign_to_params_buffers": True}),
    "a key that is no plain text": lambda: OrderedDict((Text(key), item) for key, item in Net().state_dict().items()),
}


@pytest.mark.parametrize("case", GIVEN_UP)
def test_what_more_decides_on_is_given_up(case: str) -> None:
    assert passed(Net(), GIVEN_UP[case]()) is None
    assert passed(Net(), Net().state_dict()) is not None


def test_a_tensor_that_torch_has_to_be_asked_about_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "one_pass", lambda *_: pytest.fail("taken for plain"))
    assert_agrees(Net, edited(first__bias=torch.inference_mode()(torch.ones)(3)))


def test_overlapping_memory_is_given_up() -> None:
    model = Net()
    overlapping = model.state_dict()
    overlapping["first.weight"] = model.first.weight.detach().as_strided((3, 2), (1, 3))
    assert passed(model, overlapping) is None
    assert passed(Net(), overlapping) is not None


def hooked(model: Net) -> None:
    model.tied._register_load_state_dict_pre_hook(lambda *_: None)


def dotted(model: Net) -> None:
    model._modules["a.b"] = nn.Linear(1, 1)


def extra(model: Net) -> None:
    model.first._parameters["_extra_state"] = nn.Parameter(torch.ones(1))


def of_a_class(model: Net) -> None:
    class Mine(torch.Tensor):
        pass

    model.register_buffer("mine", torch.ones(2).as_subclass(Mine))


@pytest.mark.parametrize("change", [hooked, dotted, extra, of_a_class])
def test_a_model_with_more_to_it_is_given_up(change: Any) -> None:
    model = Net()
    change(model)
    assert passed(model, model.state_dict()) is None


def test_a_tree_too_deep_for_torch_is_given_up() -> None:
    model: nn.Module = nn.Linear(1, 1)
    for _ in range(20):
        model = nn.Sequential(model)
    tree, checkpoint = extract(model), checkpoint_of(model.state_dict())
    assert one_pass(tree, checkpoint, frozenset(), 21) is not None
    assert one_pass(tree, checkpoint, frozenset(), 20) is None


def test_sources_name_the_file_of_each_tensor() -> None:
    model = nn.Linear(2, 1)
    entries = {
        "weight": TensorInfo("float32", (1, 2), storage=Storage("0", "a.safetensors", 0, 8)),
        "bias": TensorInfo("float32", (1,), storage=Storage("0", "b.safetensors", 0, 4)),
    }
    checkpoint = type(checkpoint_of({}))("index.json", "sharded safetensors", entries)
    matched = one_pass(extract(model), checkpoint, frozenset(), 500)
    assert matched is not None
    assert [item.sources for item in matched.filled.values()] == [
        (("a.safetensors", "weight"),),
        (("b.safetensors", "bias"),),
    ]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@given(recipe=recipes(), data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
def test_any_model_that_takes_one_pass(recipe: dict[str, Any], data: st.DataObject) -> None:
    recipe.pop("hooks", None)
    state_dict = data.draw(state_dicts(made(recipe)))
    model = made(recipe)
    if passed(model, state_dict) is not None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            quick, slow = both_ways(model, state_dict, monkeypatch)
        assert quick == slow
        assert list(quick.filled) == list(slow.filled)
