"""Files made to exhaust time or memory end in one sentence, in a process held to 1 GB and a few seconds."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptdiff
from ckptdiff import bounded_json as bounded
from ckptdiff.errors import CheckpointError
from ckptdiff.formats import opened

REPOSITORY = Path(__file__).parents[2]

# Run in a process of its own: a bomb that goes off must not take the tests with it.
READ = """
import sys
if sys.platform == "linux":
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError
try:
    checkpoint = read(sys.argv[1])
except CheckpointError as error:
    assert len(error.message) < 2000
    print("REFUSED", error.message)
else:
    print("READ", len(checkpoint.entries), checkpoint.container)
"""


def run(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def in_zip(data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression, compresslevel=1) as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", "3")
    return stream.getvalue()


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def beside_a_tensor(data: bytes) -> bytes:
    """A real one-tensor checkpoint with one more entry, whose value `data` pushes."""
    stream = io.BytesIO()
    torch.save({"model": {"w": torch.ones(2)}}, stream)
    out = io.BytesIO()
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = content[:-1] + text("x") + data + b"s."
            target.writestr(name, content)
    return out.getvalue()


def tower(levels: int) -> bytes:
    """t = (t, t), again and again: as long as the file, and 2**levels to whoever walks it."""
    return b")" + b"2\x86" * levels


def safetensors(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": [begin, end]}


def zip_bomb() -> bytes:
    return in_zip(b"\x80\x02" + b"N0" * (130 << 20), zipfile.ZIP_DEFLATED)


def with_sizes(data: bytes, size: int) -> bytes:
    """The archive's directory claims that data.pkl has `size` bytes."""
    at = data.index(b"PK\1\2")
    return data[: at + 20] + struct.pack("<LL", size, size) + data[at + 28 :]


def overlapping() -> bytes:
    """Two records of the directory share one header."""
    data = in_zip(pickle.dumps({}))
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 1)
    return data[: second + 42] + data[first + 42 : first + 46] + data[second + 46 :]


REFUSED: dict[str, Callable[[], bytes]] = {
    "zip bomb": zip_bomb,
    "absurd size in the directory": lambda: with_sizes(in_zip(b"\x80\x02}."), 0xFFFFFFF0),
    "overlapping records": overlapping,
    "a billion records": lambda: in_zip(b"N.")[:-12] + b"\xff\xfe\xff\xfe" + in_zip(b"N.")[-8:],
    "string of a gigabyte": lambda: b"\x80\x04\x8d" + (1 << 30).to_bytes(8, "little") + b"abc",
    "string of 2**63": lambda: b"\x80\x04\x8d" + (1 << 63).to_bytes(8, "little") + b"abc",
    "bytes of 2**64-1": lambda: b"\x80\x04\x8e" + b"\xff" * 8 + b"abc",
    "integer of 2**31 bytes": lambda: b"\x80\x02\x8b\xff\xff\xff\x7f" + b"1" * 99,
    "integer of a million digits": lambda: b"\x80\x02L" + b"9" * 1_000_000 + b"L\n.",
    "memo index 2**31": lambda: b"\x80\x02Nr\xff\xff\xff\x7f.",
    "memo index 10**900": lambda: b"\x80\x02Np1" + b"0" * 900 + b"\n.",
    "tower as the result": lambda: b"\x80\x02" + tower(5000) + b".",
    "tower as a dict key": lambda: b"\x80\x02}" + tower(5000) + b"Ns.",
    "tower in a set": lambda: b"\x80\x04\x8f(" + tower(5000) + b"\x90.",
    "tower in a frozenset": lambda: b"\x80\x04(" + tower(5000) + b"\x91.",
    "tower as a storage key": lambda: b"\x80\x02(" + tower(5000) + b"tQ.",
    "tower as a name": lambda: b"\x80\x04" + tower(5000) + b"2\x93.",
    "tower of calls": lambda: b"\x80\x02cbuiltins\ntuple\n" + b"2\x85R" * 5000 + b".",
    "deep tuples": lambda: b"\x80\x02N" + b"\x85" * 300_000 + b".",
    "deep lists": lambda: b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "a million levels of marks": lambda: b"\x80\x02" + b"(" * 1_000_000 + b"t" * 1_000_000 + b".",
    "a million levels of dicts": lambda: b"\x80\x02" + b"}N" * 1_000_000 + b"}" + b"s" * 1_000_000 + b".",
    "12 million lists": lambda: b"\x80\x02(" + b"]" * 12_000_000 + b"l.",
    "colliding integers": lambda: (
        b"\x80\x02}("
        + b"".join(b"\x8a\x0a" + (i * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for i in range(60_000))
        + b"u."
    ),
    "one big list copied into many mappings": lambda: (
        b"\x80\x02("
        + b"KAK\x01\x86" * 100_000
        + b"lq\x00"
        + (b"ccollections\nOrderedDict\nh\x00\x85R0") * 20_000
        + b"."
    ),
    "one long text encoded many times": lambda: (
        b"\x80\x02"
        + text("a" * 1_000_000)
        + b"q\x00("
        + b"c_codecs\nencode\nh\x00X\x06\0\0\0latin1\x86R" * 20_000
        + b"l."
    ),
    "one long list made a size many times": lambda: (
        b"\x80\x02(" + b"N" * 500_000 + b"lq\x00(" + b"ctorch\nSize\nh\x00\x85R" * 20_000 + b"l."
    ),
    "safetensors header of 2**62": lambda: (1 << 62).to_bytes(8, "little") + b'{"' + b" " * 100,
    "safetensors header of a billion": lambda: (10**9).to_bytes(8, "little") + b'{"' + b" " * 100,
    "safetensors nested JSON": lambda: safetensors(b"{" + b'"a":' + b"[" * 1_000_000),
    "safetensors overlap": lambda: safetensors({"a": entry(0, 4), "b": entry(2, 6)}, b"\0" * 6),
    "safetensors hole": lambda: safetensors({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12),
    "safetensors past the end": lambda: safetensors({"a": entry(0, 4 << 40, [1 << 40])}, b"\0" * 8),
    "safetensors leftover": lambda: safetensors({"a": entry(0, 4)}, b"\0" * 8),
    "safetensors reversed offsets": lambda: safetensors({"a": entry(4, 0)}, b"\0" * 4),
    "safetensors negative": lambda: safetensors({"a": entry(-4, 0)}, b"\0" * 4),
    "safetensors overflowing shape": lambda: safetensors({"a": entry(0, 0, [1 << 62, 1 << 62, 4])}),
    "safetensors overflow to zero": lambda: safetensors({"a": entry(0, 4, [1 << 32, 1 << 32])}, b"\0" * 4),
    "safetensors a million dimensions": lambda: safetensors({"a": entry(0, 4, [(1 << 63) - 1] * 100_000)}, b"\0" * 4),
    "safetensors key twice": lambda: safetensors(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"0",
    ),
    "safetensors dtype twice": lambda: safetensors(
        b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"0"
    ),
    "safetensors true as a size": lambda: safetensors(
        b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"0"
    ),
    "safetensors number of a million digits": lambda: safetensors(
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 1_000_000 + b'],"data_offsets":[0,1]}}', b"0"
    ),
    "JSON that is no object": lambda: safetensors(b"{}", b""),
}


# These take seconds, the first because ten million objects are made before it is enough.
SLOW = ("12 million lists", "one big list copied into many mappings", "a million levels of dicts", "zip bomb")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in REFUSED]
)
def test_bomb_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(REFUSED[name]())
    assert run(path).startswith("REFUSED")


# Beside real weights the same things are merely odd, and the weights are still read.
TOLERATED = {
    "tower": tower(5000),
    "tower as a dict key": b"}" + tower(5000) + b"Ns",
    "deep tuples": b"N" + b"\x85" * 1_000_000,
    "list that holds itself": b"]2a",
    "dict that holds itself": b"}" + b"2" + b"X\x01\0\0\0a" + b"1"[:0] + b"Ns0",
    "memo index 2**31": b"Nr\xff\xff\xff\x7f",
    "long text": text("a" * 20_000_000),
    "global of odd name": b"c\x1b[31m\n::error::\n",
}


@pytest.mark.parametrize("name", TOLERATED)
def test_odd_things_beside_weights(name: str, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(beside_a_tensor(TOLERATED[name]))
    assert run(path).startswith("READ 1")


def bad_tensor(size: bytes, stride: bytes, offset: bytes = b"K\0", numel: bytes = b"K\x02") -> bytes:
    """A torch zip whose only tensor has these arguments; its storage has 8 bytes."""
    pickled = (
        b"\x80\x02}"
        + text("w")
        + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text("0")
        + text("cpu")
        + numel
        + b"tQ"
        + offset
        + size
        + stride
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", b"\0" * 8)
        archive.writestr("a/version", "3")
    return stream.getvalue()


BIG = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"
SHAPES = {
    "more elements than the storage": (b"K\x03\x85", b"K\x01\x85", b"K\0", b"K\x02"),
    "offset past the end": (b"K\x01\x85", b"K\x01\x85", b"K\x02", b"K\x02"),
    "negative offset": (b"K\x01\x85", b"K\x01\x85", b"J\xff\xff\xff\xff", b"K\x02"),
    "negative size": (b"J\xff\xff\xff\xff\x85", b"K\x01\x85", b"K\0", b"K\x02"),
    "negative stride": (b"K\x02\x85", b"J\xff\xff\xff\xff\x85", b"K\x01", b"K\x02"),
    "overflowing sizes": (BIG + BIG + BIG + b"\x87", b"K\0K\0K\0\x87", b"K\0", b"K\x02"),
    "huge stride": (b"K\x02\x85", BIG + b"\x85", b"K\0", b"K\x02"),
    "missing stride": (b"K\x02\x85", b")", b"K\0", b"K\x02"),
    "text as size": (b"X\x01\0\0\0a\x85", b"K\x01\x85", b"K\0", b"K\x02"),
    "list of text as size": (b"]" + text("a") + b"a", b"K\x01\x85", b"K\0", b"K\x02"),
    "true as size": (b"\x88\x85", b"K\x01\x85", b"K\0", b"K\x02"),
    "storage larger than its record": (b"K\x02\x85", b"K\x01\x85", b"K\0", b"K\x03"),
    "storage of negative size": (b"K\x02\x85", b"K\x01\x85", b"K\0", b"J\xff\xff\xff\xff"),
    "storage of 2**63": (b"K\x02\x85", b"K\x01\x85", b"K\0", BIG),
}


@pytest.mark.parametrize("name", SHAPES)
def test_tensor_that_contradicts_its_storage(name: str, tmp_path: Path) -> None:
    from ckptdiff.checkpoint import read
    from ckptdiff.errors import CheckpointError

    path = tmp_path / "bad.pth"
    path.write_bytes(bad_tensor(*SHAPES[name]))
    with pytest.raises(CheckpointError):
        read(path)


def test_the_tensor_those_are_variations_of_is_sound(tmp_path: Path) -> None:
    from ckptdiff.checkpoint import read

    path = tmp_path / "good.pth"
    path.write_bytes(bad_tensor(b"K\x02\x85", b"K\x01\x85"))
    assert read(path).tensors["w"].shape == (2,)


def test_names_of_a_megabyte_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.pth"
    torch.save({"k" * (1 << 20): torch.ones(1)}, path)
    assert run(path).startswith("READ 1")


def module(parameters: bytes, modules: bytes) -> bytes:
    """A pickled nn.Module with these dicts."""
    parts = text("_parameters") + parameters + text("_buffers") + b"}" + text("_modules") + modules
    return b"cm\nModule\n)\x81}(" + parts + b"ub"


TENSOR = b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\n))\x89tR"
MODULES = {
    "one module at many places": module(b"}" + text("w") + TENSOR + b"s", b"}")
    + b"q\x00"
    + (
        b"".join(
            b"0" + module(b"}", b"}(" + text("a") + b"h\x00" + text("b") + b"h\x00u") + b"q\x00" for _ in range(60)
        )
    ),
    "a module inside itself": b"cm\nModule\n)\x81q\x00}("
    + text("_parameters")
    + b"}"
    + text("w")
    + TENSOR
    + b"s"
    + text("_buffers")
    + b"}"
    + text("_modules")
    + b"}"
    + text("self")
    + b"h\x00sub",
    "long names": text("n" * 1_000_000)
    + b"q\x010"
    + module(b"}h\x01" + TENSOR + b"s", b"}")
    + b"q\x00"
    + (b"".join(b"0" + module(b"}", b"}h\x01h\x00s") + b"q\x00" for _ in range(900))),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", MODULES)
def test_module_bombs(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(b"\x80\x02" + MODULES[name] + b".")
    out = run(path)
    assert out.startswith("REFUSED"), out[:200]
    assert "nested without end" in out


def test_a_long_name_above_many_state_dicts(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    name = "n" * 4_000_000
    inner = {str(i): {"w": torch.ones(1)} for i in range(900)}
    torch.save({name: {name: {name: inner}}, "model": {"w": torch.ones(1)}}, path)
    assert run(path).startswith("READ 1")


def test_a_compressed_pickle_may_not_grow_without_measure(tmp_path: Path) -> None:
    """A pickle of torch's is a fifth of its size when compressed; this one is a thousandth."""
    path = tmp_path / "bomb"
    path.write_bytes(in_zip(b"\x80\x02(" + b"N" * (20 << 20) + b"l.", zipfile.ZIP_DEFLATED))
    out = run(path)
    assert out.startswith("REFUSED")
    assert "compressed to" in out


# What a program may make goes by the size of its file: each of these is made of megabytes that name nothing new.
FLOODS = {
    "None on the stack": b"(" + b"N" * 5_500_000 + b"l",
    "copies of the top": b"N(N" + b"2" * 1_200_000 + b"l",
    "popped again": b"N0" * 1_000_000,
    "popped again, and an object now and then": (b"]0" * 100 + b"N0" * 8000) * 520,
    "marks popped": b"(1" * 1_000_000,
    "state set on nothing": b"}" + b"Nb" * 1_500_000,
    "nothing set": b"}" + b"(u" * 3_000_000,
    "nothing appended": b"]" + b"(e" * 3_000_000,
    "the memo written again": b"N" + b"q\0" * 9_000_000,
    "the protocol said again": b"\x80\x02" * 9_000_000 + b"N",
    "dicts of one": b"(" + b"}NNs" * 800_000 + b"l",
    "mappings": b"ccollections\nOrderedDict\nq\0(" + b"h\0)R" * 800_000 + b"l",
    "objects": b"cm\nC\nq\0(" + b"h\0)\x81" * 1_600_000 + b"l",
    "floats": b"](" + b"G?\xf0\0\0\0\0\0\x01" * 3_000_000 + b"e",
    "floats by the thousand": b"]" + (b"(" + b"G?\xf0\0\0\0\0\0\x01" * 1000 + b"e") * 3000,
    "short texts": b"(" + b"\x8c\x02ab" * 2_500_000 + b"l",
    "long names of classes": b"(" + b"".join(b"cm%d\n%s\n" % (i, b"C" * 4000) for i in range(4300)) + b"l",
}


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", FLOODS)
def test_floods(name: str, tmp_path: Path) -> None:
    path = tmp_path / "flood"
    path.write_bytes(in_zip(b"\x80\x04" + FLOODS[name] + b"."))
    out = run(path)
    assert out.startswith("REFUSED"), out[:200]
    assert "asks for more than any checkpoint does" in out


def test_what_a_large_file_holds_beside_its_weights_is_read(tmp_path: Path) -> None:
    """The limits leave room for lists and vocabularies of a million."""
    path = tmp_path / "large.pth"
    torch.save(
        {
            "model": {"w": torch.ones(2)},
            "vocabulary": {f"token{i}": i for i in range(300_000)},
            "losses": [i / 7 for i in range(1_000_000)],
            "documents": ["ä" * 20_000] * 2 + [f"{i}" * 3000 for i in range(300)],
            "arrays": [b"\0" * 70_000 + bytes([i % 256]) for i in range(300)],
        },
        path,
    )
    assert run(path).startswith("READ 1")


def sparse(levels: int) -> bytes:
    """A sparse tensor whose parts are sparse tensors, and so on: 3**levels to whoever walks it."""
    tensor = b"ctorch._utils\n_rebuild_sparse_tensor\n(ctorch.serialization\n_get_layout\n"
    layout = tensor + text("torch.sparse_csr") + b"\x85R("
    return TENSOR + (b"q\x000" + layout + b"h\x00h\x00h\x00)ttR") * levels


def test_sparse_tensors_of_sparse_tensors(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(in_zip(b"\x80\x02}" + text("w") + sparse(60) + b"s."))
    assert run(path).startswith("REFUSED")


def test_one_long_shape_of_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    shape = b"(" + b"K\x01" * 900 + b"tq\x00"
    tensor = b"ctorch._utils\n_rebuild_meta_tensor_no_storage\nq\x010ctorch\nfloat32\nq\x020"
    entries = b"".join(text(f"w{i}") + b"h\x01(h\x02h\x00h\x00\x89tR" for i in range(30_000))
    path.write_bytes(in_zip(b"\x80\x02" + shape + b"0" + tensor + b"}(" + entries + b"u."))
    out = run(path)
    assert out.startswith("REFUSED")
    assert "dimensions" in out


def test_modules_that_share_one_long_list_of_names(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    names = b"}(" + b"".join(text(f"n{i}") + b"N" for i in range(100_000)) + b"uq\x00"
    one = b"cm\nModule\n)\x81}(" + text("_parameters") + b"h\x00" + text("_buffers") + b"h\x00"
    many = b"(" + (one + text("_modules") + b"}ub") * 3000 + b"l"
    path.write_bytes(in_zip(b"\x80\x02}(" + text("w") + TENSOR + text("x") + names + text("y") + many + b"u."))
    assert run(path).startswith("READ 3")


JSON = {
    "lists": b'{"a":[' + b"[]," * 9_000_000 + b"[]]}",
    "objects": b'{"a":[' + b"{}," * 9_000_000 + b"{}]}",
    "texts": b'{"a":[' + b'"ab",' * 9_000_000 + b'""]}',
    "numbers": b'{"a":{"dtype":"F32","shape":[' + b"300," * 9_000_000 + b'1],"data_offsets":[0,0]}}',
    "metadata": b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(5_200_000)) + b"}}",
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", JSON)
def test_headers_that_become_a_hundred_times_their_size(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(safetensors(JSON[name]))
    out = run(path)
    assert out.startswith("REFUSED"), out[:200]
    assert "many millions of values" in out or "not described" in out


def test_long_lists_of_numbers_count_twice_and_shapes_once() -> None:
    with pytest.raises(bounded.ExcessError):
        bounded.check(b"[" + b"300," * 9_000_000 + b"1]")
    row = b'"model.layers.%d.weight":{"dtype":"F32","shape":[3,3,3,3],"data_offsets":[%d,%d]},'
    bounded.check(b"{" + b"".join(row % (i, i * 324, i * 324 + 324) for i in range(100_000)) + b'"a":"b"}')


def test_brackets_in_names_are_names(tmp_path: Path) -> None:
    """A text is refused for what it becomes, not for the characters in it."""
    path = tmp_path / "odd.safetensors"
    path.write_bytes(safetensors({"[{," * 1_200_000: entry(0, 4), '\\"[' * 100_000: entry(4, 8)}, b"\0" * 8))
    assert run(path).startswith("READ 2")


def test_more_keys_than_any_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in each kind of file, and for what is asked of it."""
    monkeypatch.setattr(opened, "MAX_KEYS", 20)
    state = {f"layers.{i}.w": torch.ones(1) for i in range(21)}
    torch.save(state, tmp_path / "w.pth")
    torch.save({"model": state, "epoch": 1}, tmp_path / "deep.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "w.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(state, "w.safetensors")})
    )
    for file in tmp_path.iterdir():
        for ask in (ckptdiff.inspect, lambda path: ckptdiff.compare(torch.nn.Linear(1, 1), path)):
            with pytest.raises(CheckpointError, match="has 21 keys, more than any state dict"):
                ask(file)
    monkeypatch.setattr(opened, "MAX_KEYS", 21)
    assert len(ckptdiff.inspect(tmp_path / "w.pth").tensors) == 21
    assert len(ckptdiff.inspect(tmp_path / "model.safetensors.index.json").tensors) == 21
