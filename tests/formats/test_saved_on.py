"""The devices that files were saved on, held against what torch.load itself hands to `map_location`."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.render import render_checkpoint
from ckptdiff.render.view import View
from ckptdiff.tensors import SavedOn
from tests.formats.test_locations import moved

FILES = Path(__file__).parent / "saved_on_gpu"
"""What an H200 saved, with torch 2.11."""
SAVED = sorted(path.name for path in FILES.glob("*.pth"))


class Anything:
    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


def of_torch(path: Path) -> list[str]:
    """The locations that torch.load asks for, in its order."""
    seen: list[str] = []

    def noted(storage: Any, location: str) -> Any:
        seen.append(location)
        return storage

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            try:
                return super().find_class(module, name)
            except (ImportError, AttributeError):
                return Anything

    held = ModuleType("pickle")
    held.__dict__.update({**vars(pickle), "Unpickler": Unpickler})
    torch.load(path, map_location=noted, weights_only=False, pickle_module=held)
    return seen


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_every_device_in_the_order_of_torch(name: str) -> None:
    expected = [SavedOn(device) for device in dict.fromkeys(of_torch(FILES / name)) if device != "cpu"]
    assert expected
    assert list(read(FILES / name).saved_on) == expected


def test_those_of_every_part() -> None:
    assert {t.device for t in read(FILES / "sparse.pth").tensors.values()} == {"cuda:0"}
    assert {t.device for t in read(FILES / "train.pth").tensors.values()} == {"cuda:0"}
    assert {key: t.device for key, t in read(FILES / "mixed.pth").tensors.items()} == {
        "weight": "cpu", "bias": "cpu", "on_dev": "cuda:0",
    }  # fmt: skip
    assert read(FILES / "script.pt").saved_on == (SavedOn("cuda:0", "script"),)


def test_beside_the_state_dict_and_in_shards(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "optimizer": {"state": {0: {"m": torch.ones(3)}}}}, tmp_path / "w.pth")
    assert read(tmp_path / "w.pth").saved_on == ()
    assert read(moved(tmp_path / "w.pth", "cuda:3")).saved_on == (SavedOn("cuda:3"),)
    weight_map = {}
    for index, device in enumerate(("cuda:1", "cpu", "cuda:0"), 1):
        name = f"pytorch_model-{index}.bin"
        torch.save({f"w{index}": torch.ones(2)}, tmp_path / name)
        moved(tmp_path / name, device)
        weight_map[f"w{index}"] = name
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    places = read(tmp_path / "pytorch_model.bin.index.json").saved_on
    assert [place.device for place in places] == ["cuda:1", "cuda:0"]


class Rebuilt:
    def __init__(self, value: torch.Tensor, device: str) -> None:
        if not (device.startswith("xla") or hasattr(torch._utils, "_rebuild_device_tensor_from_cpu_tensor")):
            pytest.skip("torch 2.5 has it")
        self.value, self.device = value, device

    def __reduce__(self) -> Any:
        if self.device.startswith("xla"):
            call: Any = torch._utils._rebuild_device_tensor_from_numpy
            return call, (self.value.numpy(), self.value.dtype, self.device, False)
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, (
            self.value, self.value.dtype, self.device, False,
        )  # fmt: skip


@pytest.mark.parametrize("device", ["xla:0", "hpu:1", "maia:0"])
def test_a_tensor_that_is_moved_when_it_is_rebuilt(device: str, tmp_path: Path) -> None:
    torch.save({"w": Rebuilt(torch.ones(2, 3), device), "v": torch.ones(2)}, tmp_path / "w.pth")
    checkpoint = read(tmp_path / "w.pth")
    assert checkpoint.saved_on == (SavedOn(device, "value"),)
    assert [tensor.device for tensor in checkpoint.tensors.values()] == [device, "cpu"]
    torch.load(tmp_path / "w.pth", map_location="cpu", weights_only=False)


def test_inspect_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    text = render_checkpoint("text", read(FILES / "mixed.pth"), View())
    assert "saved on    cpu (2 tensors), cuda:0 (1 tensor)" in text
    program = json.loads(render_checkpoint("json", read(FILES / "mixed.pth"), View()))
    assert program["saved_on"] == ["cuda:0"]
    assert [tensor["device"] for tensor in program["tensors"]] == ["cpu", "cpu", "cuda:0"]


@pytest.mark.parametrize("name", ["w.pth", "script.pt"])
def test_inspect_says_what_has_no_values(name: str, tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    model.weight = torch.nn.Parameter(model.weight.to("meta"))
    if name == "w.pth":
        torch.save(model.state_dict(), tmp_path / name)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(model).save(tmp_path / name)
    text = render_checkpoint("text", read(tmp_path / name), View())
    assert "no values   1 tensor on the meta device, of which the file has no bytes" in text


def test_a_file_of_the_cpu_says_nothing(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    text = render_checkpoint("text", read(tmp_path / "w.pth"), View())
    assert "saved on" not in text
    assert "no values" not in text


def test_what_is_written_is_for_the_cpu(tmp_path: Path) -> None:
    from ckptdiff.render import written

    for out in ("w.pth", "w.safetensors"):
        done = ckptdiff.rewrite(FILES / "dev.pth", tmp_path / out)
        assert "saved on cuda:0, written for the CPU" in written.text(done, show_all=False)
        assert "saved on cuda:0, written for the CPU" in json.loads(written.json(done))["notes"]
        assert read(tmp_path / out).saved_on == ()
    done = ckptdiff.rewrite(tmp_path / "w.pth", tmp_path / "again.pth")
    assert "the CPU" not in written.text(done, show_all=False)


def test_the_module_of_the_file_is_not_imported() -> None:
    read(FILES / "whole.pth")
    assert "m" not in sys.modules
