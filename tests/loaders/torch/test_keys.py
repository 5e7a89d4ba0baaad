"""Keys, names, metadata and their order, without code of the modules' own."""

from __future__ import annotations

import enum
import sys
from collections import OrderedDict, UserDict, defaultdict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.torch.answer import error_message, loads
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from tests.loaders.torch.oracle import assert_agrees


class Net(nn.Module):
    """None children, None tensors, shared modules, tied and non-persistent tensors, lists and dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = None
        self.register_module("later", None)
        self.conv = nn.Conv2d(2, 3, 1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.instance = nn.InstanceNorm2d(3)
        self.tracked = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
        self.stateless = nn.BatchNorm1d(2, track_running_stats=False)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(OrderedDict(inner=self.conv, act=nn.ReLU()))])
        self.table = nn.ModuleDict({"a b": nn.Linear(1, 1), "ü": nn.Linear(1, 1, bias=False)})
        self.weights = nn.ParameterList([torch.zeros(2), torch.zeros(())])
        self.named = nn.ParameterDict({"x": torch.zeros(1), "y": nn.Parameter(torch.zeros(2, 3).t())})
        self.register_parameter("absent", None)
        self.register_buffer("none", None)
        self.register_buffer("scalar", torch.zeros((), dtype=torch.int64))
        self.register_buffer("temporary", torch.zeros(3), persistent=False)
        self.head = nn.Linear(2, 4, bias=False)
        self.head.weight = self.blocks[0].weight


AWKWARD = [
    "",
    ".",
    "..",
    "a",
    "conv",
    "conv.",
    "conv.weight.",
    "conv.weight.x",
    ".conv.weight",
    "conv..weight",
    "nothing.weight",
    "nothing",
    "later",
    "later.weight",
    "later.a.b",
    "_extra_state",
    "conv._extra_state",
    "conv._extra_state.x",
    "later._extra_state",
    "nowhere._extra_state",
    "absent",
    "none",
    "temporary",
    "blocks",
    "blocks.7.weight",
    "blocks.1.inner",
    "blocks.1.inner.weight.deep",
    "weights.2",
    "named.z",
    "module.conv.weight",
    "norm.num_batches_tracked.x",
    "instance.running_mean",
    "instance.running_var",
    "stateless.num_batches_tracked",
    "\n",
    "a\x1b[31m",
]


def net_and_dict() -> tuple[Net, dict[str, Any]]:
    torch.manual_seed(0)
    model = Net()
    return model, model.state_dict()


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("key", AWKWARD)
def test_a_key_in_an_awkward_place(key: str, metadata: bool) -> None:
    model, state_dict = net_and_dict()
    if not metadata:
        state_dict = dict(state_dict)
    state_dict[key] = torch.zeros(3)
    assert_agrees(model, state_dict)
    assert_agrees(model, {key: torch.zeros(3)})


def test_all_awkward_keys_at_once_shuffled() -> None:
    model, state_dict = net_and_dict()
    for key in AWKWARD:
        state_dict[key] = torch.zeros(3)
    for keys in (list(state_dict)[::-1], sorted(state_dict, key=lambda key: (len(key), key))):
        assert_agrees(model, {key: state_dict[key] for key in keys})


def test_every_key_missing_reshaped_or_of_another_kind_in_turn() -> None:
    _, state_dict = net_and_dict()
    model = Net
    for key, value in state_dict.items():
        assert_agrees(model, {other: value for other, value in state_dict.items() if other != key})
        others: list[Any] = [torch.zeros(9), torch.zeros(()), torch.zeros(1), torch.zeros(0), value.to(torch.complex64)]
        others += [None, 1, "text", np.zeros(3), [1.0], {"a": 1}, torch.float32, np.float64(1), enum.Enum, enum.auto]
        for other in others:
            assert_agrees(model, {**state_dict, key: other})


def test_old_versions_of_norms() -> None:
    model, state_dict = net_and_dict()
    counters = [key for key in state_dict if key.endswith("num_batches_tracked")]
    for version in (None, 0, 1, 1.5, 2, 3, True):
        for kept in (True, False):
            changed = OrderedDict((key, value) for key, value in state_dict.items() if kept or key not in counters)
            changed["instance.running_mean"] = torch.zeros(3)
            changed._metadata = {  # type: ignore[attr-defined]
                name: {} if version is None else {"version": version}
                for name in ("norm", "instance", "tracked", "stateless")
            }
            assert_agrees(model, changed)
    ours = assert_agrees(model, {key: state_dict[key] for key in state_dict if key not in counters})
    assert [key for key, item in ours.filled.items() if item.by == "rule"] == [
        "norm.num_batches_tracked",
        "tracked.num_batches_tracked",
    ]


def test_a_norm_alone_and_one_whose_counter_is_unusual() -> None:
    for norm in (nn.BatchNorm1d(2), nn.InstanceNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)):
        assert_agrees(norm, {})
        assert_agrees(norm, {"num_batches_tracked.x": torch.zeros(2), "running_mean": torch.zeros(2)})
    for counter in (
        torch.zeros(1),
        torch.zeros(2),
        torch.zeros((), device="meta"),
        torch.zeros(1, device="meta"),
        None,
    ):
        norm = nn.BatchNorm1d(2)
        norm.num_batches_tracked = counter
        assert_agrees(norm, {"weight": torch.zeros(2)})
    norm = nn.BatchNorm1d(2)
    del norm.num_batches_tracked
    assert_agrees(norm, {"weight": torch.zeros(2)})


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"": {}},
        {"conv": {"version": 1}},
        {"norm": {"version": "x"}},
        {"norm": {"version": [1]}},
        {"norm": None},
        {"conv": None},
        {"conv": 3},
        {"norm": []},
        [],
        "text",
        0,
        5,
        {"": None},
        {"norm": {"version": torch.tensor(1)}},
        OrderedDict({"norm": OrderedDict(version=1)}),
        defaultdict(dict),
        {"blocks.1.inner": {"assign_to_params_buffers": True}},
        {"conv": UserDict(version=1)},
    ],
)
@pytest.mark.parametrize("assign", [False, True])
def test_odd_metadata(metadata: Any, assign: bool) -> None:
    model, state_dict = net_and_dict()
    state_dict = OrderedDict(state_dict)
    del state_dict["norm.num_batches_tracked"]
    state_dict["scalar"] = torch.zeros((), dtype=torch.float32)
    state_dict._metadata = metadata  # type: ignore[attr-defined]
    assert_agrees(model, state_dict, assign)


def test_a_state_dict_that_was_assigned_before_goes_on_assigning() -> None:
    model, state_dict = net_and_dict()
    nn.Module.load_state_dict(Net(), state_dict, assign=True)  # leaves its mark in _metadata
    assert state_dict._metadata["conv"]["assign_to_params_buffers"]  # type: ignore[attr-defined]
    state_dict["conv.weight"] = torch.zeros(3, 2, 1, 1, dtype=torch.int64)
    ours = assert_agrees(model, state_dict)
    assert "Only Tensors of floating point" in str(error_message(ours))


class Text(str):
    """Nothing of its own."""


class Liar(str):
    """Says that it starts with anything."""

    def startswith(self, *_: Any) -> bool:
        return True


class Silent(str):
    """Cannot be split."""

    def split(self, *_: Any) -> Any:
        raise KeyError("split")


class Colour(str, enum.Enum):
    WEIGHT = "conv.weight"
    OTHER = "conv.other"


STRANGE: list[Any] = [
    1,
    None,
    b"conv.weight",
    ("conv", "weight"),
    1.5,
    Text("conv.weight"),
    Text("conv.extra"),
    Liar("norm"),
    Liar("x.y"),
    Silent("conv.weight"),
    Silent("other"),
    Colour.WEIGHT,
    Colour.OTHER,
    np.str_("conv.weight"),
    np.str_("conv.x"),
    frozenset(),
]


@pytest.mark.parametrize("key", STRANGE, ids=repr)
@pytest.mark.parametrize("place", ["first", "last", "alone"])
def test_keys_that_are_no_plain_strings(key: Any, place: str) -> None:
    model, state_dict = net_and_dict()
    if isinstance(key, str):
        state_dict.pop(str.__str__(key), None)
    value = torch.zeros(3, 2, 1, 1)
    given = {
        "first": {key: value, **state_dict},
        "last": {**state_dict, "bad": value, key: value},
        "alone": {key: value},
    }
    assert_agrees(model, given[place])
    assert_agrees(nn.Linear(1, 1), given[place])
    assert_agrees(nn.ReLU(), given[place])


class Odd(dict[Any, Any]):
    """A dict whose values depend on how one asks."""

    def __getitem__(self, key: Any) -> Any:
        return torch.zeros(4, 4)


def test_mappings_of_all_kinds() -> None:
    model, state_dict = net_and_dict()
    for made in (UserDict(state_dict), MappingProxyType(state_dict), defaultdict(int, state_dict), Odd(state_dict)):
        assert_agrees(model, made)


def odd_modules() -> list[nn.Module]:
    def module(children: dict[Any, Any], parameters: dict[Any, Any]) -> nn.Module:
        made = nn.Module()
        made._modules.update(children)
        made._parameters.update({name: nn.Parameter(torch.zeros(size)) for name, size in parameters.items()})
        return made

    leaf = nn.Linear(1, 1)
    return [
        module({"a.b": leaf}, {"c.d": 1}),
        module({"a": module({"b": nn.Linear(2, 2)}, {}), "a.b": leaf}, {}),
        module({"a.b": leaf, "a": module({"b": nn.Linear(2, 2)}, {"b.weight": 3})}, {"a.b.weight": 4}),
        module({"": leaf}, {"": 1}),
        module({"": module({"": leaf}, {"": 2})}, {"x": 1}),
        module({"a.b": None, "a": module({}, {"c": 1})}, {}),
        module({".": leaf, "..": None}, {".": 2, "..": 3}),
        module({"a": leaf}, {"a": 2}),
        module({"_extra_state": leaf}, {"x": 1}),
        module({}, {"_extra_state": 2}),
        module({1: leaf}, {}),
        module({"a": leaf}, {2: 1}),
        module({"norm.x": nn.BatchNorm1d(2), "norm": nn.InstanceNorm1d(2)}, {}),
    ]


@pytest.mark.parametrize("index", range(len(odd_modules())))
def test_odd_names(index: int) -> None:
    model = odd_modules()[index]
    names = [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "a.b.weight",
        "a.b.bias",
        "a.b.c",
        "a.c",
        "c.d",
        "a.weight",
        ".weight",
        "..weight",
        "._extra_state",
        "_extra_state",
        "_extra_state.weight",
        "x",
        "norm.x.running_mean",
        "norm.running_mean",
    ]
    for size in (1, 2):
        assert_agrees(model, {name: torch.zeros(size) for name in names})
        assert_agrees(model, {name: torch.zeros(size, size) for name in reversed(names)})
        for name in names:
            assert_agrees(model, {name: torch.zeros(size, 1)})


def chain(depth: int) -> nn.Module:
    model: nn.Module = nn.Linear(1, 1)
    for _ in range(depth):
        outer = nn.Module()
        outer.a = model
        model = outer
    return model


def test_a_model_too_deep_for_torch_is_not_said_to_load() -> None:
    ours = compare(extract(chain(400)), checkpoint_of({}))
    assert not ours.doubts
    assert len(ours.problem_keys("missing")) == 2
    ours = compare(extract(chain(3 * sys.getrecursionlimit())), checkpoint_of({}))
    assert not loads(ours, strict=False)
    assert str(error_message(ours)).startswith("RecursionError")
    assert ours.doubts


def test_ignored_keys_are_those_below_none() -> None:
    model, state_dict = net_and_dict()
    ours = assert_agrees(model, {**state_dict, "later.weight": torch.zeros(1), "later.a.b": torch.zeros(1)})
    assert ours.unused == {"later.weight": "ignored", "later.a.b": "ignored"}
    assert loads(ours)
