"""Code that runs on a machine that is claimed: in threads, where a kernel is lacking, and by loaders of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.claimed.host import claimed
from ckptdiff.errors import ModelError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def in_threads(path: str) -> nn.Module:
    """As libraries read their shards."""
    model = nn.Linear(3, 4, device="cuda")
    with ThreadPoolExecutor(2) as pool:
        state = torch.load(path, map_location="cpu")
        moved = dict(zip(state, pool.map(lambda value: value.to("cuda"), state.values()), strict=True))
    assert all(value.is_cuda for value in moved.values())
    model.load_state_dict(moved)
    return model


@pytest.mark.parametrize("device", ["cuda", None])
def test_a_loader_in_threads(device: str | None, path: Path) -> None:
    """Without a word too: the code insists on a GPU before there is a model to look at."""
    report = ckptdiff.compare(None, path, loader=in_threads, device=device)
    assert report.complete, report.raises
    assert report.outcome.machine.device == "cuda"
    assert not torch.cuda.is_initialized()


def test_without_a_gpu_it_raises_what_torch_says(path: Path) -> None:
    with pytest.raises(ModelError, match=r"CUDA|NVIDIA"):
        ckptdiff.compare(None, path, loader=in_threads, device="cpu")


def test_any_loader_is_a_converter_there_too(path: Path, tmp_path: Path) -> None:
    ckptdiff.convert(None, path, tmp_path / "out.safetensors", loader=in_threads)
    assert ckptdiff.diff(path, tmp_path / "out.safetensors").equal


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_kernel_that_is_lacking_is_named_after_the_device(device: str) -> None:
    """As recorded on an H200 and without one."""
    with claimed("cuda"), pytest.raises(NotImplementedError) as raised:
        torch.empty(4, device=device, dtype=torch.float8_e4m3fn).normal_()
    assert str(raised.value) == f"\"normal_kernel_{device}\" not implemented for 'Float8_e4m3fn'"


def by_machine(model: nn.Module, path: str) -> None:
    state = torch.load(path, map_location="cpu")
    if torch.cuda.is_available():
        del state["bias"]
    print("loading")
    model.load_state_dict(state, strict=False)


def by_name_alone(model: nn.Module, path: str) -> None:
    model.load_state_dict(torch.load(path, map_location="cuda" if torch.cuda.is_available() else "cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it is the other way round")
def test_a_loader_that_goes_by_the_machine_is_answered_for_both(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = ckptdiff.compare(nn.Linear(3, 4), path, loader=by_machine)
    assert report.complete
    assert report.outcome.doubts == (
        "The loader asks what machine it is; on a machine with a GPU it fills 1 of 2 keys wholly.",
    )
    assert capsys.readouterr().out == "loading\n"
    assert not ckptdiff.compare(nn.Linear(3, 4), path, loader=by_machine, device="cuda").complete
    assert ckptdiff.compare(nn.Linear(3, 4), path, loader=by_machine, device="cpu").outcome.doubts == ()


def test_a_loader_to_which_the_machine_makes_no_difference(path: Path) -> None:
    report = ckptdiff.compare(nn.Linear(3, 4), path, loader=by_name_alone)
    assert report.complete
    assert report.outcome.doubts == ()


def test_what_is_looked_up_here_is_no_question_of_the_loaders(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own generators are looked for on every device, for whoever called: that is no reason to ask twice."""
    from ckptdiff.loaders import dcp
    from ckptdiff.loaders.asked import Asked
    from ckptdiff.model.sandbox import contained

    asked = []
    ask = dcp.ask

    def counted(given: Asked) -> object:
        asked.append(given)
        with contained("here"):
            return ask(given)

    monkeypatch.setattr(dcp, "ask", counted)
    assert ckptdiff.compare(nn.Linear(3, 4), path, loader="dcp").complete
    assert len(asked) == 1
