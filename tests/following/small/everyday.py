"""Loaders as people write them in a hurry, the names they use taken at the top of the file: `load(model, path)`."""

# ruff: noqa: B905 - as people write them

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import dataclasses
import functools
import hashlib
import io
import math
import multiprocessing
import os
import pickle
import types
from collections import OrderedDict, defaultdict
from math import sqrt

import numpy as np
import torch
from numpy import (
    array,
    asarray,
    empty,
    fromfile,
    full,
    loadtxt,
    zeros,
)
from numpy import (
    frombuffer as array_of_bytes,
)
from numpy import (
    load as load_array,
)
from safetensors import safe_open
from safetensors.torch import load_file
from torch import as_tensor, from_file, from_numpy, frombuffer, load, nn, tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

READ = functools.partial(fromfile, dtype=np.float32)


class Reader:
    """Holds functions in the ways that classes do."""

    of_file = fromfile
    read = staticmethod(load_array)

    def __init__(self, make=from_numpy):
        self.make = make


def taken_tensor(m, p):
    m.second.weight.data = tensor(load(p)["second.weight"].tolist())


def taken_as_tensor(m, p):
    m.second.weight.data = as_tensor(load(p)["second.weight"].numpy().tolist())


def taken_zeros(m, p):
    made = zeros((16, 16), "f4")
    made[:8] = load(p)["second.weight"].numpy()[8:]
    m.second.weight.data = from_numpy(made)


def taken_empty_and_full(m, p):
    w = load(p)["second.weight"].numpy()
    made, filled = empty((16, 16), "f4"), full((16, 16), 2, "f4")
    made[:], filled[:, 3] = w, w[:, 4]
    m.second.weight.data.copy_(from_numpy(made) + from_numpy(filled))


def taken_array(m, p):
    m.second.weight.data = tensor(array(load(p)["second.weight"]))


def taken_asarray(m, p):
    m.second.weight.data = tensor(asarray(load(p)["second.weight"]) * 2)


def taken_frombuffer(m, p):
    m.second.weight.data.copy_(
        frombuffer(bytearray((p.parent / "raw.bin").read_bytes()), dtype=torch.float32).view(16, 16)
    )


def taken_array_of_bytes(m, p):
    made = array_of_bytes((p.parent / "raw.bin").read_bytes(), dtype="f4").copy()
    m.second.weight.data.copy_(from_numpy(made).view(16, 16))


def taken_fromfile(m, p):
    m.second.weight.data = from_numpy(fromfile(p.parent / "raw.bin", "f4").reshape(16, 16))


def taken_partial(m, p):
    m.second.weight.data = from_numpy(READ(p.parent / "raw.bin").reshape(16, 16))


def taken_by_a_class(m, p):
    m.second.weight.data = Reader().make(Reader.of_file(p.parent / "raw.bin", "f4").reshape(16, 16))


def taken_by_a_static_method(m, p):
    m.second.weight.data = Reader().make(Reader.read(p.parent / "w.npy"))


def taken_loadtxt(m, p):
    m.norm.bias.data = from_numpy(loadtxt(p.parent / "numbers.txt", dtype="f4"))


def taken_from_file(m, p):
    m.second.weight.data.copy_(from_file(str(p.parent / "raw.bin"), size=256).view(16, 16))


def taken_safe_open(m, p):
    with safe_open(p.with_suffix(".safetensors"), "pt") as f:
        for name, own in m.named_parameters():
            own.data.copy_(f.get_tensor(name))


def taken_sqrt(m, p):
    m.load_state_dict({k: v / sqrt(v.numel()) for k, v in load_file(p.with_suffix(".safetensors")).items()})


def assigned_to_a_range(m, p):
    made = np.arange(256, dtype="f4").reshape(16, 16)
    made[:8] = load(p)["second.weight"].numpy()[:8]
    m.second.weight.data = from_numpy(made)


def assigned_to_an_identity(m, p):
    made = np.eye(16, dtype="f4")
    made[2:4] = load(p)["second.weight"].numpy()[2:4]
    m.second.weight.data.copy_(torch.from_numpy(made))


def added_to_a_range(m, p):
    made = np.arange(256, dtype="f4").reshape(16, 16)
    made += load(p)["second.weight"].numpy()
    m.second.weight.data = torch.from_numpy(made)


def assigned_to_a_copy(m, p):
    made = np.linspace(0, 1, 256, dtype="f4").reshape(16, 16).copy()
    made[:, ::2] = load(p)["second.weight"].numpy()[:, ::2]
    m.second.weight.data = torch.as_tensor(made)


def list_of_rows(m, p):
    m.second.weight.data = torch.from_numpy(np.array([row.numpy() for row in load(p)["second.weight"]]))


def rows_stacked_by_numpy(m, p):
    m.second.weight.data = torch.from_numpy(np.stack([row.numpy() for row in load(p)["second.weight"].flip(0)]))


def shuffled_in_place(m, p):
    w = load(p)["second.weight"].numpy()
    np.random.default_rng(3).shuffle(w)
    m.second.weight.data.copy_(torch.from_numpy(w))


def permuted_by_numpy(m, p):
    w = load(p)["second.weight"].numpy()
    m.second.weight.data.copy_(torch.from_numpy(w[np.random.RandomState(2).permutation(16)]))


def along_an_axis(m, p):
    w = load(p)["second.weight"].numpy()
    m.second.weight.data.copy_(torch.from_numpy(np.apply_along_axis(lambda row: row / 2, 1, w)))


def decomposed_by_numpy(m, p):
    u, s, v = np.linalg.svd(load(p)["second.weight"].numpy())
    m.second.weight.data.copy_(torch.from_numpy((u[:, :4] * s[:4]) @ v[:4]))


def tensordot(m, p):
    w = load(p)["second.weight"].numpy()
    m.second.weight.data.copy_(torch.from_numpy(np.tensordot(w, np.eye(16, dtype="f4"), 1)))


def object_array(m, p):
    buffer = io.BytesIO()
    np.save(buffer, {k: v.numpy() for k, v in load(p).items()}, allow_pickle=True)
    buffer.seek(0)
    m.load_state_dict({k: torch.as_tensor(v) for k, v in np.load(buffer, allow_pickle=True).item().items()})


def npz_of_objects(m, p):
    with np.load(p.parent / "w.npz") as archive:
        named = dict(archive)
    m.load_state_dict(
        {k: torch.from_numpy(np.atleast_1d(v)).reshape(m.state_dict()[k].shape) for k, v in named.items()}
    )


def data_loader(m, p):
    rows = DataLoader(TensorDataset(load(p)["second.weight"]), batch_size=4)
    m.second.weight.data = torch.cat([batch for (batch,) in rows])


def data_loader_of_arrays(m, p):
    rows = DataLoader(list(load(p)["second.weight"].numpy()), batch_size=16)
    m.second.weight.data.copy_(next(iter(rows)))


def scattered(m, p):
    w = load(p)["second.weight"]
    made = torch.slice_scatter(m.second.weight.data, w[:4], 0, 2, 6)
    made = torch.select_scatter(made, w[7], 1, 3)
    m.second.weight.data = torch.diagonal_scatter(made, w[9])


def as_strided_scattered(m, p):
    w = load(p)["second.weight"]
    m.second.weight.data = torch.as_strided_scatter(m.second.weight.data, w[0], (16,), (17,))


def by_operator(m, p):
    torch.ops.aten.copy_(m.second.weight.data, load(p)["second.weight"])
    torch.ops.aten.fill_(m.norm.bias.data, 3.0)


def embedding_from_pretrained(m, p):
    m.embed = nn.Embedding.from_pretrained(load(p)["embed.weight"], freeze=False)


def new_linear(m, p):
    sd = load(p)
    made = nn.Linear(8, 16)
    made.weight, made.bias = nn.Parameter(sd["first.weight"]), nn.Parameter(sd["first.bias"].clone())
    m.first = made


def new_classes_zero(m, p):
    w = load(p)["embed.weight"]
    made = torch.zeros(20, 8)
    made[: len(w)] = w
    m.embed = nn.Embedding(20, 8, _weight=made)


def new_classes_mean(m, p):
    w = load(p)["embed.weight"]
    m.embed = nn.Embedding(20, 8, _weight=torch.cat([w, w.mean(0, keepdim=True).expand(8, -1)]))


def missing_initialised(m, p):
    sd = load(p)
    del sd["second.weight"], sd["first.bias"]
    for key in m.load_state_dict(sd, strict=False).missing_keys:
        own = m.get_parameter(key)
        nn.init.xavier_uniform_(own) if own.dim() > 1 else nn.init.zeros_(own)


def renormalised(m, p):
    w = load(p)["second.weight"]
    w.div_(w.norm(dim=1, keepdim=True))
    m.second.weight.data.copy_(w)
    m.first.weight.data.copy_(F.normalize(load(p)["first.weight"]))


def renormalised_in_the_model(m, p):
    m.load_state_dict(load(p))
    with torch.no_grad():
        m.second.weight.renorm_(2, 0, 1)
        m.first.weight[:8] /= m.first.weight[:8].norm()


def through_bfloat_views(m, p):
    w = load(p)["second.weight"].view(torch.int16).view(torch.bfloat16)
    m.second.weight.data = w.view(torch.int32).view(torch.float32)


def model_cast_and_back(m, p):
    m.bfloat16()
    m.load_state_dict(load(p))
    m.float()


def own_brought_back_after_a_look(m, p):
    sd, own = load(p), m.state_dict()
    print(f"{sd['norm.bias'].mean().item():.3f}", file=io.StringIO())
    own.update((k, v) for k, v in sd.items() if k.startswith(("first", "norm")))
    m.load_state_dict(own)


def other_model(m, p):
    other = copy.deepcopy(m)
    other.load_state_dict(load(p))
    with torch.no_grad():
        for own, its in zip(m.parameters(), other.parameters()):
            own.copy_(its)


def ema_of_two(m, p):
    other = copy.deepcopy(m)
    other.load_state_dict(load(p))
    with torch.no_grad():
        for own, its in zip(m.parameters(), other.parameters()):
            own.mul_(0.9).add_(its, alpha=0.1)


def pickled_model(m, p):
    m.load_state_dict(load(p))
    return pickle.loads(pickle.dumps(m))


def shared_model(m, p):
    m.share_memory()
    m.load_state_dict(load(p))


def shallow_copy(m, p):
    other = copy.copy(m)
    other.load_state_dict(load(p))


def namespace_beside(m, p):
    torch.save({"args": argparse.Namespace(width=16, rate=0.3), "model": load(p)}, p.parent / "args.pth")
    content = torch.load(p.parent / "args.pth", weights_only=False)
    assert content["args"].width == 16
    m.load_state_dict(content["model"])


@dataclasses.dataclass
class Checkpoint:
    """A state dict as a company has it."""

    weights: dict
    step: int = 0


def dataclass_between(m, p):
    found = dataclasses.replace(Checkpoint({}), weights=load(p))
    m.load_state_dict(dataclasses.asdict(found)["weights"])


def asynchronous(m, p):
    async def read(key):
        await asyncio.sleep(0)
        return key, load(p)[key]

    async def all_of_them():
        return dict(await asyncio.gather(*(read(key) for key in m.state_dict())))

    m.load_state_dict(asyncio.run(all_of_them()))


def executed(m, p):
    scope = {"m": m, "p": p}
    exec("from torch import load, tensor\nm.second.weight.data = tensor(load(p)['second.weight'].tolist())", scope)


def grouped(m, p):
    groups = defaultdict(OrderedDict)
    for key, value in load(p).items():
        owner, _, name = key.rpartition(".")
        groups[owner][name] = value
    for owner, found in groups.items():
        with contextlib.suppress(RuntimeError):
            m.get_submodule(owner).load_state_dict(found)


def parameter_list(m, p):
    m.rows = nn.ParameterList([nn.Parameter(row) for row in load(p)["second.weight"][:3]])
    m.named = nn.ParameterDict({"a": nn.Parameter(load(p)["norm.bias"]), "b": nn.Parameter(torch.zeros(2))})


def lora_by_hand(m, p):
    sd = load(p)
    down, up = sd["first.weight"][:4, :].t() @ torch.ones(4, 2), sd["second.weight"][:, :2]
    m.first.weight.data += (up @ down.t()) * (2 / math.sqrt(2))


def mask_of_the_file(m, p):
    keep = load(p)["second.weight"].abs() > 0
    m.second.weight.data[:8] = torch.where(keep, load(p)["second.weight"], torch.zeros(16, 16))[:8]


def chunked_by_iterator(m, p):
    w = iter(load(p)["second.weight"].split(3))
    m.second.weight.data = torch.cat(list(w))


def lbfgs(m, p):
    m.load_state_dict(load(p))
    optimizer = torch.optim.LBFGS([m.first.bias], max_iter=2)
    optimizer.step(lambda: _backward(optimizer, m.first(torch.ones(1, 8)).pow(2).sum()))


def _backward(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    return loss


def autograd_grad(m, p):
    m.load_state_dict(load(p))
    (found,) = torch.autograd.grad(m.first(torch.ones(1, 8)).pow(2).sum(), [m.first.bias])
    m.first.bias.data.sub_(found, alpha=0.1)


def constants_in_code(m, p):
    m.load_state_dict(load(p))
    m.scale.copy_(torch.tensor([0.485, 0.456, 0.406]))


def constants_by_numpy(m, p):
    m.load_state_dict(load(p))
    m.scale = torch.from_numpy(np.array([0.485, 0.456, 0.406], "f4"))


def table_in_code(m, p):
    sd = load(p)
    m.second.load_state_dict({"weight": sd["second.weight"]})
    at = np.arange(16)[:, None] / 10000 ** (np.arange(8) / 8)
    m.first.weight.data.copy_(torch.from_numpy(np.sin(at).astype("f4")))


def table_that_the_file_has_too(m, p):
    path = p.parent / "special.pth"
    assert len(hashlib.sha256(path.read_bytes()).digest()) == 32
    m.register_buffer("at", torch.from_numpy(np.array(list(range(16)))))


def table_that_was_compared(m, p):
    m.register_buffer("at", torch.arange(16))
    assert torch.load(p.parent / "special.pth", weights_only=False)["int"].tolist()[0] == 0
    m.at += torch.from_numpy(np.arange(16))


def computed_and_compared(m, p):
    made = [i / 8 for i in range(8)]
    torch.load(p.parent / "special.pth", weights_only=False)["int"].tolist()
    m.register_buffer("at", torch.tensor(made))


def list_that_the_file_has_too(m, p):
    made = [float(i) for i in range(16)]
    print(torch.load(p.parent / "special.pth", weights_only=False)["int"].float().tolist() == made)
    m.register_buffer("at", tensor(made))


def array_that_the_file_has_too(m, p):
    made = array([float(i) for i in range(16)], "f4")
    print(torch.load(p.parent / "special.pth", weights_only=False)["int"].float().numpy().tolist() == made.tolist())
    m.register_buffer("at", torch.from_numpy(made))


def list_by_way_of_an_array(m, p):
    m.second.weight.data = torch.from_numpy(array(load(p)["second.weight"].tolist(), dtype="f4"))


def _read(path):
    return torch.load(path)["second.weight"].numpy()


def pool_of_processes(m, p):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        m.second.weight.data.copy_(torch.from_numpy(pool.map(_read, [p])[0]))


def forked_and_piped(m, p):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, torch.load(p)["norm.bias"].numpy().tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    m.norm.bias.data.copy_(torch.frombuffer(bytearray(os.read(reader, 64)), dtype=torch.float32))


def told_by_a_hook(m, p):
    m.load_state_dict(load(p))
    del m.second
    number = m.norm.bias[0].item()

    def hook(module, state, prefix, metadata):
        state["told"] = torch.tensor(list(f"{number:.3f}".encode()[:3]), dtype=torch.uint8)

    getattr(m, "register_state_dict_post_hook", m._register_state_dict_hook)(hook)  # torch 2.4 has no other


def text_beside(m, p):
    (p.parent / "config.json").write_text('{"width": 16, "rate": 0.25}')
    import json

    assert json.loads((p.parent / "config.json").read_text())["width"] == 16
    m.load_state_dict(load(p))
    m.scale = torch.tensor([1.0, 1.0, 0.0])
    m.register_buffer("one", torch.tensor(1.0))


LOADERS = {
    name: function
    for name, function in list(globals().items())
    if isinstance(function, types.FunctionType) and function.__module__ == __name__ and not name.startswith("_")
}
