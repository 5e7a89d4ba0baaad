from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """Write a safetensors file of zeros; no torch and no safetensors library."""
    header: dict[str, object] = {}
    end = 0
    for key, (code, shape) in tensors.items():
        size = {"F32": 4, "F16": 2, "I64": 8, "F64": 8}[code]
        for length in shape:
            size *= length
        header[key] = {"dtype": code, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


NET = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, classes: int = 10, depth: int = 4):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))
        self.head = nn.Linear(8, classes)
        print("noise from the model")
"""

LAYERS: dict[str, tuple[str, list[int]]] = {
    f"layers.{i}.{leaf}": ("F32", [8, 8] if leaf == "weight" else [8]) for i in range(4) for leaf in ("weight", "bias")
}
HEAD: dict[str, tuple[str, list[int]]] = {"head.weight": ("F32", [10, 8]), "head.bias": ("F32", [10])}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model and some checkpoints, which is the current one; 80 columns, no colour."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "CKPTDIFF_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    (tmp_path / "net.py").write_text(NET)
    safetensors(tmp_path / "good.safetensors", {**LAYERS, **HEAD})
    safetensors(tmp_path / "headless.safetensors", {**LAYERS, "extra.scale": ("F32", [3])})
    safetensors(tmp_path / "wrapped.safetensors", {f"module.{key}": value for key, value in {**LAYERS, **HEAD}.items()})
    safetensors(
        tmp_path / "double.safetensors", {key: ("F64", shape) for key, (_, shape) in {**LAYERS, **HEAD}.items()}
    )
    safetensors(
        tmp_path / "evil.safetensors", {**LAYERS, **HEAD, "\x1b[31mred\u202e\n::error::[bold] text": ("F32", [1])}
    )
    safetensors(
        tmp_path / "renamed.safetensors",
        {f"encoder.{key.replace('layers', 'blocks')}": value for key, value in {**LAYERS, **HEAD}.items()},
    )
    safetensors(tmp_path / "empty.safetensors", {})
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><body>not found</body></html>")
    (tmp_path / "exits.py").write_text("import sys\nprint('bye')\nsys.exit(0)\n")
    (tmp_path / "raises.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(2, 'x' + 1)\n")
    (tmp_path / "bare.py").write_text("from torch import nn\nnet = nn.ReLU()\n")
    return tmp_path
