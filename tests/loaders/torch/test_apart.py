"""What is tried in a process of its own, and what is said where that cannot be had."""

from __future__ import annotations

import errno
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.generators import generators_kept
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch import forked as apart
from ckptdiff.loaders.torch.answer import error_message, loads
from ckptdiff.loaders.torch.restarts import ModelValuesNeeded
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from tests.loaders.torch import test_beyond_copies as beyond
from tests.loaders.torch.oracle import torch_says

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be split off here")


def answer(model: nn.Module, given: Any, assign: bool = False) -> Outcome:
    return compare(extract(model), checkpoint_of(given), assign=assign)


def agrees(ours: Outcome, model: nn.Module, given: Any, assign: bool = False) -> bool:
    theirs = torch_says(model, given, False, assign)
    lists = theirs.missing is None or [list(ours.problem_keys("missing")), list(ours.problem_keys("unexpected"))] == [
        theirs.missing,
        theirs.unexpected,
    ]
    return lists and error_message(ours, strict=False) == theirs.error


# A process apart


@needs_fork
def test_what_is_done_apart_is_done_to_copies() -> None:
    values = [1]
    tensor = torch.zeros(2)

    def work() -> tuple[int, bool, float]:
        values.append(2)
        tensor.fill_(3)
        return len(values), values is here, tensor.sum().item()

    here = values
    state = random.getstate()
    assert apart.run(work, 20) == (2, True, 6.0)
    assert values == [1]
    assert tensor.tolist() == [0, 0]
    assert apart.run(random.random, 20) == random.random()
    random.setstate(state)


@needs_fork
def test_what_raises_apart_raises_here() -> None:
    def work() -> None:
        raise ModelValuesNeeded("a.", "some.Class")

    with pytest.raises(ModelValuesNeeded, match=r"^a \(some.Class\)$"):
        apart.run(work, 20)


@needs_fork
@pytest.mark.parametrize(
    ("work", "why"),
    [
        (lambda: os._exit(0), "ended its process"),
        (lambda: os.abort(), "ended its process"),
        (lambda: threading.Event().wait(), "in time"),
        (lambda: lambda: 1, "could not be passed on"),
    ],
)
def test_an_answer_that_never_comes(work: Callable[[], Any], why: str) -> None:
    with pytest.raises(apart.Lost, match=why):
        apart.run(work, 0.5 if "time" in why else 20)


@needs_fork
def test_what_would_be_seen_by_others_is_not_tried(tmp_path: Path) -> None:
    assert apart.hindrance([torch.zeros(2), torch.zeros(2, device="meta")], 0) == ""
    assert "shares" in apart.hindrance([torch.zeros(2).share_memory_()], 0)
    array = np.memmap(tmp_path / "values", np.float32, "w+", shape=(4,))
    assert "shares" in apart.hindrance([torch.from_numpy(array)], 0)
    assert "memory" in apart.hindrance([], 1 << 60)
    assert "split off" in apart.run(lambda: apart.hindrance([], 0), 20)


# Where nothing can be tried apart


def no_process() -> int:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


@pytest.fixture(params=["said at once", "found when forking"])
def alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "said at once":
        monkeypatch.setattr(apart, "hindrance", lambda *_: "no process can be split off here")
    else:
        monkeypatch.setattr(os, "fork", no_process)


# What runs there on copies and acts on what they share with the model.
ACTS = {"writing_to_a_global_model", "a_thread_by_the_lowest_module"}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", sorted(set(beyond.CASES) - ACTS))
def test_nothing_is_wrong_without_a_doubt(name: str) -> None:
    model, given = beyond.CASES[name]()
    before = beyond.generators()
    ours = answer(model, given, assign := name in beyond.ASSIGN)
    assert beyond.generators() == before
    model, given = beyond.CASES[name]()
    assert ours.doubts or agrees(ours, model, given, assign)


# Patches, by whomever


def plain_copy(self: Any, other: Any, *_: Any) -> Any:
    raise ValueError("nothing is copied today")


def no_parameters(cls: Any, *_: Any, **__: Any) -> Any:
    raise ValueError("no parameters today")


def blind(_: Any) -> bool:
    return False


def loads_nothing(self: Any, *_: Any, **__: Any) -> Any:
    return None


def adds_a_key(self: Any, given: Any, prefix: str, local: Any, strict: bool, missing: Any, *_: Any) -> None:
    missing.append(prefix + "patched")


class Wrapped:
    def __init__(self, *_: Any) -> None:
        raise ValueError("no lists today")


PATCHES: list[tuple[Any, str, Any, bool]] = [
    (nn.Module, "_load_from_state_dict", adds_a_key, False),
    (nn.Linear, "_load_from_state_dict", adds_a_key, False),
    (torch.Tensor, "copy_", plain_copy, False),
    (nn.Parameter, "copy_", plain_copy, False),
    (nn.Parameter, "__new__", no_parameters, True),
    (torch.Tensor, "size", loads_nothing, False),
    (torch.Tensor, "requires_grad_", plain_copy, True),
    (torch.Tensor, "shape", property(lambda _: torch.Size([9])), False),
    (torch.overrides, "is_tensor_like", blind, False),
    (nn.parameter, "is_lazy", lambda _: True, False),
    (nn.modules.module, "_IncompatibleKeys", Wrapped, False),
    (nn.Module, "__setattr__", plain_copy, True),
    (nn.Linear, "__setattr__", plain_copy, True),
    (
        nn.Linear,
        "__getattribute__",
        lambda self, name: {} if name == "_buffers" else object.__getattribute__(self, name),
        False,
    ),
]


@needs_fork
@pytest.mark.parametrize(("place", "name", "value", "assign"), PATCHES)
def test_what_is_put_in_the_place_of_torchs_own(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, value: Any, assign: bool
) -> None:
    model, given = beyond.pair()
    given["b.bias"] = torch.zeros(5)
    with monkeypatch.context() as patched:
        patched.setattr(place, name, value, raising=False)
        ours = answer(model, given, assign)
        told = error_message(ours, strict=False), ours.doubts
        theirs = torch_says(model, given, False, assign).error
    assert told[1] or told[0] == theirs


def test_a_loader_in_the_place_of_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = beyond.pair()
    monkeypatch.setattr(nn.Module, "load_state_dict", loads_nothing)
    ours = answer(model, given)
    assert loads(ours)
    assert any("nn.Module.load_state_dict has been replaced, by loads_nothing" in doubt for doubt in ours.doubts)


@needs_fork
def test_a_hook_on_the_registration_of_all_parameters() -> None:
    def hook(module: nn.Module, name: str, parameter: Any) -> None:
        raise ValueError("not registered")

    model, given = beyond.pair()
    handle: Any = nn.modules.module.register_module_parameter_registration_hook(hook)
    try:
        assert agrees(answer(model, given, assign=True), model, given, assign=True)
    finally:
        handle.remove()


@needs_fork
def test_modes_around_everything() -> None:
    model, given = beyond.pair()
    with beyond.Mode():
        ours = answer(model, given)
        told = torch_says(model, given, False).error
    assert ours.doubts or error_message(ours, strict=False) == told


# Random generators


@needs_fork
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_the_numbers_of_another_thread_are_not_drawn_again() -> None:
    torch.manual_seed(0)
    expected = [torch.rand(1).item() for _ in range(400)]
    torch.manual_seed(0)
    drawn: list[float] = []
    go, stop = threading.Event(), threading.Event()

    def draw() -> None:
        go.wait()
        while len(drawn) < 400 and not stop.is_set():
            drawn.append(torch.rand(1).item())

    models = [nn.utils.weight_norm(nn.Linear(2, 2)) for _ in range(2)]
    hooked, given = beyond.pair()
    beyond.pre(hooked, lambda state, *_: state.update({"extra": torch.randn(2)}))
    attention = nn.MultiheadAttention(4, 2)
    torch.manual_seed(0)
    thread = threading.Thread(target=draw)
    thread.start()
    go.set()
    try:
        for _ in range(3):
            for model in models:
                answer(model, model.state_dict())
            answer(attention, attention.state_dict())
            answer(hooked, given)
    finally:
        thread.join(60)
        stop.set()
    assert drawn == expected


def test_all_generators_are_put_back() -> None:
    before = beyond.generators()
    with generators_kept():
        torch.rand(3), random.random(), np.random.rand(3)
    assert beyond.generators() == before


# torch.distributed


@pytest.fixture(scope="module")
def group() -> Iterator[Any]:
    distributed: Any = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        yield distributed
        distributed.destroy_process_group()


def sharded(name: str) -> nn.Module:
    fsdp: Any = pytest.importorskip("torch.distributed.fsdp")
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as wrapper

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), inner)
    if name == "checkpoint wrapper":
        wrapped: Any = wrapper.checkpoint_wrapper
        model[2] = wrapped(inner)
    elif name == "DDP":
        return nn.parallel.DistributedDataParallel(model)
    elif name.startswith("FSDP1"):
        flat = name == "FSDP1 flat"
        return fsdp.FullyShardedDataParallel(model, use_orig_params=not flat, device_id=torch.device("cpu"))
    elif name == "DTensor":
        tensor: Any = torch.distributed.tensor
        inner[0].weight = nn.Parameter(tensor.distribute_tensor(inner[0].weight, mesh))
    else:
        if not hasattr(fsdp, "fully_shard"):
            pytest.skip("this torch has no fully_shard")
        if name == "FSDP2 on meta":
            model = model.to("meta")
        fsdp.fully_shard(model[2], mesh=mesh)
        if name != "FSDP2 below":
            fsdp.fully_shard(model, mesh=mesh)
    return model


def short_state_of(model: nn.Module) -> Any:
    """Structure, tensors, their versions and the hooks."""
    parts: list[Any] = []
    for name, module in model.named_modules():
        parts.append((name, type(module), list(module._modules), len(module._load_state_dict_post_hooks)))
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                if tensor is not None:
                    local = getattr(tensor, "_local_tensor", tensor)
                    parts.append(
                        (key, id(tensor), tensor._version, local._version, local.shape, local.is_meta or local.tolist())
                    )
    return parts


@needs_fork
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "FSDP2", "FSDP2 below", "FSDP2 on meta", "FSDP1", "FSDP1 flat", "checkpoint wrapper", "DDP", "DTensor",
    ],
)  # fmt: skip
def test_what_is_sharded_and_wrapped(group: Any, name: str, assign: bool) -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 4))).state_dict()
    own = {key: value.detach().clone() for key, value in sharded(name).state_dict().items()}
    for given in (plain, own, dict(list(plain.items())[1:]), {**plain, "0.weight": torch.zeros(7)}):
        model = sharded(name)
        before = short_state_of(model)
        ours = answer(model, given, assign)
        assert short_state_of(model) == before
        assert agrees(ours, model, given, assign)
        # One flat parameter is made into others while it is loaded, as no copy of it is.
        assert bool(ours.doubts) == (name == "FSDP1 flat")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("alone")
def test_code_of_several_ranks_is_not_run_where_it_could_reach_them(group: Any) -> None:
    model = sharded("FSDP2")
    before = short_state_of(model)
    ours = answer(model, nn.Sequential(nn.Linear(4, 4)).state_dict(), assign=True)
    assert short_state_of(model) == before
    assert any("is part of torch.distributed" in doubt for doubt in ours.doubts)
