"""No command starts CUDA or asks it for memory, on a machine that has a GPU: here one that says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.cli.app import COMMANDS

MACHINE = """
import pathlib, sys, traceback
import torch

def started(*_, **__):
    with open("started", "a") as file:
        file.write(f"{sys.argv}\\n{''.join(traceback.format_stack()[-30:])}\\n")
    raise RuntimeError("CUDA was started")

exec("def is_available(): return True\\ndef device_count(): return 1", vars(torch.cuda))
torch.cuda._lazy_init = started
for name in ("_cuda_init", "_cuda_getDevice", "_cuda_setDevice", "_cuda_emptyCache", "_cuda_memoryStats"):
    setattr(torch._C, name, started)

from ckptdiff.cli import main
for line in pathlib.Path("commands").read_text().splitlines():
    sys.argv = ["ckptdiff", *line.split("|")]
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    print(f"\\n@@ {line.split('|')[0]} {code} {torch.cuda._initialized}", flush=True)
"""
NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        assert torch.cuda.is_available()
        torch.manual_seed(0)
        self.a = nn.Linear(8, 16).cuda()
        self.n = nn.BatchNorm1d(16, device="cuda")
        torch.cuda.synchronize()
        self.register_load_state_dict_pre_hook(draws)
def draws(module, *_):
    torch.rand(2, device=module.a.weight.device)
def load(model, path):
    model.load_state_dict(torch.load(path, map_location="cuda"))
if __name__ == "__main__":
    net = Net().to("cuda")
    load(net, "w.pth")
    net(torch.ones(2, 8, device="cuda"))
"""


@pytest.mark.slow
def test_cuda_is_not_started_by_any_command(tmp_path: Path) -> None:
    weights = {"a.weight": torch.ones(16, 8), "a.bias": torch.ones(16)}
    weights |= {f"n.{name}": value.clone() for name, value in torch.nn.BatchNorm1d(16).state_dict().items()}
    torch.save(weights, tmp_path / "w.pth")
    save_file(weights, tmp_path / "w.safetensors")
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "ckptdiff.toml").write_text('[[targets]]\nname = "net"\nmodel = "net.py:Net"\ncheckpoint = "w.pth"\n')
    commands = [
        "compare|net.py:Net|w.pth", "compare|net.py:Net|w.pth|--device|cpu", "compare|net.py:Net|w.pth|--assign",
        "compare|net.py:Net|w.pth|--verify", "compare|net.py:Net|w.pth|--check-values",
        "compare|net.py:Net|w.pth|--loader|net.py:load", "diff|w.pth|w.safetensors", "verify|w.pth",
        "trace|net.py", "filter|net.py:Net|w.pth|-o|f.safetensors", "rewrite|w.pth|-o|r.safetensors|--dtype|bfloat16",
        "convert|net.py:Net|w.pth|--loader|net.py:load|-o|c.safetensors", "inspect|w.pth|--hash", "digest|w.pth",
        "lock|w.pth", "suggest|net.py:Net|w.pth", "fix|net.py:Net|w.pth|-o|x.pth", "snapshot|net.py:Net|-o|-", "check",
        "init|--force", "rules",
        "git|install|--help", "browse|w.pth",
    ]  # fmt: skip
    (tmp_path / "commands").write_text("\n".join(commands))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MACHINE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    ended = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("@@ ")]
    assert not (tmp_path / "started").exists(), (tmp_path / "started").read_text()
    assert [(name, started) for name, _, started in ended] == [(line.split("|")[0], "False") for line in commands], (
        done.stdout[-2000:] + done.stderr[-3000:]
    )
    assert {name for name, _, _ in ended} == set(COMMANDS)
    failed = [(name, code) for name, code, _ in ended if code != "0"]
    assert failed == [("compare", "2"), ("browse", "2")], done.stderr  # as on a machine without; no terminal
