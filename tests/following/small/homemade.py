"""Loaders of formats and of habits of one's own: `load(model, path)`, the files beside it as `files.py` writes them."""

# ruff: noqa: B905 - as people write them

from __future__ import annotations

import array
import asyncio
import contextlib
import copy
import functools
import io
import json
import mmap
import os
import pickle
import re
import struct
import tempfile
import types
import urllib.request
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.utils import _pytree

ROW = struct.Struct("<16f")
POOL = ThreadPoolExecutor(2)


class Renaming(pickle.Unpickler):
    """Finds what has moved."""

    def find_class(self, module, name):
        return super().find_class(
            re.sub(r"^numpy\.core\b", "numpy._core" if np.__version__ > "2" else "numpy.core", module), name
        )


class InPython(pickle._Unpickler):
    """The one that can be stepped through."""

    def find_class(self, module, name):
        return super().find_class(module, name)


def raw(p):
    return (p.parent / "raw.bin").read_bytes()


def second(m):
    return m.second.weight.data


def own_container(m, p):
    """Names, sizes and values one after the other, as ggml's first files had them."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.bin")
        with open(path, "wb") as f:
            f.write(struct.pack("<I", 0x67676D6C))
            for key, value in torch.load(p).items():
                name, data = key.encode(), value.numpy().astype("<f4")
                f.write(struct.pack("<II", len(name), data.ndim) + struct.pack(f"<{data.ndim}I", *data.shape) + name)
                f.write(data.tobytes())
        with open(path, "rb") as f:
            assert struct.unpack("<I", f.read(4))[0] == 0x67676D6C
            while head := f.read(8):
                size, dims = struct.unpack("<II", head)
                shape = struct.unpack(f"<{dims}I", f.read(4 * dims))
                key = f.read(size).decode()
                values = np.frombuffer(f.read(4 * int(np.prod(shape))), "<f4").reshape(shape)
                m.state_dict()[key].copy_(torch.from_numpy(values.copy()))


def unpacked_big_endian(m, p):
    swapped = np.frombuffer(raw(p), "<f4").astype(">f4").tobytes()
    (p.parent / "big.bin").write_bytes(swapped)
    with open(p.parent / "big.bin", "rb") as f:
        second(m).copy_(torch.tensor(struct.unpack(">256f", f.read())).view(16, 16))


def unpacked_rows(m, p):
    m.second.weight.data = torch.tensor(list(ROW.iter_unpack(raw(p))))


def unpacked_rows_by_one_made_here(m, p):
    m.second.weight.data = torch.tensor(list(struct.Struct("<16f").iter_unpack(raw(p))))


def unpacked_one_by_one(m, p):
    values = []
    with open(p.parent / "raw.bin", "rb") as f:
        while piece := f.read(4):
            values.append(struct.unpack("f", piece)[0])
    second(m).copy_(torch.tensor(values).reshape(16, 16))


def unpacked_from_a_mapping(m, p):
    with open(p.parent / "raw.bin", "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        values = struct.unpack_from("<32f", mapped, 64)
    second(m)[1:3] = torch.tensor(values).view(2, 16)


def unpacked_to_numpy(m, p):
    second(m).copy_(torch.from_numpy(np.array(struct.unpack("<256f", raw(p)), dtype=np.float32).reshape(16, 16)))


def unpacked_and_scaled(m, p):
    second(m).copy_(torch.tensor(struct.unpack("<256f", raw(p))).view(16, 16) * 0.5)


def array_of_bytes(m, p):
    values = array.array("f")
    values.frombytes(raw(p))
    second(m).copy_(torch.tensor(values).view(16, 16))


def array_made_of_bytes(m, p):
    second(m).copy_(torch.tensor(array.array("f", raw(p))).view(16, 16))


def array_as_list(m, p):
    values = array.array("f")
    with open(p.parent / "raw.bin", "rb") as f:
        values.fromfile(f, 256)
    second(m).copy_(torch.tensor(values.tolist()).view(16, 16))


def array_by_numpy(m, p):
    values = array.array("f", raw(p))
    second(m).copy_(torch.from_numpy(np.array(values, dtype=np.float32).reshape(16, 16)))


def array_of_its_own(m, p):
    m.load_state_dict(torch.load(p))
    m.scale.copy_(torch.tensor(array.array("f", [0.25, 0.5, 0.75])))


def packed_of_its_own(m, p):
    m.load_state_dict(torch.load(p))
    numbers = struct.unpack("<3f", struct.pack("<3f", 0.1, 0.2, 0.3))
    m.scale = torch.zeros(3)
    m.scale[0] = 2
    assert len(numbers) == 3


def integers_that_the_file_has_too(m, p):
    found = torch.load(p.parent / "special.pth", weights_only=False)["int"].tolist()
    m.register_buffer("at", torch.from_numpy(np.array([0, *range(1, len(found))])))


def unpickled_by_renaming(m, p):
    with open(p.parent / "w.pkl", "rb") as f:
        arrays = Renaming(f).load()["arrays"]
    m.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in arrays.items()})


def unpickled_in_python(m, p):
    with open(p.parent / "w.pkl", "rb") as f:
        m.norm.bias.data = InPython(f).load()["tensor"]


def unpickled_plainly(m, p):
    content = pickle.Unpickler(io.BytesIO((p.parent / "w.pkl").read_bytes())).load()
    m.second.weight.data = torch.from_numpy(content["arrays"]["second.weight"])


def unpickled_after_a_header(m, p):
    (p.parent / "headed.bin").write_bytes(b"HEAD" + (p.parent / "w.pkl").read_bytes())
    content = pickle.loads((p.parent / "headed.bin").read_bytes()[4:])
    m.norm.bias.data.copy_(content["tensor"])


def unpickled_compressed(m, p):
    (p.parent / "w.z").write_bytes(zlib.compress((p.parent / "w.pkl").read_bytes()))
    content = pickle.loads(zlib.decompress((p.parent / "w.z").read_bytes()))
    m.first.weight.data.copy_(torch.from_numpy(content["arrays"]["first.weight"]))


def unpickled_with_a_class_of_its_own(m, p):
    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            return (lambda *_: np.zeros(3, "f4")) if name == "OrderedDict" else super().find_class(module, name)

    with open(p.parent / "own.pkl", "wb") as f:
        pickle.dump({"w": torch.load(p)["second.weight"].numpy(), "t": OrderedDict()}, f)
    with open(p.parent / "own.pkl", "rb") as f:
        content = Reader(f).load()
    m.second.weight.data, m.scale = torch.from_numpy(content["w"]), torch.from_numpy(content["t"])


def torch_file_by_hand(m, p):
    """A zip with a pickle and its storages, read without torch.load."""
    with zipfile.ZipFile(p) as archive:
        root = archive.namelist()[0].split("/")[0]

        class Reader(pickle.Unpickler):
            def persistent_load(self, saved):
                _, kind, key, _, count = saved
                data = bytearray(archive.read(f"{root}/data/{key}"))
                return torch.frombuffer(data, dtype=kind.dtype, count=count)

            def find_class(self, module, name):
                if name == "_rebuild_tensor_v2":
                    return lambda flat, offset, size, stride, *_: flat.as_strided(size, stride, offset)
                return super().find_class(module, name)

        m.load_state_dict(Reader(io.BytesIO(archive.read(f"{root}/data.pkl"))).load())


def own_pickled_table(m, p):
    m.load_state_dict(torch.load(p))
    table = pickle.loads(pickle.dumps(np.linspace(0, 1, 3, dtype="f4")))
    m.scale = torch.from_numpy(table)


def prefix_consumed(m, p):
    sd = torch.load(p.parent / "ddp.pth")
    consume_prefix_in_state_dict_if_present(sd, "module.")
    m.load_state_dict(sd)


def tree_mapped(m, p):
    m.load_state_dict(_pytree.tree_map(lambda t: t.clone() if t.dim() else t, dict(torch.load(p))))


class Lazily(Mapping):
    """A state dict that reads what is asked for."""

    def __init__(self, path):
        self.path = path
        with safe_open(path, "pt") as f:
            self.names = list(f.keys())

    def __getitem__(self, key):
        with safe_open(self.path, "pt") as f:
            return f.get_tensor(key)

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)


def read_when_asked(m, p):
    sd = Lazily(p.with_suffix(".safetensors"))
    for key, own in m.named_parameters():
        own.data.copy_(sd[key])


def slices_by_rank(m, p):
    with safe_open(p.with_suffix(".safetensors"), "pt") as f:
        whole = f.get_slice("second.weight")
        rows, columns = whole.get_shape()
        for rank in (1, 3):
            second(m)[rank * 4 : rank * 4 + 4] = whole[rank * 4 : rank * 4 + 4]
        m.first.weight.data = f.get_slice("first.weight")[:, : columns // 2]
    assert rows == 16


def pool_of_a_module(m, p):
    """Whose threads have run before."""
    list(POOL.map(len, ["a", "b"]))

    def read(key):
        with safe_open(p.with_suffix(".safetensors"), "pt") as f:
            return key, f.get_tensor(key) * 2

    for done in as_completed([POOL.submit(read, key) for key, _ in m.named_parameters()]):
        key, value = done.result()
        with torch.no_grad():
            m.get_parameter(key).copy_(value)


def to_thread(m, p):
    async def load():
        sd = await asyncio.to_thread(torch.load, p)
        await asyncio.to_thread(m.load_state_dict, sd)

    asyncio.run(load())


def from_a_url(m, p):
    with urllib.request.urlopen(p.as_uri()) as answer:
        m.load_state_dict(torch.load(io.BytesIO(answer.read())))


def from_a_named_temporary(m, p):
    with tempfile.NamedTemporaryFile(suffix=".pth") as f:
        f.write(p.read_bytes())
        f.flush()
        m.load_state_dict(torch.load(f.name))


def exclusive_or(m, p):
    hidden = (np.frombuffer(p.read_bytes(), "u1") ^ 0x5A).tobytes()
    m.load_state_dict(torch.load(io.BytesIO((np.frombuffer(hidden, "u1") ^ 0x5A).tobytes())))


def read_array_of_numpy(m, p):
    with open(p.parent / "w.npy", "rb") as f:
        m.second.weight.data = torch.from_numpy(np.lib.format.read_array(f))


def values_after_a_header_of_numpy(m, p):
    with open(p.parent / "w.npy", "rb") as f:
        np.lib.format.read_magic(f)
        shape, _, kind = np.lib.format.read_array_header_1_0(f)
        m.second.weight.data = torch.from_numpy(np.fromfile(f, kind).reshape(shape))


def into_parameters(m, p):
    sd = torch.load(p)
    m.second._parameters["weight"] = nn.Parameter(sd["second.weight"])
    m.norm._buffers["running_var"] = sd["norm.running_var"]
    m.first.register_parameter("bias", nn.Parameter(sd["first.bias"] + 1))


def by_reduce(m, p):
    for key, value in torch.load(p).items():
        *owners, name = key.split(".")
        getattr(functools.reduce(getattr, owners, m), name).data.copy_(value)


def in_order(m, p):
    values = [value for key, value in torch.load(p).items() if "running" not in key and "num" not in key]
    for own, value in zip(m.parameters(), values):
        own.data = value


def assigned_numpy(m, p):
    second(m)[:] = torch.load(p)["second.weight"].numpy()


def by_kind(m, p):
    for key, value in np.load(p.parent / "w.npz").items():
        assert type(value) == np.ndarray  # noqa: E721
        assert type(value).__name__ == "ndarray"
        assert repr(value).startswith("array(")
        assert str(type(value)) == "<class 'numpy.ndarray'>"
        m.state_dict()[key].copy_({np.ndarray: torch.from_numpy}[type(value)](value))


def tokens_by_name(m, p):
    old = {f"t{i}": i for i in range(12)}
    new = {name: at for at, name in enumerate([*(f"t{i}" for i in range(11, 3, -1)), "new", "t0", "other", "t2"])}
    w = torch.load(p)["embed.weight"]
    with torch.no_grad():
        for name, at in new.items():
            if name in old:
                m.embed.weight[at] = w[old[name]]


def heads_interleaved(m, p):
    w = torch.load(p)["second.weight"]
    q, k = w[:8].view(4, 2, 16), w[8:].view(4, 2, 16)
    second(m).copy_(torch.cat([q, k], 1).reshape(16, 16))


def teacher_and_student(m, p):
    sd = torch.load(p)
    teacher, student = copy.deepcopy(m), m
    student.load_state_dict(sd)
    for _ in range(3):
        for t, s in zip(teacher.parameters(), student.parameters()):
            t.data.mul_(0.9).add_(s.data, alpha=0.1)
    return teacher


class Shadow:
    """Averaged parameters, as diffusion code has them."""

    def __init__(self, parameters):
        self.values = [value.clone().detach() for value in parameters]

    def step(self, parameters):
        for own, value in zip(self.values, parameters):
            own.sub_(0.25 * (own - value))

    @contextlib.contextmanager
    def swapped_in(self, parameters):
        kept = [value.detach().clone() for value in parameters]
        for value, own in zip(parameters, self.values):
            value.data.copy_(own.data)
        yield
        for value, own in zip(parameters, kept):
            value.data.copy_(own)


def shadowed(m, p):
    shadow = Shadow(list(m.parameters()))
    m.load_state_dict(torch.load(p))
    shadow.step(list(m.parameters()))
    with shadow.swapped_in(list(m.parameters())):
        m.second.weight.sum()


def shadow_kept(m, p):
    shadow = Shadow(list(m.parameters()))
    m.load_state_dict(torch.load(p))
    shadow.step(list(m.parameters()))
    for own, value in zip(m.parameters(), shadow.values):
        own.data = value


def groups_dequantised(m, p):
    w = torch.load(p)["second.weight"]
    scale = w.view(16, 4, 4).abs().amax(-1, keepdim=True) / 7
    codes = (w.view(16, 4, 4) / scale).round().clamp(-8, 7).to(torch.int8)
    second(m).copy_((codes.float() * scale).view(16, 16))


def read_only_mapping(m, p):
    sd = types.MappingProxyType(torch.load(p))
    m.load_state_dict({**sd, "second.weight": sd["second.weight"].flip(1)} | {"scale": sd["scale"] * 2})


def pre_hook_of_a_module(m, p):
    def hook(module, state_dict, prefix, *_):
        state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel").t()

    m.second.register_load_state_dict_pre_hook(hook)
    sd = torch.load(p)
    sd["second.kernel"] = sd.pop("second.weight").t()
    m.load_state_dict(sd)


def forgiven_by_a_hook(m, p):
    sd = torch.load(p)
    del sd["norm.running_mean"], sd["scale"]
    m.register_load_state_dict_post_hook(lambda module, keys: keys.missing_keys.clear())
    m.load_state_dict(sd)


def scaled_by_a_configuration(m, p):
    (p.parent / "adapter.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    config = json.loads((p.parent / "adapter.json").read_text())
    sd = torch.load(p)
    m.load_state_dict(sd)
    down, up = sd["first.weight"][:4], sd["second.weight"][:, :4]
    m.first.weight.data += (up @ down) * (config["lora_alpha"] / config["r"])


def mapped_and_cast(m, p):
    m.bfloat16()
    m.load_state_dict(torch.load(p, mmap=True, weights_only=True), assign=True)
    m.to(torch.float64)


def arrays_in_a_torch_file(m, p):
    torch.save({"w": torch.load(p)["second.weight"].numpy(), "l": [np.ones(3, "f4")]}, p.parent / "arrays.pth")
    (p.parent / "moved.pth").write_bytes((p.parent / "arrays.pth").read_bytes())
    m.second.weight.data.copy_(torch.from_numpy(torch.load(p.parent / "moved.pth", weights_only=False)["w"]))


def own_tables_saved(m, p):
    m.load_state_dict(torch.load(p))
    np.save(p.parent / "table.npy", np.linspace(0, 1, 3, dtype="f4"))
    np.savez(p.parent / "table.npz", bias=np.full(16, 0.5, "f4"), weight=torch.load(p)["norm.bias"].numpy())
    torch.save({"var": np.arange(16, dtype="f4")}, p.parent / "table.pth")
    m.scale = torch.from_numpy(np.load(p.parent / "table.npy"))
    tables = np.load(p.parent / "table.npz")
    m.norm.bias.data, m.norm.weight.data = torch.from_numpy(tables["bias"]), torch.from_numpy(tables["weight"])
    m.norm.running_var = torch.from_numpy(torch.load(p.parent / "table.pth", weights_only=False)["var"])


def given_by_keyword(m, p):
    w = torch.load(f=p)["second.weight"].numpy()
    upper = np.where(np.arange(16)[:, None] < 8, *(w, np.zeros_like(a=w)))
    m.second.weight.data = torch.as_tensor(data=np.add(x1 := upper, w, where=np.ones((16, 16), bool), out=upper.copy()))
    m.first.weight.data = torch.tensor(data=np.repeat(a=w[:, :4], repeats=2, axis=1))
    m.norm.bias.data.copy_(torch.asarray(obj=np.sum(a=w, axis=1)))
    assert x1.shape == (16, 16)


def over_a_buffer_of_bytes(m, p):
    second(m).copy_(torch.from_numpy(np.ndarray((16, 16), "<f4", buffer=raw(p)).copy()))


def viewed_as_floats(m, p):
    second(m).copy_(torch.tensor(memoryview(raw(p)).cast("f").tolist()).view(16, 16))


LOADERS = {
    name: function
    for name, function in list(globals().items())
    if isinstance(function, types.FunctionType) and function.__module__ == __name__ and name not in ("raw", "second")
}
