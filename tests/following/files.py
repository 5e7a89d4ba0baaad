"""One state dict in the files of every kind that loaders read, written beside one another."""

from __future__ import annotations

import base64
import json
import pickle
import sqlite3
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tests.following.oracle import Net, state


def write_files(folder: Path, seed: int) -> Path:
    """Write `state(seed)` into a folder, as w.pth, w.safetensors, w.npz and others."""
    folder.mkdir(parents=True)
    tensors = state(seed)
    arrays = {key: value.numpy() for key, value in tensors.items()}
    torch.save(tensors, folder / "w.pth")
    torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": tensors, "epoch": seed, "lr": seed / 10, "note": "x"}, folder / "run.ckpt")
    torch.save({"module." + key: value for key, value in tensors.items()}, folder / "ddp.pth")
    torch.save(optimizer_state(tensors), folder / "optimizer.pth")
    save_file({key: value.clone() for key, value in tensors.items()}, folder / "w.safetensors", {"seed": str(seed)})
    np.savez(folder / "w.npz", **arrays)
    np.save(folder / "w.npy", arrays["second.weight"])
    (folder / "w.pkl").write_bytes(pickle.dumps({"arrays": arrays, "tensor": tensors["norm.bias"]}))
    (folder / "raw.bin").write_bytes(arrays["second.weight"].tobytes())
    (folder / "raw.mine").write_bytes(arrays["second.weight"].tobytes())
    with zipfile.ZipFile(folder / "w.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("second.weight.npy", (folder / "w.npy").read_bytes())
        archive.writestr("w.pkl", (folder / "w.pkl").read_bytes())
        archive.writestr("config.json", '{"width": 16}')
    (folder / "w.json").write_text(json.dumps({"w": base64.b64encode(arrays["second.weight"].tobytes()).decode()}))
    rows = (" ".join(f"{value:.4f}" for value in row) for row in tensors["embed.weight"].tolist())
    (folder / "vectors.txt").write_text("".join(f"w{number} {row}\n" for number, row in enumerate(rows)))
    (folder / "numbers.txt").write_text(" ".join(map(str, tensors["norm.bias"].tolist())))
    database = sqlite3.connect(folder / "w.db")
    database.execute("create table w (k text, v blob, packed blob)")
    content = arrays["second.weight"].tobytes()
    database.execute("insert into w values ('second.weight', ?, ?)", (content, zlib.compress(content)))
    database.commit()
    database.close()
    special = {
        "bool": tensors["second.weight"] > tensors["second.weight"].median(),
        "complex": torch.complex(tensors["first.weight"], -tensors["first.weight"]),
        "half": tensors["second.weight"].half(),
        "bfloat": tensors["second.weight"].bfloat16(),
        "float8": tensors["second.weight"].to(torch.float8_e4m3fn),
        "empty": torch.empty(0, 4),
        "scalar": tensors["norm.bias"][0].clone(),
        "sparse": tensors["second.weight"].tril().to_sparse(),
        "quantised": torch.quantize_per_tensor(tensors["second.weight"], 0.1, 0, torch.qint8),
        "strided": tensors["second.weight"].t()[::2],
        "parameter": nn.Parameter(tensors["norm.bias"].clone()),
        "int": torch.arange(16) * seed,
    }
    torch.save(special, folder / "special.pth")
    model = Net()
    model.load_state_dict(tensors)
    model.eval()
    torch.jit.trace(model.first, torch.ones(1, 8)).save(folder / "first.pt")
    torch.save(model.second, folder / "module.pth")
    return folder


def optimizer_state(tensors: dict[str, torch.Tensor]) -> dict[str, object]:
    """The state dict of an Adam after a step, with values of its own."""
    model = nn.Linear(8, 16)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    made = optimizer.state_dict()
    made["state"][0]["exp_avg"] = tensors["first.weight"].clone()
    return made
