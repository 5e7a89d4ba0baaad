"""A state dict is found wherever it lies in what was saved, and what cannot be one is called what it is."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError
from tests.formats.oracle import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 1)
        self.spare = [nn.Linear(5, 5)]
        self.register_buffer("cache", torch.ones(1), persistent=False)

    def forward(self, x):  # type: ignore[no-untyped-def]  # which torch.fx would pickle
        return self.head(self.encoder(x))


class Agent:
    """As reinforcement learning saves itself."""

    def __init__(self) -> None:
        self.policy = Net()
        self.target = Net()
        self.optimizer = stepped(self.policy)
        self.w = torch.ones(2)
        self.replay = [np.ones(3)] * 5

    def act(self) -> None:
        raise AssertionError("nothing in a checkpoint runs")

    def __setstate__(self, state: object) -> None:
        self.__dict__.update(state)  # type: ignore[call-overload]


@dataclasses.dataclass
class State:
    model: dict[str, torch.Tensor]
    step: int = 0


@dataclasses.dataclass(slots=True)
class SlottedState:
    model: dict[str, torch.Tensor]
    step: int = 0


class Pair(NamedTuple):
    model: dict[str, torch.Tensor]
    step: int


class Slots:
    __slots__ = ("net",)


class Rows(list[Any]):
    pass


class Table(dict[str, Any]):
    pass


class Extra(nn.Module):
    def get_extra_state(self) -> object:
        return b"state"

    def set_extra_state(self, state: object) -> None:
        assert state == b"state"


def stepped(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def stored(value: object, tmp_path: Path) -> Path:
    path = tmp_path / "file.pth"
    torch.save(value, path)
    return path


def refusal(value: object, tmp_path: Path, key: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(stored(value, tmp_path), key=key)
    assert "\n" not in caught.value.message + caught.value.hint
    return f"{caught.value.message} | {caught.value.hint}"


def slots() -> Slots:
    value = Slots()
    value.net = Net()  # type: ignore[attr-defined]
    return value


# What is saved, where the state dict is found without --key, and the same walk in Python.
HOLDERS: dict[str, tuple[Any, str, Any]] = {
    "an agent": (Agent, "policy", lambda value: value.policy),
    "a dataclass": (lambda: State(Net().state_dict()), "model", lambda value: value.model),
    "one with slots": (lambda: SlottedState(Net().state_dict()), "model", lambda value: value.model),
    "a namedtuple": (lambda: Pair(Net().state_dict(), 3), "0", lambda value: value[0]),
    "an object with slots": (slots, "net", lambda value: value.net),
    "a list subclass": (lambda: Rows([1, Net()]), "1", lambda value: value[1]),
    "a dict subclass": (lambda: Table(Net().state_dict()), "", lambda value: value),
    "a namespace": (lambda: types.SimpleNamespace(net=Net()), "net", lambda value: value.net),
    "arguments": (lambda: argparse.Namespace(model=Net().state_dict()), "model", lambda value: value.model),
    "a deque": (lambda: collections.deque([Net().state_dict()]), "0", lambda value: value[0]),
    "a defaultdict": (lambda: collections.defaultdict(dict, net=Net().state_dict()), "net", lambda value: value["net"]),
    "a partial": (lambda: functools.partial(print, Net()), "1.0", lambda value: value.args[0]),
    "an ensemble": (lambda: {0: Net().state_dict(), 1: {}}, "0", lambda value: value[0]),
    "a traced module": (lambda: torch.fx.symbolic_trace(Net()), "", lambda value: value),
    "parallel": (lambda: nn.DataParallel(Net()), "", lambda value: value),
}


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("legacy", [False, True])
def test_it_is_found_in(name: str, legacy: bool, tmp_path: Path) -> None:
    make, where, walk = HOLDERS[name]
    path = tmp_path / "file.pth"
    torch.save(make(), path, _use_new_zipfile_serialization=not legacy)
    checkpoint = read(path)
    assert checkpoint.state_dict_key == where
    found = walk(torch.load(path, weights_only=False))
    assert_same(checkpoint, found if isinstance(found, dict) else found.state_dict(keep_vars=True))


@pytest.mark.parametrize(
    ("key", "walk"),
    [
        ("policy.encoder", lambda agent: agent.policy.encoder),
        ("policy.encoder.1", lambda agent: agent.policy.encoder[1]),
        ("target", lambda agent: agent.target),
        ("target.spare.0", lambda agent: agent.target.spare[0]),
    ],
)
def test_a_key_leads_into_objects_and_modules(key: str, walk: Any, tmp_path: Path) -> None:
    path = stored(Agent(), tmp_path)
    checkpoint = read(path, key=key)
    module = walk(torch.load(path, weights_only=False))
    assert_same(checkpoint, module.state_dict(keep_vars=True))
    assert ckptdiff.compare(module, path, key=key).loads()


def test_what_else_can_be_reached_is_listed_with_counts(tmp_path: Path) -> None:
    checkpoint = read(stored(Agent(), tmp_path))
    assert [(other.key, other.tensors) for other in checkpoint.alternatives] == [
        ("policy.spare.0", 2),
        ("target", 9),
        ("target.spare.0", 2),
    ]
    assert "none has a usual name: policy, target" in checkpoint.warnings[0]
    assert checkpoint.container["optimizer"] == "torch.optim.adam.Adam"
    said = refusal(Net(), tmp_path, "encodr")
    assert "nothing at the key 'encodr'" in said
    assert "'spare.0' (2 tensors), 'encoder' (7 tensors), 'head' (2 tensors)" in said


def test_an_optimizers_state_is_reached_by_key_alone(tmp_path: Path) -> None:
    state = stepped(Net()).state_dict()
    for value, key in ((state, ""), ({"epoch": 1, "optimizer": state}, "optimizer."), ([state], "0.")):
        said = refusal(value, tmp_path)
        assert "holds an optimizer's state, not a model's" in said
        assert f"'{key}state.0' (3 tensors), '{key}state.1' (3 tensors)" in said
        assert "an optimizer's state" in refusal(value, tmp_path, key.rstrip("."))
        assert list(read(stored(value, tmp_path), key=f"{key}state.2").entries) == ["step", "exp_avg", "exp_avg_sq"]
    assert "an optimizer's state" in refusal(torch.optim.SGD(Net().parameters(), lr=0.1), tmp_path)


REFUSED: dict[str, Any] = {
    "holds a list of 3 tensors without names": lambda: [torch.ones(1)] * 3,
    "holds a tuple of 1 tensor without names": lambda: (torch.ones(1),),
    "holds a list of 6 tensors without names": lambda: list(Net().parameters()),
    "pairs of a name and a tensor, which dict(…) makes a state dict": lambda: list(Net().state_dict().items()),
    "a list of 2 with 2 tensors in it (1 at '0', 1 at '1.a')": lambda: [[torch.ones(1)], {"a": [torch.ones(2)]}],
    "2 tensors whose keys are no text": lambda: {0: torch.ones(1), 1: torch.ones(1)},
    "holds 2 numpy values and no tensors": lambda: [np.ones(2), {"b": np.float64(3)}],
    "holds a single tensor": lambda: torch.ones(1),
    "a module of the class torch.nn.modules.activation.ReLU, and no tensors": nn.ReLU,
    "an object of the class types.SimpleNamespace with 1 tensor in it": lambda: types.SimpleNamespace(w=torch.ones(1)),
    "a pickle without tensors (dict of 1)": lambda: {"a": 1},
    "a pickle without tensors (str 'hello')": lambda: "hello",
    "a storage, which is no tensor": lambda: {"a": torch.ones(1).untyped_storage()},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_state_dict_is_named(what: str, tmp_path: Path) -> None:
    key = "a" if "storage" in what else None
    assert what in refusal(REFUSED[what](), tmp_path, key)


def test_a_state_dict_of_objects_alone_is_one(tmp_path: Path) -> None:
    model = nn.Sequential(Extra())
    for value, key in ((model.state_dict(), ""), ({"epoch": 1, "model": model.state_dict()}, "model")):
        path = stored(value, tmp_path)
        assert read(path).state_dict_key == key
        report = ckptdiff.compare(model, path)
        assert (report.loads(), report.verdict, report.missing_keys) == (True, "pass", [])
        assert ckptdiff.compare(nn.Sequential(nn.Linear(1, 1)), path).verdict == "fail"
    nothing = read(stored(nn.ReLU().state_dict(), tmp_path))
    assert (nothing.entries, nothing.metadata) == ({}, {"": {"version": 1}})
    assert ckptdiff.compare(nn.ReLU(), stored(nn.ReLU().state_dict(), tmp_path)).empty_side == "model"


def test_numpy_values_in_a_state_dict_are_named(tmp_path: Path) -> None:
    value = {"weight": torch.ones(1, 1), "bias": np.float32(1), "other": np.ones(2)}
    path = stored(value, tmp_path)
    assert "numpy values beside its tensors ('bias', 'other')" in read(path).warnings[0]
    message = ckptdiff.compare(nn.Linear(1, 1), path).error_message()
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(1, 1).load_state_dict(torch.load(path, weights_only=False))
    assert message == str(caught.value)


def test_a_hole_deep_inside_costs_no_more_than_it_holds(tmp_path: Path) -> None:
    """Many modules that share their children: each is counted, with a bound on all of it."""
    inner = nn.Sequential(*(nn.ReLU() for _ in range(300)))
    value = []
    for _ in range(300):
        module = nn.Sequential()
        module._modules = inner._modules
        value.append(module)
    assert "no tensors" in refusal(Rows(value), tmp_path) or "without tensors" in refusal(value, tmp_path)
    loop: list[Any] = []
    loop.append({"again": loop})
    assert "without tensors (list of 1)" in refusal(loop, tmp_path)


@pytest.mark.parametrize("key", ["policy", "target.encoder"])
def test_a_member_is_written(key: str, tmp_path: Path) -> None:
    path = stored(Agent(), tmp_path)
    ckptdiff.rewrite(path, tmp_path / "out.pth", key=key)
    module = functools.reduce(getattr, key.split("."), torch.load(path, weights_only=False))
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(written) == list(module.state_dict())
    assert all(torch.equal(written[name], value) for name, value in module.state_dict().items())
    fitting = Net() if key == "policy" else Net().encoder
    ckptdiff.filter(fitting, path, tmp_path / "fits.safetensors", key=key)
    assert ckptdiff.compare(fitting, tmp_path / "fits.safetensors").loads()
