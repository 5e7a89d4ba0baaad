"""Files that `torch.load`, with its default, refuses: `compare` says so and prints what writes one that it takes."""

from __future__ import annotations

import argparse
import collections
import datetime
import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.cli import main

BESIDE = {
    "loss": np.float64(1.5),
    "history": np.arange(3),
    "random": np.random.RandomState(1).get_state(),
    "args": argparse.Namespace(dim=3),
    "path": Path("a"),
    "counts": collections.defaultdict(int, a=1),
    "at": datetime.datetime(2026, 1, 2),
    "rows": slice(1, 2),
    "generator": np.random.default_rng(1),
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", BESIDE)
def test_what_is_printed_writes_a_file_that_torch_load_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    state = nn.Linear(2, 2).state_dict()
    torch.save({"state_dict": state, "epoch": 3, name: BESIDE[name]}, "run.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load("run.pth", weights_only=True)
    Path("net.py").write_text("from torch import nn\n\n\ndef net():\n    return nn.Linear(2, 2)\n")
    assert main(["compare", "net.py:net", "run.pth", "--format", "text"]) == 0
    out = capfd.readouterr().out
    assert "torch.load(path) raises" in out
    (command,) = [line.strip()[2:] for line in out.splitlines() if line.startswith("  $ ")]
    assert shlex.split(command)[:3] == ["ckptdiff", "rewrite", "run.pth"]
    assert main(shlex.split(command)[1:]) == 0
    made = torch.load("run.fixed.pth", weights_only=True)
    assert made.keys() == state.keys()
    assert all(torch.equal(made[key], value) for key, value in state.items())
    assert not any(advice.kind == "clean" for advice in ckptdiff.compare("net.py:net", "run.fixed.pth").advice)


def test_what_is_no_plain_data_is_dropped_by_name_and_the_rest_kept(tmp_path: Path) -> None:
    state = nn.Linear(2, 2).state_dict()
    torch.save(
        {"state_dict": state, "epoch": 3, "hyper_parameters": {"model": BESIDE["generator"]}}, tmp_path / "run.ckpt"
    )
    with pytest.raises(ckptdiff.CkptdiffError, match="hyper_parameters") as refused:
        ckptdiff.rewrite(tmp_path / "run.ckpt", tmp_path / "out.ckpt", keep_container=True)
    assert "drop_entry='hyper_parameters'" in refused.value.hint
    ckptdiff.rewrite(tmp_path / "run.ckpt", tmp_path / "out.ckpt", keep_container=True, drop_entry="hyper_parameters")
    made = torch.load(tmp_path / "out.ckpt", weights_only=True)
    assert made.keys() == {"state_dict", "epoch"}
    assert all(torch.equal(made["state_dict"][key], value) for key, value in state.items())
