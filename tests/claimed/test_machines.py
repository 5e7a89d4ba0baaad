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
