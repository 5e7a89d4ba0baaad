"""A file that was saved on a device which this machine lacks: torch's own words, from torch itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.claimed.here import devices_of
from ckptdiff.loaders.torch.restoring import refusal
from ckptdiff.render import render_report
from ckptdiff.render.view import View
from tests.formats.test_locations import moved
from tests.formats.test_saved_on import FILES, SAVED, Rebuilt

DEVICES = ["cuda", "cuda:0", "cuda:7", "cuda:x", "cuda0", "mps", "mps:0", "xla:0", "xpu", "xpu:1", "hpu:0", "mtia:0",
           "npu:0", "privateuseone:0", "ipu", "vulkan", "cpu:0", "no such thing"]  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # they are old


def words(call: Any) -> str | None:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.skipif(devices_of("cuda") > 0, reason="torch.load succeeds where there is a GPU")
@pytest.mark.parametrize("name", [name for name in SAVED if name != "whole.pth"])
def test_files_of_a_gpu(name: str) -> None:
    expected = words(lambda: torch.load(FILES / name, weights_only=False))
    assert expected is not None
    assert refusal(read(FILES / name)) == expected
    report = ckptdiff.compare(nn.Linear(2, 2), FILES / name)
    (finding,) = [finding for finding in report.findings if finding.rule == "saved-on"]
    assert (finding.level, finding.arguments["text"], finding.arguments["devices"]) == ("warning", expected, "cuda:0")


@pytest.mark.skipif(devices_of("cuda") > 0, reason="torch.jit.load succeeds where there is a GPU")
def test_a_script_of_a_gpu() -> None:
    assert refusal(read(FILES / "script.pt")) == words(lambda: torch.jit.load(FILES / "script.pt"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_every_backend_in_its_own_words(device: str, legacy: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    path = moved(tmp_path / "w.pth", device)
    assert refusal(read(path)) == words(lambda: torch.load(path))


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps:0", "xla:0", "xpu:0", "hpu:0", "vulkan", "mtia:0"])
def test_scripts_in_their_own_words(device: str, tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "w.pt")
    path = moved(tmp_path / "w.pt", device)
    assert refusal(read(path)) == words(lambda: torch.jit.load(path))


def test_a_tensor_that_is_moved_when_it_is_rebuilt(tmp_path: Path) -> None:
    torch.save({"w": Rebuilt(torch.ones(2, 3), "xla:0")}, tmp_path / "w.pth")
    assert refusal(read(tmp_path / "w.pth")) == words(lambda: torch.load(tmp_path / "w.pth", weights_only=False))


def test_the_first_device_that_is_lacking_counts(tmp_path: Path) -> None:
    torch.save({"v": torch.ones(2), "w": Rebuilt(torch.ones(1), "hpu:0")}, tmp_path / "w.pth")
    path = moved(tmp_path / "w.pth", "npu:0")
    assert refusal(read(path)) == words(lambda: torch.load(path, weights_only=False))


def test_a_device_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pth")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cuda", "cuda:0", "cuda:1"):
        assert refusal(read(moved(tmp_path / "w.pth", device))) is None
        torch.save({"w": torch.ones(1)}, tmp_path / "w.pth")
    path = moved(tmp_path / "w.pth", "cuda:2")
    expected = words(lambda: torch.load(path))
    assert expected is not None
    assert "device_count() is 2" in expected
    assert refusal(read(path)) == expected


@pytest.mark.skipif(devices_of("cuda") > 0, reason="there is a GPU")
def test_the_verdict_stays_and_the_way_is_said() -> None:
    model = nn.Module()
    model.a, model.n = nn.Linear(8, 16), nn.BatchNorm1d(16)
    report = ckptdiff.compare(model, FILES / "dev.pth")
    assert report.loads()
    assert report.verdict == "pass"
    text = render_report("text", report, View())
    assert text.startswith("Compatible: load_state_dict succeeds once the file is read for the CPU.")
    assert ckptdiff.compare(model, FILES / "dev.pth", fail_on="warning").verdict == "fail"
    assert not torch.cuda.is_initialized()


def test_a_followed_loader_raises_as_torch_does(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    path = moved(tmp_path / "w.pth", "npu:0")

    def load(model: nn.Module, path: str) -> None:
        model.load_state_dict(torch.load(path))

    report = ckptdiff.compare(nn.Linear(2, 2), path, loader=load)
    assert report.raises == words(lambda: torch.load(path))
    assert report.outcome.doubts == ()
