"""Loaders that take plain numbers out of files: into tensors, or only to read them."""

from __future__ import annotations

import copy
import io
import json
import math
import numbers
import pickle
import struct
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from tests.following.oracle import Net, state


def write_numbers(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    tensors = state(seed)
    lists = {key: value.tolist() for key, value in tensors.items() if value.dim()}
    numbers = {"epoch": 7 + seed, "lr": 0.013 * seed, "scale": 0.3 * seed, "np": np.float64(0.77 * seed), "hidden": 16}
    scales = [0.31 * seed, 0.17 * seed]
    beside = {
        "args": {"dropout": 0.1, "betas": [0.9, 0.99], "scales": scales},
        "losses": [0.1 * seed * step for step in range(20)],
    }
    whole = {"state_dict": tensors, **numbers, **beside, "bias": lists["norm.bias"], "lists": lists}
    torch.save(whole, folder / "w.pth")
    torch.save(lists, folder / "lists.pth")
    save_file({"norm.bias": tensors["norm.bias"]}, folder / "w.safetensors", {"scale": str(0.3 * seed)})
    (folder / "lists.pkl").write_bytes(pickle.dumps(lists))
    (folder / "lists.json").write_text(json.dumps(lists))
    return folder / "w.pth"


def read(path):
    return torch.load(path, weights_only=False)


def bias(m):
    return m.norm.bias.data


def first(m, c):
    m.first.load_state_dict({k[6:]: v for k, v in c["state_dict"].items() if k.startswith("first.")})


def made(p):
    c = read(p)
    m = Net()
    nn.Linear(c["hidden"], 16)
    nn.Dropout(c["args"]["dropout"])
    first(m, c)
    return m


def stepped(m, p):
    c = read(p)
    torch.optim.SGD(m.parameters(), lr=c["lr"])
    first(m, c)


def given_again(m, p):
    c = read(p)
    m.load_state_dict(c["state_dict"])
    nn.init.normal_(m.second.weight, std=0.02)
    nn.init.zeros_(m.norm.bias)


def positions(m, p):
    c = read(p)
    first(m, c)
    m.norm.num_batches_tracked.fill_(1)
    bias(m).copy_(torch.linspace(0, 1, 16))


TAKEN = {
    "fill": lambda m, p: bias(m).fill_(read(p)["scale"]),
    "epoch": lambda m, p: m.norm.num_batches_tracked.fill_(read(p)["epoch"]),
    "mul": lambda m, p: bias(m).add_(1).mul_(read(p)["scale"]),
    "double": lambda m, p: bias(m).fill_(read(p)["scale"] * 2),
    "rest": lambda m, p: bias(m).add_(1).mul_(1 - read(p)["scale"]),
    "arithmetic": lambda m, p: bias(m).fill_(3 * read(p)["scale"] ** 2 + 0.1),
    "of an int": lambda m, p: bias(m).fill_((read(p)["epoch"] * 0.25 - 1) / 3),
    "a power of an int": lambda m, p: bias(m).add_(1).mul_(1 - 0.9 ** read(p)["epoch"]),
    "math": lambda m, p: bias(m).fill_(math.exp(-read(p)["scale"]) + math.sqrt(read(p)["epoch"])),
    "numpy's functions": lambda m, p: bias(m).fill_(float(np.tanh(read(p)["scale"]))),
    "a deep one": lambda m, p: bias(m).fill_(5 * read(p)["args"]["scales"][1]),
    "a sum": lambda m, p: bias(m).fill_(sum(read(p)["args"]["scales"])),
    "copied": lambda m, p: bias(m).fill_(7 * copy.deepcopy(read(p))["scale"]),
    "metadata": lambda m, p: bias(m).fill_(
        float(safe_open(p.parent / "w.safetensors", "pt").metadata()["scale"])
    ),
    "numpy scalar": lambda m, p: bias(m).fill_(read(p)["np"]),
    "item set": lambda m, p: bias(m).__setitem__(0, read(p)["scale"]),
    "full": lambda m, p: setattr(m.norm.bias, "data", torch.full((16,), read(p)["scale"])),
    "full_like": lambda m, p: bias(m).copy_(torch.full_like(bias(m), read(p)["scale"])),
    "new_full": lambda m, p: bias(m).copy_(bias(m).new_full((16,), read(p)["scale"])),
    "alpha": lambda m, p: bias(m).add_(torch.ones(16), alpha=read(p)["scale"]),
    "foreach": lambda m, p: torch._foreach_add_([bias(m), m.norm.weight.data], read(p)["scale"]),
    "FloatTensor": lambda m, p: bias(m).copy_(torch.FloatTensor(read(p)["bias"])),
    "lists computed with": lambda m, p: bias(m).copy_(
        torch.tensor([3 * x for x in read(p.parent / "lists.pth")["norm.bias"]])
    ),
    "JSON and Tensor": lambda m, p: bias(m).copy_(
        torch.Tensor(json.loads((p.parent / "lists.json").read_text())["norm.bias"])
    ),
    "JSON and numpy": lambda m, p: bias(m).copy_(
        torch.from_numpy(np.float32(json.loads((p.parent / "lists.json").read_text())["norm.bias"]))
    ),
}  # fmt: skip

LISTED = {
    "tensor": lambda m, p: setattr(m.norm.bias, "data", torch.tensor(read(p)["bias"])),
    "as_tensor": lambda m, p: bias(m).copy_(torch.as_tensor(read(p)["bias"])),
    "half": lambda m, p: bias(m).copy_(torch.tensor(read(p)["bias"], dtype=torch.float16)),
    "array": lambda m, p: bias(m).copy_(torch.from_numpy(np.array(read(p)["bias"], dtype=np.float32))),
    "all of lists": lambda m, p: m.load_state_dict(
        {k: torch.tensor(v) for k, v in read(p)["lists"].items()}, strict=False
    ) and None,
    "a file of lists": lambda m, p: m.first.load_state_dict(
        {k[6:]: torch.tensor(v) for k, v in read(p.parent / "lists.pth").items() if k.startswith("first.")}
    ) and None,
    "pickled": lambda m, p: bias(m).copy_(
        torch.tensor(pickle.loads((p.parent / "lists.pkl").read_bytes())["norm.bias"])
    ),
    "JSON": lambda m, p: bias(m).copy_(
        torch.tensor(json.loads((p.parent / "lists.json").read_text())["norm.bias"])
    ),
}  # fmt: skip


def shown(m, p):
    c = read(p)
    str((c["epoch"], c["lr"]))
    m.load_state_dict(c["state_dict"])


def saved_on(m, p):
    c = read(p)
    c["epoch"] += 1
    stream = io.BytesIO()
    torch.save({"epoch": c["epoch"], "scale": c["scale"] * 3, "args": c["args"]}, stream)
    stream.seek(0)
    assert repr(torch.load(stream, weights_only=True)["epoch"]) == repr(c["epoch"])
    first(m, c)


def as_numbers(m, p):
    c = read(p)
    assert json.loads(json.dumps(c["args"])) == c["args"]
    assert f"{c['epoch']:03d} {c['scale']:.2f} {c['lr']!r} {type(c['lr']).__name__}".endswith("float")
    assert np.array([c["scale"], 1.0]).dtype == np.float64
    assert np.array([c["epoch"], 1]).dtype == np.int64
    assert list(range(c["hidden"]))[c["epoch"]] == torch.arange(c["hidden"])[c["epoch"]]
    assert pickle.loads(pickle.dumps(c["epoch"])) == c["epoch"]
    assert yaml.safe_load(yaml.safe_dump([c["epoch"], c["scale"], c["args"]])) == [c["epoch"], c["scale"], c["args"]]
    assert type(c["epoch"]) in (int, float)
    assert {int: 1, float: 2}[type(c["scale"])] == 2
    assert copy.deepcopy(c["args"]) == c["args"]
    assert isinstance(c["epoch"], numbers.Integral)
    assert not isinstance(c["scale"], numbers.Integral)
    assert np.dtype(type(c["scale"])) == np.float64
    assert struct.pack("<if", c["epoch"], c["scale"])
    assert torch.tensor(c["scale"]).dtype == torch.float32
    assert torch.tensor(c["epoch"]).dtype == torch.int64
    nn.Linear(c["hidden"] // 2, c["hidden"] * 2).to(torch.float64)
    first(m, c)


def constant(m, p):
    str(read(p)["epoch"])
    nn.init.constant_(m.norm.bias, 0.25)


def ones(m, p):
    str(read(p)["epoch"])
    nn.init.ones_(m.norm.bias)


def drawn(m, p):
    first(m, read(p))
    nn.init.kaiming_uniform_(m.second.weight)


READ = {
    "saved on": saved_on,
    "as numbers are": as_numbers,
    "shown": shown,
    "initialised again": given_again,
    "a constant": constant,
    "a constant of all code": ones,
    "a part": lambda m, p: first(m, read(p)),
    "initial values drawn": drawn,
    "an optimizer's": stepped,
    "a model's sizes": lambda m, p: made(p),
    "another constant": positions,
}
