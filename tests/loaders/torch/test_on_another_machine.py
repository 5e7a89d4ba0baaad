"""Code of a model that runs while loading, where the model is built as on another machine: it runs on this one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ckptdiff

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2).cuda()
        if HOOKED:
            getattr(self, "register_load_state_dict_pre_hook", self._register_load_state_dict_pre_hook)(hook)

def hook(*given):
    state_dict = next(value for value in given if isinstance(value, dict))
    if torch.cuda.is_available():
        state_dict["a.weight"] = state_dict.pop("weight")
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is the machine that is meant")
@pytest.mark.parametrize("hooked", [True, False])
def test_what_may_go_by_the_machine_is_a_doubt(tmp_path: Path, hooked: bool) -> None:
    (tmp_path / "net.py").write_text(MODEL.replace("HOOKED", str(hooked)))
    torch.save({"weight": torch.ones(2, 2), "a.bias": torch.ones(2)}, tmp_path / "w.pth")
    report = ckptdiff.compare(f"{tmp_path / 'net.py'}:Net", tmp_path / "w.pth", device="cuda")
    assert [("a machine with a GPU" in doubt) for doubt in report.outcome.doubts] == [True] * hooked
    assert any(finding.rule == "uncertain" for finding in report.findings) == hooked
