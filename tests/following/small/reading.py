"""Loaders by how they come to the weights: every reader, under every name, in every form: `load(model, path)`."""

# ruff: noqa: B905, SIM118 - as people write them

from __future__ import annotations

import codecs
import contextlib
import gzip
import importlib
import io
import json
import mmap
import os
import pickle
import shutil
import sqlite3
import struct
import tempfile
import zipfile
import zlib
from collections import ChainMap, OrderedDict, defaultdict
from functools import lru_cache, partial, partialmethod
from pathlib import Path
from unittest import mock

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import load as torch_load
from torch import nn
from torch.serialization import load as serialization_load

from tests.following.oracle import Net

READ = partial(torch.load, map_location="cpu", weights_only=True)
TABLE = {".pth": torch.load, ".safetensors": load_file}


def beside(path, name):
    return os.path.join(os.path.dirname(path), name)


class Reader:
    read = staticmethod(torch.load)
    on_cpu = partialmethod(lambda self, path, **options: torch.load(path, **options), map_location="cpu")

    def __init__(self, load=torch.load):
        self.load = load

    def __call__(self, path):
        return self.load(path)


def class_attribute(m, p):
    m.load_state_dict(Reader.read(p))


def partial_method(m, p):
    m.load_state_dict(Reader().on_cpu(p))


def default_of_init(m, p):
    m.load_state_dict(Reader()(p))


def from_table(m, p):
    m.load_state_dict(TABLE[".safetensors"](beside(p, "w.safetensors")))


def imported_name(m, p):
    m.load_state_dict(torch_load(p))


def serialization_name(m, p):
    m.load_state_dict(serialization_load(p))


def by_import_module(m, p):
    m.load_state_dict(importlib.import_module("torch").load(p))


def by_getattr(m, p):
    m.load_state_dict(getattr(torch, "lo" + "ad")(p))


def through_unwrapped(m, p):
    @lru_cache
    def cached(path):
        return torch.load(path)

    cached(p)
    m.load_state_dict(cached(p))


class Opening:
    by = (safe_open, "pt")


OPENING = {"safetensors": (load_file, safe_open)}


def from_tuples(m, p, openers=((safe_open,),)):
    with Opening.by[0](beside(p, "w.safetensors"), Opening.by[1]) as f:
        m.scale.copy_(f.get_tensor("scale") * 2)
    with OPENING["safetensors"][1](beside(p, "w.safetensors"), "pt") as f:
        m.norm.bias.data = f.get_tensor("norm.bias")


def keyword_only(m, p, *, load=load_file):
    m.load_state_dict(load(beside(p, "w.safetensors")))


def patched_dict(m, p):
    with mock.patch.dict(os.environ, {"A": "1"}), mock.patch.dict(torch.serialization.__dict__, {"unused": 1}):
        m.load_state_dict(torch.load(p))


def patched_globals(m, p):
    with mock.patch.dict(globals(), {"unused": 1}):
        m.load_state_dict(torch_load(p))
    m.scale.copy_(torch_load(p)["scale"] * 2)


def patched_load(m, p):
    real = torch.load
    with mock.patch("torch.load", lambda *a, **k: {key: v * 2 for key, v in real(*a, **k).items()}):
        m.load_state_dict(torch.load(p))


def string_path(m, p):
    m.load_state_dict(torch.load(str(p)))


def path_object(m, p):
    m.load_state_dict(torch.load(Path(p)))


def relative_path(m, p):
    m.load_state_dict(torch.load(os.path.relpath(p)))


def through_symlink(m, p):
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(p, os.path.join(folder, "link.pth"))
        m.load_state_dict(torch.load(os.path.join(folder, "link.pth")))


def copied_first(m, p):
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copy(p, folder)
        sd = torch.load(copied)
        os.remove(copied)
    m.load_state_dict(sd)


def unlinked_safetensors(m, p):
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copy(beside(p, "w.safetensors"), folder)
        sd = load_file(copied)
        os.remove(copied)
        m.load_state_dict(sd)


def gone_before_a_slice(m, p):
    with tempfile.TemporaryDirectory() as folder:
        opened = safe_open(shutil.copy(beside(p, "w.safetensors"), folder), "pt")
        part = opened.get_slice("first.weight")
    m.first.weight.data.copy_(part[:])


def overwritten_after(m, p):
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copy(p, folder)
        sd = torch.load(copied)
        torch.save({"x": torch.zeros(3)}, copied)
        m.load_state_dict(sd)


def overwritten_by_as_much(m, p):
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copy(p, folder)
        sd = torch.load(copied)
        torch.save({k: v * 0 for k, v in sd.items()}, copied)
        m.load_state_dict(sd)


def emptied_after(m, p):
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copy(p, folder)
        os.symlink(copied, os.path.join(folder, "link"))
        sd = torch.load(copied)
        os.truncate(os.path.join(folder, "link"), 0)
        m.load_state_dict(sd)


def written_into_after(m, p):
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copy(p, folder)
        sd = torch.load(copied)
        with open(copied, "r+b") as f:
            f.write(bytes(os.path.getsize(copied)))
        m.load_state_dict(sd)


def deleted_mapped(m, p):
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copy(p, folder)
        sd = torch.load(copied, mmap=True)
        os.remove(copied)
        m.load_state_dict(sd, assign=True)


def old_format(m, p):
    m.load_state_dict(torch.load(beside(p, "old.pth")))


def old_format_stream(m, p):
    with open(beside(p, "old.pth"), "rb") as f:
        m.load_state_dict(torch.load(f))


def lightning_like(m, p):
    ckpt = torch.load(beside(p, "run.ckpt"))
    m.load_state_dict(ckpt["state_dict"])
    m.epoch = ckpt["epoch"]


def ddp_stripped(m, p):
    nn.modules.utils.consume_prefix_in_state_dict_if_present(sd := torch.load(beside(p, "ddp.pth")), "module.")
    m.load_state_dict(sd)


def into_data_parallel(m, p):
    wrapped = nn.DataParallel(m)
    wrapped.load_state_dict(torch.load(beside(p, "ddp.pth")))


def map_device(m, p):
    m.load_state_dict(torch.load(p, map_location=torch.device("cpu")))


def map_string(m, p):
    m.load_state_dict(torch.load(p, "cpu"))


def map_lambda(m, p):
    m.load_state_dict(torch.load(p, map_location=lambda storage, location: storage.cpu()))


def map_none_returned(m, p):
    m.load_state_dict(torch.load(p, map_location=lambda storage, location: None))


def map_wrong_dict(m, p):
    m.load_state_dict(torch.load(p, map_location={"cpu": "nowhere"}))


def map_meta_shapes(m, p):
    shapes = {k: v.shape for k, v in torch.load(p, map_location="meta").items()}
    assert shapes["scale"] == (3,)
    m.load_state_dict(torch.load(p))


def map_raises(m, p):
    def refuse(storage, location):
        raise ValueError(f"no {location}")

    torch.load(p, map_location=refuse)


def map_cuda_error(m, p):
    torch.load(p, map_location="cuda")


def mmap_and_unsafe(m, p):
    m.load_state_dict(torch.load(p, mmap=True, weights_only=False, map_location="cpu"))


def mmap_old_format(m, p):
    m.load_state_dict(torch.load(beside(p, "old.pth"), mmap=True))


def mmap_stream(m, p):
    with open(p, "rb") as f:
        m.load_state_dict(torch.load(f, mmap=True))


def pickle_module_given(m, p):
    m.load_state_dict(torch.load(p, pickle_module=pickle, weights_only=False))


def buffered(m, p):
    m.load_state_dict(torch.load(io.BytesIO(Path(p).read_bytes())))


def buffered_reader(m, p):
    with io.BufferedReader(io.FileIO(p)) as f:
        m.load_state_dict(torch.load(f))


def offset_stream(m, p):
    held = io.BytesIO(b"12345678" + Path(beside(p, "old.pth")).read_bytes())
    held.seek(8)
    m.load_state_dict(torch.load(held))


def gzipped(m, p):
    packed = gzip.compress(Path(p).read_bytes())
    with gzip.open(io.BytesIO(packed)) as f:
        m.load_state_dict(torch.load(io.BytesIO(f.read())))


def in_a_zip(m, p):
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(os.path.join(folder, "a.zip"), "w") as z:
            z.write(p, "w.pth")
        with zipfile.ZipFile(os.path.join(folder, "a.zip")) as z, z.open("w.pth") as f:
            m.load_state_dict(torch.load(io.BytesIO(f.read())))


def taken_out_of_a_zip(m, p):
    with zipfile.ZipFile(beside(p, "w.zip")) as z:
        assert json.loads(z.read("config.json"))["width"] == 16
        arrays = pickle.loads(z.read("w.pkl"))["arrays"]
        m.second.weight.data = torch.from_numpy(np.load(io.BytesIO(z.read("second.weight.npy"))))
    m.first.weight.data.copy_(torch.from_numpy(arrays["first.weight"]))


def streamed_out_of_a_zip(m, p):
    with zipfile.ZipFile(beside(p, "w.zip")) as z:
        with z.open("second.weight.npy") as f:
            m.second.weight.data = torch.from_numpy(np.load(f))
        with z.open("w.pkl") as f:
            m.norm.bias.data.copy_(pickle.load(f)["tensor"])


def read_into_out_of_a_zip(m, p):
    made = np.empty((16, 16), "f4")
    with zipfile.ZipFile(beside(p, "w.zip")) as z:
        m.norm.bias.data.copy_(pickle.loads(z.read("w.pkl"))["tensor"])
        with z.open("second.weight.npy") as f:
            f.read(128)
            f.readinto(made)
    m.second.weight.data.copy_(torch.from_numpy(made))


def not_there(m, p):
    with contextlib.suppress(FileNotFoundError):
        torch.load(beside(p, "none.pth"))
    m.load_state_dict(torch.load(p))


def is_a_folder(m, p):
    torch.load(os.path.dirname(p))


def truncated(m, p):
    with tempfile.TemporaryDirectory() as folder:
        cut = os.path.join(folder, "cut.pth")
        Path(cut).write_bytes(Path(p).read_bytes()[:-100])
        try:
            torch.load(cut)
        except RuntimeError:
            m.load_state_dict(torch.load(p))


def truncated_safetensors(m, p):
    try:
        safetensors.torch.load(Path(beside(p, "w.safetensors")).read_bytes()[:-100])
    except safetensors.SafetensorError as error:
        m.note = str(error)
        m.load_state_dict(torch.load(p))


def garbage_safetensors(m, p):
    load_file(p)


def text_file(m, p):
    torch.load(beside(p, "numbers.txt"))


def load_two(m, p):
    a, b = torch.load(p), load_file(beside(p, "w.safetensors"))
    m.load_state_dict({k: a[k] if i % 2 else b[k] for i, k in enumerate(a)})


def loaded_twice(m, p):
    m.load_state_dict(torch.load(p))
    m.load_state_dict(load_file(beside(p, "w.safetensors")))


def chain_map(m, p):
    m.load_state_dict(dict(ChainMap({"scale": torch.zeros(3)}, torch.load(p))))


def default_dict(m, p):
    sd = defaultdict(lambda: torch.zeros(1))
    sd.update(torch.load(p))
    m.load_state_dict(OrderedDict(sd))


def generator_of_items(m, p):
    def items():
        yield from torch.load(p).items()

    own = dict(m.named_parameters())
    with torch.no_grad():
        for k, v in items():
            if k in own:
                own[k].copy_(v)


@contextlib.contextmanager
def opened(p):
    yield torch.load(p)


def context_manager(m, p):
    with opened(p) as sd:
        m.load_state_dict(sd)


def safe_file_name(m, p):
    with safe_open(filename=beside(p, "w.safetensors"), framework="pt") as f:
        m.load_state_dict({k: f.get_tensor(k) for k in f.keys()})


def safe_device(m, p):
    with safe_open(beside(p, "w.safetensors"), framework="pt", device="cpu") as f:
        m.load_state_dict({k: f.get_tensor(k) for k in f.offset_keys()})


def safe_metadata(m, p):
    with safe_open(beside(p, "w.safetensors"), "pt") as f:
        assert f.metadata()["seed"]
        m.scale.copy_(f.get_tensor("scale"))


def safe_without_with(m, p):
    f = safe_open(beside(p, "w.safetensors"), "pt")
    for k in f.keys():
        m.state_dict()[k].copy_(f.get_tensor(k))


def safe_slices(m, p):
    with safe_open(beside(p, "w.safetensors"), "pt") as f:
        part = f.get_slice("second.weight")
        m.second.weight.data[:4] = part[12:]
        m.second.weight.data[4:8, 2:4] = part[:4, 6:8]
        m.second.weight.data[8] = part[3]
        assert part.get_dtype() == "F32"


def safe_slice_all(m, p):
    with safe_open(beside(p, "w.safetensors"), "pt") as f:
        m.second.weight.data = f.get_slice("second.weight")[:]


def safe_numpy_slices(m, p):
    with safe_open(beside(p, "w.safetensors"), framework="np") as f:
        m.second.weight.data[:8] = torch.from_numpy(f.get_slice("second.weight")[:8].copy())


def safe_numpy_file(m, p):
    sd = safetensors.numpy.load_file(beside(p, "w.safetensors"))
    m.load_state_dict({k: torch.tensor(v) for k, v in sd.items()})


def safe_numpy_bytes(m, p):
    sd = safetensors.numpy.load(Path(beside(p, "w.safetensors")).read_bytes())
    m.load_state_dict({k: torch.tensor(v) for k, v in sd.items()})


def safe_bytes(m, p):
    m.load_state_dict(safetensors.torch.load(Path(beside(p, "w.safetensors")).read_bytes()))


def safe_deserialize(m, p):
    for name, entry in safetensors.deserialize(Path(beside(p, "w.safetensors")).read_bytes()):
        if name == "second.weight":
            m.second.weight.data = torch.frombuffer(entry["data"], dtype=torch.float32).reshape(entry["shape"])


def safe_load_model(m, p):
    load_model(m, beside(p, "w.safetensors"))


def safe_load_model_loosely(m, p):
    m.head = nn.Linear(8, 12, bias=False)
    return load_model(m, beside(p, "w.safetensors"), strict=False) and m


def safe_no_key(m, p):
    with safe_open(beside(p, "w.safetensors"), "pt") as f:
        f.get_tensor("none")


def safe_after_close(m, p):
    with safe_open(beside(p, "w.safetensors"), "pt") as f:
        f.get_tensor("scale")
    f.get_tensor("scale")


def safe_bad_framework(m, p):
    safe_open(beside(p, "w.safetensors"), framework="none")


def safe_bad_device(m, p):
    safe_open(beside(p, "w.safetensors"), framework="pt", device="gpu").get_tensor("scale")


def safe_missing(m, p):
    safe_open(beside(p, "none.safetensors"), "pt")


def safe_assign(m, p):
    m.load_state_dict(load_file(beside(p, "w.safetensors")), assign=True)


def header_by_hand(m, p):
    data = Path(beside(p, "w.safetensors")).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + size])["second.weight"]
    low, high = entry["data_offsets"]
    part = bytearray(data[8 + size + low : 8 + size + high])
    m.second.weight.data.copy_(torch.frombuffer(part, dtype=torch.float32).view(entry["shape"]))


def header_mapped(m, p):
    with open(beside(p, "w.safetensors"), "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        (size,) = struct.unpack("<Q", view[:8])
        low, high = json.loads(view[8 : 8 + size])["second.weight"]["data_offsets"]
        part = torch.frombuffer(view, dtype=torch.float32, count=(high - low) // 4, offset=8 + size + low)
        m.second.weight.data.copy_(part.view(16, 16))
        del part


def npz(m, p):
    with np.load(beside(p, "w.npz")) as f:
        m.load_state_dict({k: torch.from_numpy(f[k]) for k in f.files})


def npz_items(m, p):
    f = np.load(beside(p, "w.npz"))
    m.load_state_dict({k: torch.as_tensor(v) for k, v in f.items()})


def npy(m, p):
    m.second.weight.data = torch.from_numpy(np.load(beside(p, "w.npy")))


def npy_stream(m, p):
    with open(beside(p, "w.npy"), "rb") as f:
        m.second.weight.data = torch.from_numpy(np.load(f))


def npy_mapped(m, p):
    m.second.weight.data.copy_(torch.from_numpy(np.load(beside(p, "w.npy"), mmap_mode="c")))


def np_open_memmap(m, p):
    held = np.lib.format.open_memmap(beside(p, "w.npy"), mode="r")
    m.second.weight.data.copy_(torch.from_numpy(np.array(held)))


def np_memmap(m, p):
    held = np.memmap(beside(p, "raw.bin"), dtype=np.float32, mode="c", shape=(16, 16))
    m.second.weight.data.copy_(torch.from_numpy(held))


def np_fromfile(m, p):
    m.second.weight.data.copy_(torch.from_numpy(np.fromfile(beside(p, "raw.bin"), np.float32)).view(16, 16))


def np_fromfile_of_another_name(m, p):
    with open(beside(p, "raw.mine"), "rb") as f:
        m.second.weight.data = torch.from_numpy(np.fromfile(f, "f4").reshape(16, 16))


def np_frombuffer(m, p):
    data = Path(beside(p, "raw.bin")).read_bytes()
    m.second.weight.data.copy_(torch.from_numpy(np.frombuffer(data, np.float32).reshape(16, 16).copy()))


def storage_from_file(m, p):
    storage = torch.UntypedStorage.from_file(beside(p, "raw.bin"), False, 1024)
    m.second.weight.data = torch.empty(0).set_(storage, 0, (16, 16))


def tensor_from_file(m, p):
    m.second.weight.data = torch.from_file(beside(p, "raw.bin"), size=256).view(16, 16)


def loadtxt(m, p):
    m.norm.bias.data.copy_(torch.from_numpy(np.loadtxt(beside(p, "numbers.txt"))))


def numbers_read(m, p):
    m.norm.bias.data.copy_(torch.tensor([float(x) for x in Path(beside(p, "numbers.txt")).read_text().split()]))


def frombuffer_of_file(m, p):
    data = bytearray(Path(beside(p, "raw.bin")).read_bytes())
    m.second.weight.data.copy_(torch.frombuffer(data, dtype=torch.float32).view(16, 16))


def readinto(m, p):
    with open(beside(p, "raw.bin"), "rb") as f:
        f.readinto(memoryview(m.second.weight.data.numpy()).cast("B"))


def readinto_of_another_name(m, p):
    made = np.empty((16, 16), "f4")
    with open(beside(p, "raw.mine"), "rb") as f:
        f.readinto(made)
    m.second.weight.data.copy_(torch.from_numpy(made))


def storage_readinto(m, p):
    made = torch.empty(16, 16)
    with open(beside(p, "raw.bin"), "rb") as f:
        f.readinto(made.numpy())
    m.second.weight.data.copy_(made)


def pickled(m, p):
    with open(beside(p, "w.pkl"), "rb") as f:
        content = pickle.load(f)
    m.load_state_dict({k: torch.from_numpy(v) for k, v in content["arrays"].items()})


def pickled_bytes(m, p):
    content = pickle.loads(Path(beside(p, "w.pkl")).read_bytes())
    m.load_state_dict({k: torch.from_numpy(v) for k, v in content["arrays"].items()})


def pickled_unpickler(m, p):
    class Finder(pickle.Unpickler):
        def find_class(self, module, name):
            return super().find_class(module, name)

    with open(beside(p, "w.pkl"), "rb") as f:
        content = Finder(f).load()
    m.norm.bias.data.copy_(content["tensor"])


def joblib_loaded(m, p):
    import joblib

    with tempfile.TemporaryDirectory() as folder:
        joblib.dump({k: v.numpy() for k, v in torch.load(p).items()}, os.path.join(folder, "w.joblib"))
        content = joblib.load(os.path.join(folder, "w.joblib"))
    m.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in content.items()})


def script_module(m, p):
    m.first.load_state_dict(torch.jit.load(beside(p, "first.pt")).state_dict())


def script_parameters(m, p):
    loaded = torch.jit.load(beside(p, "first.pt"), map_location="cpu")
    with torch.no_grad():
        for a, b in zip(m.first.parameters(), loaded.parameters()):
            a.copy_(b)


def script_by_torch_load(m, p):
    m.first.load_state_dict(torch.load(beside(p, "first.pt"), weights_only=False).state_dict())


def whole_module(m, p):
    m.second.load_state_dict(torch.load(beside(p, "module.pth"), weights_only=False).state_dict())


def whole_module_put(m, p):
    m.second = torch.load(beside(p, "module.pth"), weights_only=False)


def file_reader(m, p):
    reader = torch._C.PyTorchFileReader(str(p))
    names = [r for r in reader.get_all_records() if "/data/" in r or r.startswith("data/")]
    held = reader.get_storage_from_record(names[1], 128, torch.float32)
    m.first.weight.data.copy_(held.view(16, 8) if isinstance(held, torch.Tensor) else torch.tensor(held).view(16, 8))


def zip_by_hand(m, p):
    with zipfile.ZipFile(p) as z:
        name = next(n for n in z.namelist() if n.endswith("data/1"))
        m.first.weight.data.copy_(torch.frombuffer(bytearray(z.read(name)), dtype=torch.float32).view(16, 8))


def base64_kept(m, p):
    text = codecs.encode(Path(p).read_bytes(), "base64")
    m.load_state_dict(torch.load(io.BytesIO(codecs.decode(text, "base64"))))


def torch_package(m, p):
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "a.pt")
        with torch.package.PackageExporter(name) as exporter:
            exporter.save_pickle("w", "w.pkl", torch.load(p)["second.weight"])
        m.second.weight.data.copy_(torch.package.PackageImporter(name).load_pickle("w", "w.pkl"))


def exported(m, p):
    from torch.export import export, load, save

    m.first.load_state_dict({k[6:]: v for k, v in torch.load(p).items() if k.startswith("first.")})
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "a.pt2")
        save(export(m.first, (torch.ones(2, 8),)), name)
        again = load(name)
    m.first.load_state_dict(again.state_dict)


def dcp(m, p):
    import torch.distributed.checkpoint as checkpoint

    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(torch.load(p), checkpoint_id=folder)
        held = {k: torch.zeros_like(v) for k, v in m.state_dict().items()}
        checkpoint.load(held, checkpoint_id=folder)
    m.load_state_dict(held)


def dcp_to_torch(m, p):
    import torch.distributed.checkpoint as checkpoint
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save({"model": torch.load(p)}, checkpoint_id=os.path.join(folder, "d"))
        dcp_to_torch_save(os.path.join(folder, "d"), os.path.join(folder, "out.pth"))
        m.load_state_dict(torch.load(os.path.join(folder, "out.pth"))["model"])


def saved_in_between(m, p):
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "again.pth")
        torch.save({k: v * 2 for k, v in torch.load(p).items()}, name)
        m.load_state_dict(torch.load(name))


def safe_saved_in_between(m, p):
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "again.safetensors")
        safetensors.torch.save_file({k: v.clone() * 2 for k, v in torch.load(p).items()}, name)
        m.load_state_dict(load_file(name))


def safe_serialized(m, p):
    data = safetensors.torch.save({k: v.clone() for k, v in torch.load(p).items()})
    m.load_state_dict(safetensors.torch.load(data))


def npz_saved_in_between(m, p):
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "again.npz")
        np.savez(name, **{k: v.numpy() for k, v in torch.load(p).items()})
        with np.load(name) as f:
            m.load_state_dict({k: torch.from_numpy(f[k]) for k in f.files})


def initial_saved_in_between(m, p):
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "initial.pth")
        torch.save(m.state_dict(), name)
        m.load_state_dict(torch.load(p))
        m.second.load_state_dict({"weight": torch.load(name)["second.weight"]})


def weights_only_refused(m, p):
    torch.load(beside(p, "module.pth"))


def safe_globals(m, p):
    with torch.serialization.safe_globals([Net, nn.Linear]):
        m.load_state_dict(torch.load(p))


def storages(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.untyped_storage().copy_(w.untyped_storage())


def typed_storage(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = torch.empty(0).set_(w.storage(), 0, (16, 16))


def accelerate_offload(m, p):
    from accelerate.utils import OffloadedWeightsLoader, offload_state_dict

    with tempfile.TemporaryDirectory() as folder:
        offload_state_dict(folder, torch.load(p))
        held = OffloadedWeightsLoader(save_folder=folder)
        m.load_state_dict({k: held[k] for k in held})


def hdf5(m, p):
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "w.h5")
        with h5py.File(name, "w") as f:
            for k, v in torch.load(p).items():
                f[k] = v.numpy()
        with h5py.File(name) as f:
            m.second.weight.data.copy_(torch.from_numpy(f["second.weight"][:]))


def hdf5_into_arrays(m, p):
    import h5py

    name = beside(p, "w.h5")
    with h5py.File(name, "w") as f:
        f["w"] = torch.load(p)["second.weight"].numpy()
        f["w"].attrs["bias"] = torch.load(p)["norm.bias"].numpy()
    shutil.copy(name, beside(p, "moved.h5"))
    with h5py.File(beside(p, "moved.h5")) as f:
        made = np.zeros((16, 16), "f4")
        f["w"].read_direct(made, np.s_[:4], np.s_[8:12])
        m.second.weight.data.copy_(torch.from_numpy(made))
        m.norm.bias.data = torch.from_numpy(f["w"].attrs["bias"])


def hdf5_low_level(m, p):
    import h5py

    name = beside(p, "w.h5")
    with h5py.File(name, "w") as f:
        f["second.weight"] = torch.load(p)["second.weight"].numpy()
    shutil.copy(name, beside(p, "moved.h5"))
    with h5py.File(beside(p, "moved.h5")) as f:
        made = np.zeros((16, 16), "f4")
        f["second.weight"].id.read(h5py.h5s.ALL, h5py.h5s.ALL, made)
    m.second.weight.data.copy_(torch.from_numpy(made))


def loaded_in_init(m, p):
    class Made(Net):
        def __init__(self):
            super().__init__()
            self.load_state_dict(torch.load(p))

    return Made()


def blob_of_sqlite(p, column):
    with contextlib.closing(sqlite3.connect(p.parent / "w.db")) as database:
        return database.execute(f"select {column} from w").fetchone()[0]


def sqlite_file(m, p):
    model = nn.Linear(16, 16, bias=False)
    weight = np.frombuffer(blob_of_sqlite(p, "v"), "f4").reshape(16, 16)
    model.load_state_dict({"weight": torch.from_numpy(weight.copy())})
    return model


def sqlite_file_packed(m, p):
    weight = np.array(struct.unpack("256f", zlib.decompress(blob_of_sqlite(p, "packed"))), "f4").reshape(16, 16)
    m.load_state_dict({"second.weight": torch.from_numpy(weight)}, strict=False)


LOADERS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and not isinstance(value, type)
}
for helper in ("beside", "opened", "blob_of_sqlite"):
    LOADERS.pop(helper)
