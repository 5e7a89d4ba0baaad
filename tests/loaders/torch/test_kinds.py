"""Tensors of every kind in a file, into those of every kind: what torch does on values, however a model was built."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckptdiff.checkpoint import read
from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch.answer import error_message
from ckptdiff.loaders.torch.ask import ask
from ckptdiff.loaders.torch.value_check import check_values
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from ckptdiff.requests import ModelRequest
from ckptdiff.tensors import DTYPES as KNOWN_DTYPES
from tests.loaders.torch.oracle import torch_says

pytestmark = pytest.mark.filterwarnings("ignore")  # deprecated and experimental kinds are meant

Make = Callable[[], torch.Tensor]
SHAPE = (2, 4)
DTYPES = sorted(
    {
        value
        for value in vars(torch).values()
        if isinstance(value, torch.dtype) and str(value).removeprefix("torch.") in KNOWN_DTYPES
    },
    key=str,
)


def dense(dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(8 * dtype.itemsize, dtype=torch.uint8).view(dtype).view(SHAPE)


def quantized(dtype: torch.dtype) -> torch.Tensor:
    return torch.quantize_per_tensor(torch.zeros(SHAPE), 0.5, 0, dtype)


def per_channel(dtype: torch.dtype, floats: bool) -> torch.Tensor:
    points = torch.zeros(2, dtype=torch.float32 if floats else torch.int64)
    return torch.quantize_per_channel(torch.zeros(SHAPE), torch.ones(2), points, 0, dtype)


def compressed(layout: str, dtype: torch.dtype) -> torch.Tensor:
    blocks = ((2, 2),) if layout.startswith("bs") else ()
    tensor: torch.Tensor = getattr(torch.ones(SHAPE).to(dtype), f"to_sparse_{layout}")(*blocks)
    return tensor


def on_meta_sparse() -> torch.Tensor:
    indices = torch.empty((2, 0), dtype=torch.int64, device="meta")
    return torch.sparse_coo_tensor(indices, torch.empty(0, device="meta"), SHAPE, device="meta")


def kinds() -> dict[str, Make]:
    made: dict[str, Make] = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        if name.startswith("q"):
            made[name] = lambda dtype=dtype: quantized(dtype)  # type: ignore[misc]
            if "x" not in name:
                made[f"{name} per channel"] = lambda dtype=dtype: per_channel(dtype, False)  # type: ignore[misc]
            if name != "qint32":
                made[f"{name} per channel, floats"] = lambda dtype=dtype: per_channel(dtype, True)  # type: ignore[misc]
        else:
            made[name] = lambda dtype=dtype: dense(dtype)  # type: ignore[misc]
    for dtype in (torch.float32, torch.int64, torch.complex64):
        made[f"coo {dtype}"] = lambda dtype=dtype: torch.ones(SHAPE).to(dtype).to_sparse()  # type: ignore[misc]
        for layout in ("csr", "csc", "bsr", "bsc"):
            made[f"{layout} {dtype}"] = lambda layout=layout, dtype=dtype: compressed(layout, dtype)  # type: ignore[misc]
    for dtype in (torch.float32, torch.int64, torch.float8_e4m3fn, torch.uint16, torch.bits8):
        made[f"meta {dtype}"] = lambda dtype=dtype: torch.empty(SHAPE, dtype=dtype, device="meta")  # type: ignore[misc]
    return made | {
        "transposed": lambda: torch.ones(SHAPE[::-1]).t(),
        "transposed quantized": lambda: torch.quantize_per_tensor(torch.zeros(SHAPE[::-1]), 1.0, 0, torch.quint8).t(),
        "expanded": lambda: torch.ones(2, 1).expand(SHAPE),
        "meta transposed": lambda: torch.empty(SHAPE[::-1], device="meta").t(),
        "meta sparse": on_meta_sparse,
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "another shape": lambda: torch.ones(3, 4),
        "mkldnn": lambda: torch.ones(SHAPE).to_mkldnn(),
    }


KINDS = kinds()
TARGETS = [
    "float32", "int64", "bool", "complex64", "float8_e5m2", "uint16", "quint8", "qint8 per channel",
    "quint8 per channel, floats", "coo torch.float32", "csr torch.float32", "meta torch.float32", "expanded", "mkldnn",
]  # fmt: skip


def slowly(*kinds: str) -> list[Any]:
    """Every third of them in `make test`, the rest in `make long`."""
    marks = (pytest.mark.slow, pytest.mark.long, pytest.mark.long)
    return [pytest.param(kind, marks=marks[number % 3]) for number, kind in enumerate(kinds)]


class Holder(nn.Module):
    def __init__(self, kind: str, parameter: bool) -> None:
        super().__init__()
        if parameter:
            self.w = nn.Parameter(KINDS[kind](), requires_grad=False)
        else:
            self.register_buffer("w", KINDS[kind]())


def holder(kind: str, parameter: bool) -> nn.Module:
    return Holder(kind, parameter)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each kind that torch.save can save, a plain tensor and a parameter."""
    found = {}
    folder = tmp_path_factory.mktemp("kinds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (kind, make) in enumerate(KINDS.items()):
            for wrapped in (False, True):
                try:
                    value = make()
                    value = nn.Parameter(value, requires_grad=False) if wrapped else value
                    torch.save({"w": value, "x": torch.ones(1)}, folder / f"{number}{wrapped}.pth")
                except (RuntimeError, KeyError, NotImplementedError):
                    continue
                found[kind + (", a parameter" if wrapped else "")] = folder / f"{number}{wrapped}.pth"
    assert len(found) > 90
    return found


def agrees(ours: Outcome, make: Callable[[], nn.Module], path: Path, assign: bool) -> bool:
    """Whether we know; if so, it is torch's answer."""
    for strict in (True, False):
        theirs = torch_says(make(), torch.load(path, weights_only=False), strict, assign)
        if ours.doubts:
            assert "w" in ours.doubts[0]
            return False
        assert error_message(ours, strict) == theirs.error
    return True


@pytest.mark.parametrize("parameter", [False, True])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("target", [TARGETS[0], *slowly(*TARGETS[1:])])
def test_every_kind_in_a_file_into_a_live_model(
    target: str, assign: bool, parameter: bool, files: dict[str, Path]
) -> None:
    def make() -> nn.Module:
        return Holder(target, parameter)

    unknown = []
    for kind, path in files.items():
        ours = compare(extract(make()), read(path), assign=assign)
        if not agrees(ours, make, path, assign):
            unknown.append(kind.partition(",")[0])
    assert set(unknown) <= {"nested"}, unknown


@pytest.mark.parametrize("parameter", [False, True])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("target", ["float32", *slowly("int64", "complex64", "float8_e5m2", "uint16", "expanded")])
def test_every_kind_in_a_file_into_a_model_built_on_meta(
    target: str, assign: bool, parameter: bool, files: dict[str, Path]
) -> None:
    """The meta device would copy whatever it is given; the answer is that of the device the model will be on."""

    def make() -> nn.Module:
        return Holder(target, parameter)

    built = make().to("meta") if target != "expanded" else make()
    if target == "expanded":
        view = torch.ones(2, 1, device="meta").expand(SHAPE)
        built.w = nn.Parameter(view, requires_grad=False) if parameter else view
    for path in files.values():
        ours = compare(extract(built, built="meta"), read(path), assign=assign)
        agrees(ours, make, path, assign)


@pytest.mark.parametrize("target", ["quint8", "quint8 per channel, floats", "coo torch.float32", "csr torch.float32"])
def test_models_whose_own_tensors_are_unusual_are_built_so_that_they_are(
    target: str, files: dict[str, Path], tmp_path: Path
) -> None:
    source = tmp_path / "model.py"
    source.write_text("from tests.loaders.torch.test_kinds import holder\n")
    model = ModelRequest.of(f"{source}:holder", {"kind": target, "parameter": False}).describe()
    for kind in ("float32", "quint8", "qint8 per channel", "transposed", "coo torch.float32", "meta torch.float32"):
        ours = ask(model, read(files[kind]))
        assert agrees(ours, lambda: Holder(target, False), files[kind], False)


def test_a_quantized_weight_is_said_not_to_be_looked_at(files: dict[str, Path]) -> None:
    for target in ("float32", "quint8"):
        for assign in (False, True):
            model = ModelRequest.of(Holder(target, False)).describe()
            facts = check_values(ask(model, read(files["quint8"]), assign=assign))
            assert all(text.startswith("The values of w were not checked: what quint8") for text in facts.unread)


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("target", ["float32", "int64", "quint8", "bool", "float64", "bits8"])
def test_values_of_every_kind_are_looked_at_or_said_not_to_be(
    target: str, assign: bool, files: dict[str, Path]
) -> None:
    """torch ends the process where it is asked to compute with a quantized tensor that has no scale."""
    model = ModelRequest.of(Holder(target, False)).describe()
    for path in files.values():
        for checkpoint in (read(path), checkpoint_of(torch.load(path, weights_only=False))):
            facts = check_values(ask(model, checkpoint, assign=assign))
            assert all(text.startswith("The values of ") for text in facts.unread)


@pytest.mark.parametrize("put", ["torch.nn.Linear(4, 2, device='meta')", "torch.nn.Linear(4, 2).to('meta')", "under()"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_model_that_is_on_meta_of_its_own_accord(put: str, assign: bool, tmp_path: Path) -> None:
    source = tmp_path / "model.py"
    source.write_text(
        f"import torch\ndef under():\n    with torch.device('meta'):\n        return torch.nn.Linear(4, 2)\n"
        f"def make():\n    return torch.nn.Sequential({put}, torch.nn.Linear(2, 4))\n"
    )
    space: dict[str, Any] = {}
    exec(source.read_text(), space)
    path = tmp_path / "w.pth"
    torch.save(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4)).to("meta").state_dict(), path)
    ours = ask(ModelRequest.of(f"{source}:make").describe(), read(path), assign=assign)
    assert not ours.doubts
    assert error_message(ours) == torch_says(space["make"](), torch.load(path), True, assign).error
