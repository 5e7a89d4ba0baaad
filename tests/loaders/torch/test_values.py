"""Values of every kind into tensors of every kind."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.torch import usual_copies
from ckptdiff.loaders.torch.answer import error_message
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from tests.loaders.torch.oracle import assert_agrees


class Sub(torch.Tensor):
    """A subclass with nothing of its own."""


class Stubborn(torch.Tensor):
    """A subclass that refuses to be copied, from or into."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_:
            raise TypeError("no copy", 42)
        return super().__torch_function__(func, types, args, kwargs)


class Secretive(torch.Tensor):
    """A subclass that does not tell its shape."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.shape.__get__:  # type: ignore[attr-defined]
            raise LookupError("a secret")
        return super().__torch_function__(func, types, args, kwargs)


class Alike:
    """Not a tensor, and taken for one."""

    def __init__(self, shape: Any) -> None:
        if shape is not None:
            self.shape = shape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented

    def size(self) -> str:
        return "no size"


def made_for_inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(2, 2)


MAKE: dict[str, Callable[[], Any]] = {
    "plain": lambda: torch.zeros(2, 2),
    "parameter": lambda: nn.Parameter(torch.zeros(2, 2)),
    "grown": lambda: nn.Parameter(torch.zeros(2, 2)) * 2,
    "view": lambda: torch.zeros(8)[2:6].view(2, 2),
    "expanded": lambda: torch.zeros(1, 2).expand(2, 2),
    "transposed": lambda: torch.zeros(2, 2).t(),
    "conjugate": lambda: torch.zeros(2, 2, dtype=torch.complex64).conj(),
    "sub": lambda: torch.zeros(2, 2).as_subclass(Sub),
    "stubborn": lambda: torch.zeros(2, 2).as_subclass(Stubborn),
    "secretive": lambda: torch.zeros(2, 2).as_subclass(Secretive),
    "coo": lambda: torch.zeros(2, 2).to_sparse(),
    "csr": lambda: torch.eye(2).to_sparse_csr(),
    "mkldnn": lambda: torch.zeros(2, 2).to_mkldnn() if torch.backends.mkldnn.is_available() else torch.zeros(2, 2),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.qint8),
    "per channel": lambda: torch.quantize_per_channel(
        torch.zeros(2, 2), torch.ones(2), torch.zeros(2).int(), 0, torch.quint8
    ),
    "meta": lambda: torch.zeros(2, 2, device="meta"),
    "meta parameter": lambda: nn.Parameter(torch.zeros(2, 2, device="meta")),
    "inference": lambda: made_for_inference(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
    "lazy": lambda: UninitializedParameter(),
    "lazy buffer": lambda: UninitializedBuffer(),
    "integer": lambda: torch.zeros(2, 2, dtype=torch.int64),
    "boolean": lambda: torch.zeros(2, 2, dtype=torch.bool),
    "complex": lambda: torch.zeros(2, 2, dtype=torch.complex64),
    "eight bits": lambda: torch.zeros(2, 2).to(torch.float8_e4m3fn),
    "bits": lambda: torch.zeros(2, 2, dtype=torch.uint8).view(torch.bits8),
    "scalar": lambda: torch.zeros(()),
    "one": lambda: torch.zeros(1),
    "two": lambda: torch.zeros(2),
    "empty": lambda: torch.zeros(0),
    "one by one": lambda: torch.zeros(1, 1),
    "alike": lambda: Alike(torch.Size([2, 2])),
    "alike, a tuple": lambda: Alike((2, 2)),
    "alike, a list": lambda: Alike([2, 2]),
    "alike, other": lambda: Alike((3,)),
    "alike, no shape": lambda: Alike(None),
    "a class": lambda: torch.Tensor,
    "array": lambda: np.zeros((2, 2)),
    "none": lambda: None,
    "number": lambda: 1.0,
    "storage": lambda: torch.zeros(2).untyped_storage(),
}
TARGETS = [
    "plain",
    "parameter",
    "view",
    "expanded",
    "transposed",
    "conjugate",
    "sub",
    "stubborn",
    "coo",
    "csr",
    "mkldnn",
    "quantized",
    "per channel",
    "meta",
    "meta parameter",
    "inference",
    "nested",
    "lazy",
    "lazy buffer",
    "integer",
    "boolean",
    "complex",
    "eight bits",
    "bits",
    "scalar",
    "one",
    "two",
    "empty",
    "one by one",
]


@pytest.fixture(autouse=True)
def _prototypes() -> Iterator[None]:
    """torch warns, once a process, that some kinds of tensors are prototypes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def holder(value: torch.Tensor) -> nn.Module:
    module = nn.Module()
    if isinstance(value, nn.Parameter):
        module._parameters["x"] = value
    else:
        module._buffers["x"] = value
    module.register_buffer("after", torch.zeros(1))
    return module


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("assign", [False, True])
def test_any_value_into_any_tensor(target: str, assign: bool) -> None:
    for make in MAKE.values():
        compared = assert_agrees(lambda: holder(MAKE[target]()), {"x": make()}, assign)
        assert compared.raised is not None or compared.problem_keys("missing") == ("after",)


@pytest.mark.parametrize("assign", [False, True])
def test_any_value_into_any_tensor_by_swapping(assign: bool) -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        for target in ("plain", "parameter", "sub", "integer", "scalar", "expanded", "meta"):
            for make in MAKE.values():
                assert_agrees(lambda target=target: holder(MAKE[target]()), {"x": make()}, assign)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_swapping_what_something_else_holds_on_to() -> None:
    import weakref

    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        kept: list[Any] = []

        def watched() -> nn.Module:
            model = nn.Linear(2, 2)
            kept.append(weakref.ref(model.weight))
            return model

        ours = assert_agrees(watched, nn.Linear(2, 2).state_dict())
        assert "weakref" in str(error_message(ours))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_any_dtype_into_any_other_is_known_without_trying() -> None:
    names = [name for name in usual_copies.COPYABLE_DTYPES if hasattr(torch, name)]
    for source, target in itertools.product(names, names):
        for size in (0, 2):
            into = torch.empty(size, dtype=getattr(torch, target))
            into.copy_(torch.empty(size, dtype=getattr(torch, source)))  # raises where it cannot
    model = nn.Module()
    for name in names:
        model.register_buffer("x_" + name, torch.empty(2, dtype=getattr(torch, name)))
    for source in names:
        assert_agrees(model, {"x_" + name: torch.empty(2, dtype=getattr(torch, source)) for name in names})


def test_values_that_overlap_the_models_own_memory() -> None:
    model = nn.Module()
    memory = torch.zeros(20)
    model.register_buffer("a", memory[:9].view(3, 3))
    model.register_buffer("b", memory[10:19].view(3, 3))
    own = {"a": model.a, "b": model.b}
    cases: list[dict[str, torch.Tensor]] = [
        own,
        {"a": model.a.t(), "b": model.b.t()},
        {"a": model.a.clone().t(), "b": model.b.detach()},
        {"a": memory[1:10].view(3, 3), "b": memory[:9].view(3, 3)},
        {"a": memory.as_strided((3, 3), (0, 1)), "b": memory.as_strided((3, 3), (1, 1))},
        {"a": model.a.view(torch.int32), "b": model.b.view(torch.int32).t()},
        {"a": memory[:1].expand(3, 3), "b": memory[10:13]},
    ]
    for state_dict in cases:
        for assign in (False, True):
            ours = compare(extract(model), checkpoint_of(state_dict), assign=assign)
            error = None
            try:
                nn.Module.load_state_dict(model, dict(state_dict), assign=assign)
            except RuntimeError as raised:
                error = str(raised)
            assert error_message(ours) == error
            assert not ours.doubts
            model._buffers.update(own)


def test_a_model_on_meta_takes_everything_and_one_in_memory_no_meta() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert_agrees(model, nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict())
    ours = assert_agrees(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), model.state_dict())
    assert "Cannot copy out of meta tensor" in str(error_message(ours, strict=False))
    assert_agrees(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), model.state_dict(), assign=True)


def test_a_nested_tensor_without_a_shape_of_its_own() -> None:
    model = holder(MAKE["jagged"]())
    for value in (torch.zeros(2, 2), model.x, MAKE["jagged"]()):
        assert_agrees(lambda: model, {"x": value})


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = nn.Linear(2, 2)
    real = nn.Linear(2, 2)
    assert_agrees(lambda: fake, real.state_dict())
    assert_agrees(real, fake.state_dict())
    assert_agrees(lambda: fake, fake.state_dict())


@pytest.mark.parametrize("name", ["", ".", "a.b", "a", "training", "forward"])
@pytest.mark.parametrize("kind", ["_parameters", "_buffers"])
def test_names_that_registration_refuses(name: str, kind: str) -> None:
    """They can be put past it, and assigning to them is refused, in words that differ between releases."""

    def make() -> nn.Module:
        inner = nn.Module()
        getattr(inner, kind)[name] = nn.Parameter(torch.ones(2)) if kind == "_parameters" else torch.ones(2)
        return nn.ModuleDict({"inner": inner, "other": nn.Linear(1, 1)})

    for dtype in (torch.float32, torch.int64):
        state_dict = {"inner." + name: torch.zeros(2, dtype=dtype), "other.weight": torch.zeros(1, 1)}
        for assign in (False, True):
            assert_agrees(make, state_dict, assign, apart=True)
