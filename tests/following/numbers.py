"""Loaders that take plain numbers out of files: into tensors, or only to read them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.following.oracle import Net, state


def write_numbers(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    tensors = state(seed)
    lists = {key: value.tolist() for key, value in tensors.items() if value.dim()}
    numbers = {"epoch": 7 + seed, "lr": 0.013 * seed, "scale": 0.3 * seed, "np": np.float64(0.77 * seed), "hidden": 16}
    beside = {"args": {"dropout": 0.1, "betas": [0.9, 0.99]}, "losses": [0.1 * seed * step for step in range(20)]}
    whole = {"state_dict": tensors, **numbers, **beside, "bias": lists["norm.bias"], "lists": lists}
    torch.save(whole, folder / "w.pth")
    torch.save(lists, folder / "lists.pth")
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
    "numpy scalar": lambda m, p: bias(m).fill_(read(p)["np"]),
    "item set": lambda m, p: bias(m).__setitem__(0, read(p)["scale"]),
    "full": lambda m, p: setattr(m.norm.bias, "data", torch.full((16,), read(p)["scale"])),
    "full_like": lambda m, p: bias(m).copy_(torch.full_like(bias(m), read(p)["scale"])),
    "new_full": lambda m, p: bias(m).copy_(bias(m).new_full((16,), read(p)["scale"])),
    "alpha": lambda m, p: bias(m).add_(torch.ones(16), alpha=read(p)["scale"]),
    "foreach": lambda m, p: torch._foreach_add_([bias(m), m.norm.weight.data], read(p)["scale"]),
    "tensor": lambda m, p: setattr(m.norm.bias, "data", torch.tensor(read(p)["bias"])),
    "as_tensor": lambda m, p: bias(m).copy_(torch.as_tensor(read(p)["bias"])),
    "FloatTensor": lambda m, p: bias(m).copy_(torch.FloatTensor(read(p)["bias"])),
    "half": lambda m, p: bias(m).copy_(torch.tensor(read(p)["bias"], dtype=torch.float16)),
    "array": lambda m, p: bias(m).copy_(torch.from_numpy(np.array(read(p)["bias"], dtype=np.float32))),
    "all of lists": lambda m, p: m.load_state_dict(
        {k: torch.tensor(v) for k, v in read(p)["lists"].items()}, strict=False
    ) and None,
    "a file of lists": lambda m, p: m.load_state_dict(
        {k: torch.tensor(v) for k, v in read(p.parent / "lists.pth").items()}, strict=False
    ) and None,
    "lists computed with": lambda m, p: bias(m).copy_(
        torch.tensor([3 * x for x in read(p.parent / "lists.pth")["norm.bias"]])
    ),
    "pickled": lambda m, p: bias(m).copy_(
        torch.tensor(pickle.loads((p.parent / "lists.pkl").read_bytes())["norm.bias"])
    ),
    "JSON": lambda m, p: bias(m).copy_(
        torch.tensor(json.loads((p.parent / "lists.json").read_text())["norm.bias"])
    ),
    "JSON and Tensor": lambda m, p: bias(m).copy_(
        torch.Tensor(json.loads((p.parent / "lists.json").read_text())["norm.bias"])
    ),
    "JSON and numpy": lambda m, p: bias(m).copy_(
        torch.from_numpy(np.float32(json.loads((p.parent / "lists.json").read_text())["norm.bias"]))
    ),
}  # fmt: skip


def shown(m, p):
    c = read(p)
    str((c["epoch"], c["lr"]))
    m.load_state_dict(c["state_dict"])


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
