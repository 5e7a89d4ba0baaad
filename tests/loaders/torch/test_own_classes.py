"""Tensors of classes that only their library knows: torch's own answer where the model's code has imported it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.judging.findings import Finding
from ckptdiff.judging.report import Report

PACKED = """
import torch
from torch import nn
from torch.utils._python_dispatch import return_and_correct_aliasing

aten = torch.ops.aten

class Packed(torch.Tensor):
    @staticmethod
    def __new__(cls, data, scale):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.float32)

    def __init__(self, data, scale):
        self.data_, self.scale = data, scale

    @classmethod
    def __torch_dispatch__(cls, function, types, args, kwargs=None):
        one = args[0]
        if function is aten.copy_.default:
            if type(one) is Packed and type(args[1]) is Packed:
                one.data_.copy_(args[1].data_)
                one.scale.copy_(args[1].scale)
                return one
            raise TypeError(f"{type(args[1]).__name__} into {type(one).__name__} is packed otherwise")
        if function in (aten.detach.default, aten.clone.default, aten.alias.default):
            made = Packed(function(one.data_), function(one.scale))
            return return_and_correct_aliasing(function, args, kwargs or {}, made)
        raise NotImplementedError(str(function))

@SAFE@
def Float():
    return nn.Sequential(nn.Linear(4, 3))

def Own():
    model = nn.Sequential(nn.Linear(4, 3))
    weight = Packed(torch.ones(3, 4, dtype=torch.int8), torch.ones(3))
    model[0].weight = nn.Parameter(weight, requires_grad=False)
    return model
"""


def of(report: Report, rule: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.rule == rule]


@pytest.fixture(params=["registered", "not registered"])
def packed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module with a class of its own, which it has told torch of or not; a float model, and one of that class."""
    name = f"packed_{request.param.partition(' ')[0]}_{len(sys.modules)}"
    safe = "torch.serialization.add_safe_globals([Packed])" if request.param == "registered" else ""
    (tmp_path / f"{name}.py").write_text(PACKED.replace("@SAFE@", safe))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    module = __import__(name)
    before = torch.serialization.get_safe_globals()
    yield module
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)
    del sys.modules[name]


def real(make: Callable[[], nn.Module], path: Path, *, strict: bool, assign: bool) -> str | None:
    try:
        make().load_state_dict(torch.load(path, weights_only=False), strict=strict, assign=assign)
    except RuntimeError as error:
        return str(error)
    return None


@pytest.mark.parametrize("assign", [False, True])
def test_a_class_that_torch_was_told_of_is_answered_by_torch(packed: ModuleType, assign: bool, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save(packed.Own().state_dict(), path)
    registered = "not" not in packed.__name__ and packed.Packed in torch.serialization.get_safe_globals()
    for make in (packed.Float, packed.Own):
        report = ckptdiff.compare(make(), path, assign=assign)
        if registered:
            assert of(report, "uncertain") == []
            for strict in (True, False):
                assert report.error_message(strict) == real(make, path, strict=strict, assign=assign)
            assert (report.verdict == "fail") == (make is packed.Float and not assign)
        else:
            assert len(of(report, "uncertain")) == 1
            # Whether it can be copied is what could not be known, and a gate does not pass on that.
            assert report.verdict == ("pass" if assign else "fail")
            assert report.to_text().startswith("Loads as far as" if assign else "No answer: whether torch can copy 1")


TORCHAO = """
from torch import nn
import torchao.quantization as q
def Float():
    return nn.Sequential(nn.Linear(64, 64)).bfloat16()
def made(config):
    model = Float()
    q.quantize_(model, config)
    return model
def Int8(): return made(q.Int8WeightOnlyConfig())
def Dynamic(): return made(q.Int8DynamicActivationInt8WeightConfig())
def Float8(): return made(q.Float8WeightOnlyConfig())
def Intx(): return made(q.IntxWeightOnlyConfig())
"""
QUANTO = """
from torch import nn
from optimum.quanto import freeze, qint4, qint8, quantize
def Float(): return nn.Sequential(nn.Linear(64, 64))
def made(kind, frozen=True):
    model = Float()
    quantize(model, weights=kind)
    if frozen:
        freeze(model)
    return model
def Int8(): return made(qint8)
def Int4(): return made(qint4)
def Unfrozen(): return made(qint8, False)
"""


@pytest.mark.long
@pytest.mark.parametrize(("library", "text"), [("torchao", TORCHAO), ("optimum.quanto", QUANTO)])
def test_a_librarys_files_into_its_own_models_and_float_ones(
    library: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(text)
    names: dict[str, object] = {}
    exec(text, names)
    makers = {name: value for name, value in names.items() if name[0].isupper() and not name.endswith("Config")}
    for name, make in makers.items():
        torch.manual_seed(0)  # error texts hold values
        torch.save(make().state_dict(), f"{name}.pth")  # type: ignore[operator]
        # The first use of some kernels compiles them, for minutes, under a lock that ending the process leaves behind.
        real(make, tmp_path / f"{name}.pth", strict=True, assign=False)  # type: ignore[arg-type]
    for name, file, assign in itertools.product(makers, makers, (False, True)):
        torch.manual_seed(0)
        report = ckptdiff.compare(f"models.py:{name}", f"{file}.pth", assign=assign)
        assert of(report, "uncertain") == [], (name, file)
        torch.manual_seed(0)
        told = real(makers[name], tmp_path / f"{file}.pth", strict=True, assign=assign)  # type: ignore[arg-type]
        said = report.error_message()
        assert (told is None) == (said is None), (name, file, told, said)
        # What follows may be the values of the tensors.
        assert told is None or (said or "")[:200] == told[:200]


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="torch 2.5 has it")
def test_nothing_else_runs_that_was_called_safe(packed: ModuleType, tmp_path: Path) -> None:
    """A file that names a class of another package is not rebuilt, whoever has registered that one."""
    torch.save({**packed.Own().state_dict(), "note": Marker(str(tmp_path / "ran"))}, tmp_path / "w.pth")
    (tmp_path / "ran").unlink()
    with torch.serialization.safe_globals([Marker]):
        report = ckptdiff.compare(packed.Float(), tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()
    assert not report.fits


class Marker:
    """Leaves a file where it is made."""

    def __init__(self, path: str) -> None:
        self.path = path
        Path(path).touch()

    def __reduce__(self) -> tuple[type[Marker], tuple[str]]:
        return Marker, (self.path,)
