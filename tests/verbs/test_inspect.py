"""`inspect`: what is in a file, whatever kind of file it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ckptdiff


def test_every_kind_of_file_gives_a_checkpoint(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    torch.save({"ema": model.state_dict(), "step": 7}, tmp_path / "run.ckpt")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "m.ckptdiff.json").write_text(ckptdiff.snapshot(model))
    shapes = {"weight": (2, 3), "bias": (2,)}
    for name, kind in (("run.ckpt", "torch-zip"), ("w.safetensors", "safetensors"), ("m.ckptdiff.json", "snapshot")):
        checkpoint = ckptdiff.inspect(tmp_path / name)
        assert (checkpoint.format, checkpoint.shapes()) == (kind, shapes)
    assert ckptdiff.inspect(str(tmp_path / "run.ckpt"), key="ema").state_dict_key == "ema"
    assert ckptdiff.inspect(checkpoint) is checkpoint  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "key", "says"),
    [
        ("w.pth", "optimizer", "optimizer"),
        ("m.json", "ema", "is a snapshot, which has no keys inside keys"),
        ("w.safetensors", "ema", "has no keys inside keys"),
        ("gone.pth", None, "does not exist"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, name: str, key: str | None, says: str) -> None:
    torch.save({"ema": nn.Linear(3, 2).state_dict()}, tmp_path / "w.pth")
    save_file(nn.Linear(3, 2).state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "m.json").write_text(ckptdiff.snapshot(nn.Linear(3, 2)))
    with pytest.raises(ckptdiff.CkptdiffError, match=says):
        ckptdiff.inspect(tmp_path / name, key=key)


def test_torch_is_not_imported(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    code = f"import sys, ckptdiff; ckptdiff.inspect({str(tmp_path / 'w.pth')!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
