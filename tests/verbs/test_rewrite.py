"""`rewrite`: a checkpoint anew, and what is wrong with a wish said before anything is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ckptdiff
from ckptdiff.writing.execute import Job, Written


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"module.{key}": value for key, value in nn.Linear(3, 2).state_dict().items()}


def test_what_is_written_is_what_was_asked(tmp_path: Path) -> None:
    torch.save({"ema": state()}, tmp_path / "in.pth")
    steps: list[tuple[int, int]] = []
    written = ckptdiff.rewrite(
        tmp_path / "in.pth",
        tmp_path / "out.safetensors",
        key="ema",
        strip_prefix="module.",
        drop="*.bias",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert isinstance(written, Written)
    given = load_file(tmp_path / "out.safetensors")
    assert list(given) == ["weight", "bias"][: len(given)] == list(written.keys)
    assert torch.equal(given["weight"], state()["module.weight"])
    assert steps[-1][0] == steps[-1][1] > 0


def test_a_dry_run_gives_the_job_and_a_state_dict_in_memory_will_do(tmp_path: Path) -> None:
    job = ckptdiff.rewrite(state(), tmp_path / "out.pth", dry_run=True)
    assert isinstance(job, Job)
    assert job.keys == tuple(state())
    assert os.listdir(tmp_path) == []
    assert isinstance(ckptdiff.rewrite(state(), tmp_path / "out.pth"), Written)
    assert list(torch.load(tmp_path / "out.pth", weights_only=True)) == list(state())


def test_what_is_there_stays_without_force(tmp_path: Path) -> None:
    (tmp_path / "out.pth").write_bytes(b"mine")
    with pytest.raises(ckptdiff.CkptdiffError, match=r"out\.pth"):
        ckptdiff.rewrite(state(), tmp_path / "out.pth")
    assert (tmp_path / "out.pth").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("out", "options", "says"),
    [
        ("out.h5", {}, "an extension that says no format of weights"),
        ("out.pth", {"shared": "once"}, "there is no such choice"),
        ("out", {"max_shard_size": "big"}, "is no size"),
        ("out.pth", {"max_shard_size": "5GB"}, "is one file, which has no shards"),
        ("out.pth", {"drop": 3}, "takes a text, or a list of them"),
        ("out.pth", {"rename": "a"}, "a"),
    ],
)
def test_a_wish_that_cannot_be_is_said_before_a_file_is_read(
    tmp_path: Path, out: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ckptdiff.CkptdiffError, match=says) as caught:
        ckptdiff.rewrite(tmp_path / "gone.pth", tmp_path / out, **options)
    assert "does not exist" not in caught.value.message
