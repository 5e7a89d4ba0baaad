"""One model, and its weights saved in every way that people find them in: what the printed Python and commands are
tried on."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

MODEL = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.enc = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(3))
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, classes)


made = Net()
"""


def net(classes: int = 3) -> nn.Module:
    """The model, with values of its own."""
    defined: dict[str, Any] = {}
    exec(MODEL, defined)
    torch.manual_seed(7)
    model: nn.Module = defined["Net"](classes)
    return model


class Wrapper(nn.Module):
    """Pickled whole: torch.load would have to import it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.enc, self.fc, self.head = inner.enc, inner.fc, inner.head


def write(folder: Path) -> dict[str, Path]:
    """Every kind of file by its name."""
    import safetensors.torch

    state = net().state_dict()
    lightning = {
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "pytorch-lightning_version": "2.4.0", "epoch": 1, "global_step": 3, "callbacks": {}, "loops": {},
        "optimizer_states": [], "lr_schedulers": [], "hyper_parameters": {"lr": 0.1},
    }  # fmt: skip
    saved: dict[str, object] = {
        "plain.pth": state,
        "nested.pth": {"model": state, "epoch": 3},
        "deep.pth": {"run": [{"a.b": state}]},
        "namespace.pth": {"model": state, "args": argparse.Namespace(lr=0.1), "when": datetime.date(2024, 1, 2)},
        "lightning.ckpt": lightning,
        "ddp.pth": {f"module.{key}": value for key, value in state.items()},
        "compiled.pth": {f"_orig_mod.{key}": value for key, value in state.items()},
        "renamed.pth": {key.replace("enc.", "encoder."): value for key, value in state.items()},
        "numbered.pth": {
            key.replace("enc.", "encoder.layer").replace(".0.", ".lin.").replace(".1.", ".norm."): value
            for key, value in state.items()
        },
        "inner.pth": {key.removeprefix("enc."): value for key, value in state.items() if key.startswith("enc.")},
        "other head.pth": net(5).state_dict(),
        "whole.pt": Wrapper(net()),
        "nested whole.pt": {"net": Wrapper(net()), "epoch": 1},
    }
    paths = {name: folder / name for name in saved}
    for name, value in saved.items():
        torch.save(value, folder / name)
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, folder / "plain.safetensors")
    shards = folder / "shards"
    shards.mkdir()
    keys = list(state)
    for number, part in enumerate((keys[:6], keys[6:]), start=1):
        safetensors.torch.save_file(
            {key: state[key] for key in part}, shards / f"model-{number:05}-of-00002.safetensors"
        )
    import json

    weight_map = {key: f"model-{1 + (key not in keys[:6]):05}-of-00002.safetensors" for key in keys}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    return {**paths, **{name: folder / name for name in ("legacy.pth", "plain.safetensors", "shards")}}
