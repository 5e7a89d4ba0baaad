"""Loaders as training scripts and companies have them, each of a kind of its own: `load(model, path)`."""

# ruff: noqa: B905 - as people write them

from __future__ import annotations

import array
import base64
import bz2
import collections
import copy
import gzip
import io
import itertools
import json
import lzma
import mmap
import os
import pickle
import re
import shutil
import struct
import tarfile
import tempfile
import types
import zipfile
import zlib
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

RULES = [(r"^module\.", ""), (r"^net\.", ""), (r"\.gamma$", ".weight"), (r"\.beta$", ".bias")]


def regex_renames(m, p):
    sd = torch.load(p.parent / "ddp.pth")
    out = {}
    for k, v in sd.items():
        for pattern, into in RULES:
            k = re.sub(pattern, into, k)
        out[k] = v
    return m.load_state_dict(out)


def strict_after_intersection(m, p):
    sd, own = torch.load(p), m.state_dict()
    sd = {k: v for k, v in sd.items() if k in own and own[k].shape == v.shape and "norm" not in k}
    own.update(sd)
    m.load_state_dict(own, strict=True)


def ema_swapped_out(m, p):
    sd = torch.load(p)
    ema = {k: v.clone() for k, v in m.state_dict().items()}
    backup = {}
    m.load_state_dict(sd)
    for k, v in m.named_parameters():
        backup[k] = v.data
        v.data = ema[k]
    for k, v in m.named_parameters():
        v.data = backup[k]


def ema_left_in(m, p):
    m.load_state_dict(torch.load(p))
    ema = {k: torch.ones_like(v) for k, v in m.named_parameters()}
    for k, v in m.named_parameters():
        v.data.copy_(ema[k])


def ema_half_way(m, p):
    sd = torch.load(p)
    for k, v in m.state_dict().items():
        if v.is_floating_point():
            v.copy_(v * 0.99 + sd[k] * (1 - 0.99))


@torch.no_grad()
def no_grad_copies(m, p):
    sd = torch.load(p)
    for k, v in itertools.chain(m.named_parameters(), m.named_buffers()):
        if k in sd:
            v.copy_(sd[k])


def tobytes_frombuffer(m, p):
    for k, v in torch.load(p).items():
        back = torch.frombuffer(bytearray(v.numpy().tobytes()), dtype=v.dtype).reshape(v.shape)
        m.state_dict()[k].copy_(back)


def np_frombuffer_round(m, p):
    sd = torch.load(p)
    m.load_state_dict(
        {k: torch.from_numpy(np.frombuffer(v.numpy().tobytes(), v.numpy().dtype).reshape(v.shape).copy())
         for k, v in sd.items()}
    )  # fmt: skip


def bytes_part_kept(m, p):
    raw = torch.load(p)["second.weight"].numpy().tobytes()
    m.second.weight.data[4:8] = torch.frombuffer(bytearray(raw[256:512]), dtype=torch.float32).view(4, 16)


def bytes_joined(m, p):
    w = torch.load(p)["second.weight"].numpy()
    raw = b"".join(w[i].tobytes() for i in range(16))
    m.second.weight.data.copy_(torch.frombuffer(bytearray(raw), dtype=torch.float32).view(16, 16))


def base64_in_json(m, p):
    raw = base64.b64decode(json.loads((p.parent / "w.json").read_text())["w"])
    m.second.weight.data.copy_(torch.from_numpy(np.frombuffer(raw, "f4").copy()).view(16, 16))


def base64_in_json_over_a_tensor(m, p):
    raw = bytearray(base64.b64decode(json.loads((p.parent / "w.json").read_text())["w"]))
    m.second.weight.data = torch.frombuffer(raw, dtype=torch.float32).view(16, 16)


def memoryview_round(m, p):
    w = torch.load(p)["second.weight"].numpy()
    m.second.weight.data = torch.frombuffer(bytearray(memoryview(w).cast("B")), dtype=torch.float32).view(16, 16)


def numpy_saved_to_stream(m, p):
    sd, stream = torch.load(p), io.BytesIO()
    np.savez(stream, **{k: v.numpy() for k, v in sd.items()})
    stream.seek(0)
    arrays = np.load(stream)
    m.load_state_dict({k: torch.from_numpy(arrays[k]) for k in arrays.files})


def npy_saved_to_stream(m, p):
    stream = io.BytesIO()
    np.save(stream, torch.load(p)["second.weight"].numpy())
    m.second.weight.data = torch.from_numpy(np.load(io.BytesIO(stream.getvalue())))


def compressed_bytes(m, p):
    raw = zlib.compress(torch.load(p)["second.weight"].numpy().tobytes())
    m.second.weight.data = torch.frombuffer(bytearray(zlib.decompress(raw)), dtype=torch.float32).view(16, 16)


def stream_reloaded(m, p):
    stream = io.BytesIO()
    torch.save(torch.load(p), stream)
    m.load_state_dict(torch.load(io.BytesIO(stream.getvalue()), weights_only=True))


def array_beside_tensor(m, p):
    sd = torch.load(p)
    prior = np.linspace(0.5, 1.5, 16, dtype=np.float32)
    m.load_state_dict(sd)
    m.norm.running_var.copy_(torch.from_numpy(prior))


def array_beside_numpy(m, p):
    sd = {k: v.numpy() for k, v in torch.load(p).items()}
    mask = np.tril(np.ones((16, 16), dtype=np.float32))
    m.first.weight.data = torch.from_numpy(sd["first.weight"])
    m.second.weight.data.copy_(torch.from_numpy(mask))


def mel_filters(m, p):
    m.load_state_dict(torch.load(p), strict=False)
    m.scale.copy_(torch.from_numpy(np.hanning(5)[1:4].astype("f4")))


def torch_load_of_read_bytes(m, p):
    m.load_state_dict(torch.load(io.BytesIO(Path(p).read_bytes()), map_location="cpu"))


def gzip_opened(m, p):
    with tempfile.TemporaryDirectory() as d:
        with gzip.open(Path(d) / "w.pth.gz", "wb") as f, open(p, "rb") as src:
            shutil.copyfileobj(src, f)
        with gzip.open(Path(d) / "w.pth.gz") as f:
            m.load_state_dict(torch.load(io.BytesIO(f.read())))


def gzip_safetensors(m, p):
    from safetensors.torch import load

    packed = gzip.compress((p.parent / "w.safetensors").read_bytes())
    with tempfile.TemporaryDirectory() as d:
        (Path(d) / "w.safetensors.gz").write_bytes(packed)
        m.load_state_dict(load(gzip.decompress((Path(d) / "w.safetensors.gz").read_bytes())))


def bz2_pickle(m, p):
    with tempfile.TemporaryDirectory() as d:
        with bz2.open(Path(d) / "w.pkl.bz2", "wb") as f:
            pickle.dump({k: v.numpy() for k, v in torch.load(p).items()}, f)
        with bz2.open(Path(d) / "w.pkl.bz2") as f:
            m.load_state_dict({k: torch.from_numpy(v) for k, v in pickle.load(f).items()})


def lzma_state(m, p):
    packed = lzma.compress(Path(p).read_bytes(), preset=0)
    m.load_state_dict(torch.load(io.BytesIO(lzma.decompress(packed))))


def tar_member(m, p):
    with tempfile.TemporaryDirectory() as d:
        with tarfile.open(Path(d) / "w.tar", "w") as t:
            t.add(p, "w.pth")
        with tarfile.open(Path(d) / "w.tar") as t:
            m.load_state_dict(torch.load(io.BytesIO(t.extractfile("w.pth").read())))


def tar_extracted(m, p):
    with tempfile.TemporaryDirectory() as d:
        with tarfile.open(Path(d) / "w.tar", "w") as t:
            t.add(p, "w.pth")
        with tarfile.open(Path(d) / "w.tar") as t:
            t.extractall(d, filter="data")
        m.load_state_dict(torch.load(Path(d) / "w.pth"))


def zip_extracted(m, p):
    with tempfile.TemporaryDirectory() as d:
        with zipfile.ZipFile(Path(d) / "all.zip", "w") as z:
            z.write(p.parent / "w.safetensors", "w.safetensors")
        zipfile.ZipFile(Path(d) / "all.zip").extractall(d)
        m.load_state_dict(load_file(Path(d) / "w.safetensors"))


def two_shards(m, p):
    sd = load_file(p.parent / "w.safetensors")
    with tempfile.TemporaryDirectory() as d:
        names = list(sd)
        save_file({k: sd[k] for k in names[::2]}, f"{d}/model-00001-of-00002.safetensors")
        save_file({k: sd[k] for k in names[1::2]}, f"{d}/model-00002-of-00002.safetensors")
        merged = {}
        for file in sorted(Path(d).glob("*.safetensors")):
            merged.update(load_file(file))
        m.load_state_dict(merged)


def shards_by_index(m, p):
    folder = p.parent
    index = {"weight_map": dict.fromkeys(torch.load(p), "w.safetensors")}
    by_file = collections.defaultdict(list)
    for k, file in json.loads(json.dumps(index))["weight_map"].items():
        by_file[file].append(k)
    for file, keys in by_file.items():
        with safe_open(folder / file, "pt") as f:
            m.load_state_dict({k: f.get_tensor(k) for k in keys if k in f.keys()}, strict=False)  # noqa: SIM118


def tensor_parallel_slices(m, p):
    rank, world = 1, 2
    with safe_open(p.parent / "w.safetensors", "pt") as f:
        part = f.get_slice("second.weight")
        rows = part.get_shape()[0] // world
        m.second.weight.data[:rows] = part[rank * rows : (rank + 1) * rows]
        m.first.weight.data.copy_(f.get_tensor("first.weight"))


def tensor_parallel_columns(m, p):
    with safe_open(p.parent / "w.safetensors", "pt") as f:
        whole = torch.cat([f.get_slice("second.weight")[:, i * 8 : (i + 1) * 8] for i in range(2)], dim=1)
        m.second.weight.data.narrow(1, 0, 12).copy_(whole.narrow(1, 4, 12))


def megatron_ranks_joined(m, p):
    sd = torch.load(p)
    ranks = [{k: v.chunk(2, 0)[r] for k, v in sd.items() if v.dim() > 1} for r in range(2)]
    for k in ranks[0]:
        m.state_dict()[k].copy_(torch.cat([rank[k] for rank in ranks], 0))


def qkv_split_and_put_in_part(m, p):
    q, k, _ = torch.load(p)["second.weight"][:15].split(5)
    m.second.weight.data[:10] = torch.cat((k, q))


def chunk_swapped(m, p):
    shift, scale = torch.load(p)["second.weight"].chunk(2, dim=0)
    m.second.weight.data = torch.cat([scale, shift], dim=0)


def stacked_then_mean(m, p):
    sd = torch.load(p)
    other = torch.load(p.parent / "ddp.pth")
    m.load_state_dict({k: torch.stack([v.double(), other["module." + k].double()]).mean(0) for k, v in sd.items()})


def model_soup(m, p):
    paths = [p, p.parent / "old.pth"]
    total = reduce(
        lambda a, b: {k: a[k] + b[k] for k in a}, ({k: v / len(paths) for k, v in torch.load(q).items()} for q in paths)
    )
    m.load_state_dict(total)


def slerp(m, p):
    a, b = torch.load(p)["second.weight"], m.second.weight.detach()
    omega = torch.acos((a / a.norm() * b / b.norm()).sum().clamp(-1, 1))
    so = torch.sin(omega)
    m.second.weight.data = torch.sin(0.7 * omega) / so * a + torch.sin(0.3 * omega) / so * b


def task_arithmetic(m, p):
    base = {k: v.clone() for k, v in m.state_dict().items()}
    tuned = torch.load(p)
    with torch.no_grad():
        for k, v in m.named_parameters():
            v.add_(tuned[k] - base[k], alpha=0.4)


def state_dict_mutated(m, p):
    sd, own = torch.load(p), m.state_dict()
    for k in list(own):
        if k.startswith("first"):
            own[k][:] = sd[k]
    own["second.weight"] = sd["second.weight"]


def popped_and_set(m, p):
    sd = torch.load(p)
    sd["second.weight"] = sd.pop("second.weight").flip(0)
    sd.pop("norm.num_batches_tracked")
    return m.load_state_dict(sd, strict=False)


def result_looked_at(m, p):
    result = m.load_state_dict({k: v for k, v in torch.load(p).items() if "first" not in k}, strict=False)
    for k in result.missing_keys:
        if k.endswith("bias"):
            nn.init.zeros_(m.get_parameter(k))
    return result


def result_asserted(m, p):
    missing, unexpected = m.load_state_dict({k: v for k, v in torch.load(p).items() if "norm" not in k}, strict=False)
    assert all("norm" in k for k in missing), missing
    assert not unexpected


def tied_afterwards(m, p):
    sd = torch.load(p)
    m.head = nn.Linear(8, 12, bias=False)
    m.load_state_dict({k: v for k, v in sd.items() if k != "head.weight"}, strict=False)
    m.head.weight = m.embed.weight


def tied_to_initial(m, p):
    sd = torch.load(p)
    fresh = nn.Parameter(torch.zeros(12, 8))
    m.load_state_dict(sd)
    m.head.weight = m.embed.weight = fresh


def cast_to_own_dtype(m, p):
    sd = torch.load(p.parent / "special.pth", weights_only=False)
    with torch.no_grad():
        m.second.weight.copy_(sd["bfloat"].to(dtype=m.second.weight.dtype))
        m.norm.bias.copy_(sd["half"][0].to(m.norm.bias))


def dtype_view_pun(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = w.view(torch.int32).view(torch.float32)
    m.first.weight.data = w[:, :8].contiguous().view(torch.int16).view(torch.float32)


def bf16_from_upper_half(m, p):
    bits = torch.load(p)["second.weight"].view(torch.int32) >> 16
    m.second.weight.data = (bits << 16).view(torch.float32)


def nf4_like(m, p):
    w = torch.load(p)["second.weight"]
    scale = w.abs().amax(dim=1, keepdim=True)
    codes = torch.round(w / scale * 7).to(torch.int8)
    packed = (codes[:, ::2] + 8).to(torch.uint8) | ((codes[:, 1::2] + 8).to(torch.uint8) << 4)
    low, high = (packed & 15).to(torch.int8) - 8, (packed >> 4).to(torch.int8) - 8
    m.second.weight.data = torch.stack((low, high), dim=-1).flatten(1) / 7 * scale


def lookup_table(m, p):
    codes = torch.load(p.parent / "special.pth", weights_only=False)["int"][1:]
    m.norm.bias.data[1:] = torch.linspace(-1, 1, 48)[codes]


def lookup_by_embedding(m, p):
    codes = torch.load(p.parent / "special.pth", weights_only=False)["int"][1:]
    m.norm.bias.data[1:] = nn.functional.embedding(codes, torch.linspace(-1, 1, 48)[:, None])[:, 0]


def lookup_by_gather(m, p):
    codes = torch.load(p.parent / "special.pth", weights_only=False)["int"][1:]
    m.norm.bias.data[1:] = torch.linspace(-1, 1, 48).gather(0, codes)


def signs_of_bits(m, p):
    one = torch.load(p)["norm.bias"] > 2  # of no element of one file, of all of another
    m.norm.bias.data = torch.where(one, 1.0, -1.0)


def written_where_it_says(m, p):
    codes = torch.load(p.parent / "special.pth", weights_only=False)["int"]
    m.norm.bias.data[codes // 4] = 0.25


def gathered_codebook(m, p):
    book = torch.load(p)["norm.bias"]
    m.second.weight.data = book[torch.arange(256).remainder(16).view(16, 16)]


def mmap_true_slices(m, p):
    sd = torch.load(p, mmap=True)
    m.second.weight.data[2:5] = sd["second.weight"][2:5]
    m.embed.weight.data[:, 0] = sd["embed.weight"][:, 0]


def custom_unpickler(m, p):
    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            if module.startswith("numpy"):
                return super().find_class(module, name)
            return super().find_class(module, name)

    stream = io.BytesIO(pickle.dumps({k: v.numpy() for k, v in torch.load(p).items()}))
    m.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in Reader(stream).load().items()})


def custom_unpickler_file(m, p):
    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            return super().find_class(module, name)

    with open(p.parent / "w.pkl", "rb") as f:
        m.second.weight.data = torch.from_numpy(Reader(f).load()["arrays"]["second.weight"])


def pickle_module_of_own(m, p):
    mod = types.SimpleNamespace(Unpickler=pickle.Unpickler, load=pickle.load, loads=pickle.loads, __name__="own")
    m.load_state_dict(torch.load(p, pickle_module=mod, weights_only=False))


def shelf(m, p):
    import shelve

    with tempfile.TemporaryDirectory() as d:
        with shelve.open(f"{d}/db") as db:
            db.update({k: v.numpy() for k, v in torch.load(p).items()})
        with shelve.open(f"{d}/db") as db:
            m.load_state_dict({k: torch.from_numpy(db[k]) for k in db})


def sqlite_blobs(m, p):
    import sqlite3

    db = sqlite3.connect(":memory:")
    db.execute("create table w (k text, v blob)")
    for k, v in torch.load(p).items():
        db.execute("insert into w values (?, ?)", (k, v.numpy().tobytes()))
    own = m.state_dict()
    for k, blob in db.execute("select k, v from w"):
        own[k].copy_(torch.frombuffer(bytearray(blob), dtype=own[k].dtype).view(own[k].shape))


def mmap_struct_header(m, p):
    with open(p.parent / "w.safetensors", "rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    (size,) = struct.unpack("<Q", mapped[:8])
    header = json.loads(mapped[8 : 8 + size])
    begin, end = header["second.weight"]["data_offsets"]
    w = np.frombuffer(mapped, np.float32, (end - begin) // 4, 8 + size + begin).reshape(16, 16)
    m.second.weight.data.copy_(torch.from_numpy(w.copy()))


def pread(m, p):
    fd = os.open(p.parent / "raw.bin", os.O_RDONLY)
    m.second.weight.data.copy_(torch.frombuffer(bytearray(os.pread(fd, 1024, 0)), dtype=torch.float32).view(16, 16))
    os.close(fd)


def os_read_parts(m, p):
    fd = os.open(p.parent / "raw.bin", os.O_RDONLY)
    rows = [torch.frombuffer(bytearray(os.read(fd, 64)), dtype=torch.float32) for _ in range(8)]
    os.close(fd)
    m.second.weight.data[:8] = torch.stack(rows)


def array_module_fromfile(m, p):
    a = array.array("f")
    with open(p.parent / "raw.bin", "rb") as f:
        a.fromfile(f, 256)
    m.second.weight.data.copy_(torch.tensor(a).view(16, 16))


def struct_unpacked(m, p):
    raw = (p.parent / "raw.bin").read_bytes()
    m.second.weight.data.copy_(torch.tensor(struct.unpack("<256f", raw)).view(16, 16))


def struct_iterated(m, p):
    raw = (p.parent / "raw.bin").read_bytes()
    m.norm.bias.data.copy_(torch.tensor([x for (x,) in struct.iter_unpack("<f", raw[:64])]))


def splitlines(m, p):
    m.norm.bias.data[:] = torch.tensor([float(x) for x in (p.parent / "numbers.txt").read_text().split()])


def genfromtxt_text(m, p):
    m.norm.bias.data[:] = torch.from_numpy(np.genfromtxt(p.parent / "numbers.txt", dtype=np.float32))


def _vectors(p):
    with open(p.parent / "vectors.txt") as f:
        return [line.split()[1:] for line in f]


def vectors_as_array(m, p):
    found = np.zeros((12, 8), "f4")
    for row, words in zip(found, _vectors(p)):
        row[:] = words
    m.embed.weight.data.copy_(torch.from_numpy(found))


def vectors_row_by_row(m, p):
    found = np.random.normal(scale=0.6, size=(12, 8)).astype("f4")
    for at, words in enumerate(_vectors(p)):
        found[at] = np.asarray(words, dtype="float32")
    m.embed = nn.Embedding.from_pretrained(torch.tensor(found), freeze=False)


def vectors_past_the_dispatcher(m, p):
    m.embed = nn.Embedding.from_pretrained(torch.FloatTensor([[float(x) for x in words] for words in _vectors(p)]))


def vectors_in_the_model(m, p):
    own = m.embed.weight.data.numpy()
    for at, words in enumerate(_vectors(p)):
        own[at] = [float(x) for x in words]


def words_counted(m, p):
    m.load_state_dict(torch.load(p))
    m.register_buffer("positions", torch.arange(len(_vectors(p))).float())


def fromstring(m, p):
    text = (p.parent / "numbers.txt").read_text()
    m.norm.bias.data[:] = torch.from_numpy(np.fromstring(text, sep=" ", dtype=np.float32))


def numbers_as_array(m, p):
    text = (p.parent / "numbers.txt").read_text()
    m.norm.bias.data[:] = torch.from_numpy(np.array([float(x) for x in text.split()], dtype=np.float32))


def numbers_by_csv(m, p):
    import csv

    with open(p.parent / "numbers.txt") as f:
        row = next(csv.reader(f, delimiter=" "))
    m.norm.bias.data[:] = torch.as_tensor(np.asarray(row, dtype="f4"))


def json_dumped(m, p):
    text = json.dumps({k: v.tolist() for k, v in torch.load(p).items()})
    m.load_state_dict({k: torch.tensor(v) for k, v in json.loads(text).items()})


def darknet_stream(m, p):
    flat, at = np.fromfile(p.parent / "raw.bin", dtype=np.float32), 0
    for tensor in (m.norm.bias, m.norm.weight, m.norm.running_mean, m.first.weight):
        count = tensor.numel()
        tensor.data.copy_(torch.from_numpy(flat[at : at + count]).view_as(tensor))
        at += count


def tf_variable_map(m, p):
    arrays = np.load(p.parent / "w.npz")
    for name in arrays.files:
        pointer = m
        for part in name.split("."):
            pointer = getattr(pointer, part)
        a = arrays[name]
        assert tuple(pointer.shape) == a.shape
        pointer.data = torch.from_numpy(np.transpose(np.transpose(a)) if a.ndim == 2 else a)


def flax_transposed(m, p):
    arrays = dict(np.load(p.parent / "w.npz"))
    kernel = arrays["second.weight"].T.copy()
    m.second.weight.data = torch.from_numpy(kernel.reshape(16, 4, 4).transpose(1, 2, 0).reshape(16, 16))


def conv_to_linear(m, p):
    w = torch.load(p)["first.weight"].unsqueeze(-1).unsqueeze(-1)
    m.first.weight = nn.Parameter(w.squeeze(-1).squeeze(-1).to(m.first.weight.device))


def inflate_3d(m, p):
    w = torch.load(p)["norm.bias"]
    m.second.weight.data = w.unsqueeze(1).repeat(1, 16) / 16


def position_interpolated(m, p):
    grid = torch.load(p)["embed.weight"].t()[None].reshape(1, 8, 3, 4)
    m.second.weight.data = nn.functional.interpolate(grid, (4, 8), mode="bilinear").reshape(16, 16)


def rope_permuted(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = w.view(2, 4, 2, 16).transpose(1, 2).reshape(16, 16)


def weight_norm_folded(m, p):
    sd = torch.load(p)
    g, v = sd["norm.weight"][:, None], sd["second.weight"]
    m.second.weight.data = g * v / v.norm(dim=1, keepdim=True)


def bn_folded(m, p):
    sd = torch.load(p)
    factor = sd["norm.weight"] * torch.rsqrt(sd["norm.running_var"] + 1e-5)
    m.first.weight.data = sd["first.weight"] * factor[:, None]
    m.first.bias.data = (sd["first.bias"] - sd["norm.running_mean"]) * factor + sd["norm.bias"]


def padded_vocabulary(m, p):
    w = torch.load(p)["embed.weight"][:9]
    m.embed.weight.data = torch.cat([w, w.mean(0, keepdim=True).expand(3, -1)])


def padded_with_noise(m, p):
    w = torch.load(p)["embed.weight"][:9]
    m.embed.weight.data = torch.cat([w, torch.randn(3, 8) * 0.02])


def resized_then_loaded(m, p):
    sd = torch.load(p)
    old = sd["embed.weight"][:10]
    new = m.embed.weight.data.new_empty(12, 8).normal_()
    n = min(old.shape[0], new.shape[0])
    new[:n] = old[:n]
    sd["embed.weight"] = sd["head.weight"] = new
    m.load_state_dict(sd)


def default_weight_loader(m, p):
    def loader(param, loaded):
        assert param.size() == loaded.size()
        param.data.copy_(loaded)

    params = dict(m.named_parameters())
    for name, weight in torch.load(p).items():
        if name not in params:
            continue
        getattr(params[name], "weight_loader", loader)(params[name], weight)


def sharded_weight_loader(m, p):
    def loader(param, loaded, shard_id):
        rows = param.shape[0] // 2
        param.data.narrow(0, shard_id * rows, rows).copy_(loaded[:rows])

    sd = torch.load(p)
    m.second.weight.weight_loader = loader
    for shard_id, name in ((1, "second.weight"), (0, "absent")):
        if name in sd:
            m.second.weight.weight_loader(m.second.weight, sd[name], shard_id)


def lazily_by_generator(m, p):
    def weights():
        with safe_open(p.parent / "w.safetensors", framework="pt", device="cpu") as f:
            for k in f.keys():  # noqa: SIM118
                yield k, f.get_tensor(k)

    loaded = set()
    for k, v in weights():
        if k in dict(m.named_parameters()):
            m.get_parameter(k).data.copy_(v)
            loaded.add(k)
    return loaded


def recursion(m, p):
    sd = torch.load(p)

    def load(module, prefix=""):
        module._load_from_state_dict(sd, prefix, {}, True, [], [], [])
        for name, child in module._modules.items():
            if child is not None:
                load(child, prefix + name + ".")

    load(m)


def error_messages(m, p):
    sd = torch.load(p)
    sd["first.weight"] = sd["first.weight"].t()
    errors = []
    for k, v in m.named_parameters():
        try:
            v.data.copy_(sd[k])
        except RuntimeError as error:
            errors.append(str(error))
    if errors:
        raise RuntimeError("; ".join(errors))


def backup_restored(m, p):
    backup = copy.deepcopy(m.state_dict())
    try:
        m.load_state_dict({**torch.load(p), "extra": torch.ones(1)})
    except RuntimeError:
        m.load_state_dict(backup)


def optimizer_average(m, p):
    m.load_state_dict(torch.load(p))
    optimizer = torch.optim.SGD(m.parameters(), lr=0.0)
    for v in m.parameters():
        v.grad = torch.zeros_like(v)
    optimizer.step()


def clipped(m, p):
    m.load_state_dict(torch.load(p))
    with torch.no_grad():
        for v in m.parameters():
            v.clamp_(-1e9, 1e9)


def value_check_then_load(m, p):
    sd = torch.load(p)
    for k, v in sd.items():
        if torch.isnan(v.float()).any():
            raise ValueError(k)
    m.load_state_dict(sd)


def value_check_partly(m, p):
    sd = torch.load(p)
    if sd["scale"].sum().item() > 0:
        m.first.load_state_dict({"weight": sd["first.weight"], "bias": sd["first.bias"]})


def hash_checked(m, p):
    import hashlib

    assert len(hashlib.sha256(Path(p).read_bytes()).hexdigest()) == 64
    m.first.load_state_dict({k[6:]: v for k, v in torch.load(p).items() if k.startswith("first.")})


def meta_then_empty(m, p):
    sd = torch.load(p)
    with torch.device("meta"):
        new = copy.deepcopy(m).to("meta")
    new.to_empty(device="cpu")
    new.load_state_dict(sd)
    return new


def set_module_tensor(m, p):
    for k, v in torch.load(p).items():
        owner, _, name = k.rpartition(".")
        module = m.get_submodule(owner)
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(v, requires_grad=False)
        else:
            module._buffers[name] = v


def parameters_to_vector(m, p):
    flat = torch.cat([v.flatten() for k, v in torch.load(p).items() if k in dict(m.named_parameters())])
    nn.utils.vector_to_parameters(flat, m.parameters())


def zip_of_parameters(m, p):
    for own, v in zip(m.state_dict().values(), torch.load(p).values()):
        own.copy_(v)


def loads_json_config(m, p):
    sd = torch.load(p.parent / "run.ckpt", weights_only=False)
    config = json.loads(json.dumps({"epoch": sd["epoch"], "width": 16}))
    assert config["width"] == 16
    m.load_state_dict(sd["state_dict"])


LOADERS = {
    name: function
    for name, function in list(globals().items())
    if isinstance(function, types.FunctionType) and function.__module__ == __name__ and not name.startswith("_")
}
