"""Files made to exhaust time or memory, and what reading them costs: `python -m tests.formats.bombs`.

Prints a table of every file and verb (`--only WORD` for some of them; docs/limits.md has the outcome): the file's
size, the CPU time and peak memory of the whole process, its exit code, and the sentence or first line it ended with.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CPU, MEMORY = 5.0, 1 << 30
"""What any of these files may cost: seconds, bytes."""

# What each process is held to, so that a bomb that goes off ends by itself.
HELD_CPU, HELD_MEMORY = int(os.environ.get("BOMB_CPU", "60")), 6 << 30


# Building blocks


def text(value: str) -> bytes:
    """BINUNICODE."""
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def put(index: int) -> bytes:
    """LONG_BINPUT."""
    return b"r" + index.to_bytes(4, "little")


def get(index: int) -> bytes:
    """LONG_BINGET."""
    return b"j" + index.to_bytes(4, "little")


META = b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\n(K\x02t(K\x01t\x89tR"
"""A tensor that needs no storage."""


def write_zip(path: Path, program: bytes | Iterable[bytes], *, compressed: bool = False) -> Path:
    """A torch zip of one pickle program."""
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method, compresslevel=6 if compressed else None) as archive:
        with archive.open("a/data.pkl", "w", force_zip64=True) as record:
            for part in (program,) if isinstance(program, bytes) else program:
                record.write(part)
        archive.writestr("a/version", "3")
    return path


def deflated(program: bytes | Iterable[bytes]) -> Callable[[Path], Path]:
    return lambda path: write_zip(path, program() if callable(program) else program, compressed=True)


def stored(program: Callable[[], bytes | Iterable[bytes]]) -> Callable[[Path], Path]:
    return lambda path: write_zip(path, program())


def many(part: bytes, count: int, before: bytes = b"", after: bytes = b"") -> Iterable[bytes]:
    """`part` repeated, without a copy of all of it in memory."""
    yield before
    chunk = part * 10_000
    for _ in range(count // 10_000):
        yield chunk
    yield part * (count % 10_000)
    yield after


def flood(
    part: bytes, count: int, before: bytes = b"\x80\x02", after: bytes = b".", *, compressed: bool = False
) -> Callable[[Path], Path]:
    """A pickle that says the same thing again and again."""
    return lambda path: write_zip(path, many(part, count, before, after), compressed=compressed)


def safetensors(keys: Iterable[str]) -> Callable[[Path], Path]:
    """A sound file of empty tensors of these names."""

    def write(path: Path) -> Path:
        rows = (f'{json.dumps(key)}:{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for key in keys)
        return write_header(path, ("{" + ",".join(rows) + "}").encode())

    return write


def write_header(path: Path, header: bytes) -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def header(content: Callable[[], bytes]) -> Callable[[Path], Path]:
    return lambda path: write_header(path, content())


def plain(content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content())
        return path

    return write


def state_dict(keys: Callable[[], Iterable[str]]) -> Callable[[Path], Path]:
    """A compressed pickle: one meta tensor under many keys."""

    def program() -> Iterable[bytes]:
        yield b"\x80\x02}" + META + b"r\0\0\0\x010("
        for key in keys():
            yield text(key) + b"j\0\0\0\x01"
        yield b"u."

    return lambda path: write_zip(path, program(), compressed=True)


def one_tensor(count: int) -> Callable[[Path], Path]:
    """Every key is the same tensor, of one storage."""

    def write(path: Path) -> Path:
        import torch

        torch.save({"w": torch.ones(2)}, path)
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
        name = next(name for name in found if name.endswith("data.pkl"))
        program = found[name]
        at = program.index(b"ctorch._utils")
        tensor = program[at : program.rindex(b"s.")]
        keys = (text(f"layers.{i}.w") + b"j\0\0\0\x01" for i in range(count))
        found[name] = b"\x80\x02}" + tensor + b"r\0\0\0\x010(" + b"".join(keys) + b"u."
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in found.items():
                archive.writestr(name, content)
        return path

    return write


def nested_modules(levels: int, name: int) -> Callable[[Path], Path]:
    """A pickled module inside a module inside a module, each of a long name."""

    def program() -> Iterable[bytes]:
        yield b"\x80\x02" + text("n" * name) + put(1) + b"0"
        yield _module(b"}" + text("w") + META + b"s", b"}") + put(0)
        for _ in range(levels):
            yield b"0" + _module(b"}", b"}" + get(1) + get(0) + b"s") + put(0)
        yield b"."

    def write(path: Path) -> Path:
        path.write_bytes(b"".join(program()))
        return path

    return write


def _module(parameters: bytes, modules: bytes) -> bytes:
    parts = text("_parameters") + parameters + text("_buffers") + b"}" + text("_modules") + modules
    return b"cm\nModule\n)\x81}(" + parts + b"ub"


def directory_of(count: int) -> Callable[[Path], Path]:
    """An archive of very many records, none of them of use."""

    def write(path: Path) -> Path:
        rows = []
        local = io.BytesIO()
        for index in range(count):
            name = f"a/{index}".encode()
            head = local.tell()
            local.write(struct.pack("<4sHHHHHLLLHH", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name)
            rows.append(
                struct.pack(
                    "<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, head
                )
                + name
            )
        program = b"\x80\x02}."
        head = local.tell()
        name = b"a/data.pkl"
        sizes = (zlib.crc32(program), len(program), len(program))
        local.write(struct.pack("<4sHHHHHLLLHH", b"PK\3\4", 20, 0, 0, 0, 0, *sizes, len(name), 0) + name + program)
        rows.append(
            struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, head)
            + name
        )
        start = local.tell()
        directory = b"".join(rows)
        end = start + len(directory)
        local.write(directory)
        local.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, len(rows), len(rows), len(directory), start))
        local.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        local.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
        path.write_bytes(local.getvalue())
        return path

    return write


def index_of(count: int, shards: int = 1) -> Callable[[Path], Path]:
    """A sharded checkpoint whose index names far more keys than its shards hold."""

    def write(path: Path) -> Path:
        path.mkdir()
        rows = (f'"layers.{i}.w":"m{i % shards}.safetensors"' for i in range(count))
        (path / "model.safetensors.index.json").write_text('{"weight_map":{' + ",".join(rows) + "}}")
        for shard in range(shards):
            safetensors([f"layers.{shard}.w"])(path / f"m{shard}.safetensors")
        return path / "model.safetensors.index.json"

    return write


def distributed(program: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.mkdir()
        (path / ".metadata").write_bytes(program())
        return path

    return write


def dcp(count: int, path: bytes = b"") -> bytes:
    """`.metadata` of many tensors."""
    where = b"ctorch.distributed.checkpoint.metadata\n"
    properties = where + b"TensorProperties\n)\x81}" + text("dtype") + b"ctorch\nfloat32\nsb"
    tensor = (
        where + b"TensorStorageMetadata\n)\x81}(" + text("properties") + properties
        + text("size") + b"ctorch\nSize\n(K\x02t\x85R" + text("chunks") + b"]ub"
    )  # fmt: skip
    keys = b"".join(text(f"layers.{i}.w") + get(0) for i in range(count))
    return (
        b"\x80\x02" + tensor + put(0) + b"0" + where + b"Metadata\n)\x81}("
        + text("state_dict_metadata") + b"}(" + keys + b"u" + text("planner_data") + b"}" + path
        + text("storage_data") + b"Nub."
    )  # fmt: skip


def legacy_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for index in range(20_000):
            archive.addfile(tarfile.TarInfo(f"tensors/{index}"))
    return path


def torchscript(code: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"\x80\x02c__torch__.m\nNet\n)\x81}b.")
            archive.writestr("a/constants.pkl", b"\x80\x02).")
            archive.writestr("a/code/__torch__/m.py", code())
        return path

    return write


def gone_apart(count: int) -> Iterable[str]:
    """Keys whose numbers have nothing in common: no two fold."""
    return (f"a.{i * 7919 % 1000003}.b.{i * 104729 % 1299709}.c.{i}.w" for i in range(count))


def opposed(count: int) -> Iterable[str]:
    """Keys of sixteen numbers each."""
    return (".".join(str(i * prime % 100003) for prime in range(3, 19)) for i in range(count))


def json_file(content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        target = path.with_suffix(".json")
        target.write_bytes(content())
        return target

    return write


def snapshot_of(count: int, key: Callable[[int], str]) -> bytes:
    rows = ",".join(
        json.dumps({"key": key(i), "kind": "parameter", "dtype": "float32", "shape": [2]}) for i in range(count)
    )
    modules = ",".join(
        [json.dumps({"path": "", "class": "m.Net"})]
        + [json.dumps({"path": path, "class": "torch.nn.Module"}) for path in _paths(key(i) for i in range(count))]
    )
    head = (
        f'{{"ckptdiff_snapshot": 1, "class": "m.Net", "torch": "2.13.0", "modules": [{modules}], "tensors": [{rows}]}}'
    )
    return head.encode()


def _paths(keys: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for key in keys:
        parts = key.split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            found[".".join(parts[:depth])] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class Bomb:
    """How a file is written, and the verbs to try on it."""

    write: Callable[[Path], Path]
    verbs: tuple[str, ...] = ("inspect",)


EVERY = ("inspect", "inspect --all", "inspect --format json", "compare", "compare --all", "compare --format html",
         "compare --format github", "compare --format markdown", "suggest", "filter --dry-run", "rewrite --dry-run",
         "compare itself")  # fmt: skip
FEW = ("inspect", "compare", "suggest")
MILLION = 1_000_000

BOMBS: dict[str, Bomb] = {
    # pickle programs
    "100 million None": Bomb(flood(b"N", 100 * MILLION, b"\x80\x02(", b"l.", compressed=True)),
    "100 million None, not compressed": Bomb(flood(b"N", 100 * MILLION, b"\x80\x02(", b"l.")),
    "100 million None, popped": Bomb(flood(b"N0", 100 * MILLION)),
    "100 million memo writes": Bomb(flood(b"q\0", 100 * MILLION, b"\x80\x02N")),
    "100 million protocols": Bomb(flood(b"\x80\x02", 100 * MILLION, b"", b"N.")),
    "100 million empty SETITEMS": Bomb(flood(b"(u", 100 * MILLION, b"\x80\x02}")),
    "100 million empty APPENDS": Bomb(flood(b"(e", 100 * MILLION, b"\x80\x02]")),
    "100 million BUILD": Bomb(flood(b"Nb", 100 * MILLION, b"\x80\x02}")),
    "100 million marks popped": Bomb(flood(b"(1", 100 * MILLION, b"\x80\x02N")),
    "30 million DUP": Bomb(flood(b"2", 30 * MILLION, b"\x80\x02(N", b"l.")),
    "40 million memo entries": Bomb(
        lambda path: write_zip(
            path,
            itertools.chain(
                [b"\x80\x02N"], (b"".join(map(put, range(i, i + 10000))) for i in range(0, 40 * MILLION, 10000)), [b"."]
            ),
            compressed=False,
        )
    ),
    "10 million dicts of one": Bomb(flood(b"}NNs", 10 * MILLION, b"\x80\x02(", b"l.")),
    "10 million sets": Bomb(flood(b"\x8f", 10 * MILLION, b"\x80\x04(", b"l.")),
    "a dict with a million sets as keys": Bomb(flood(b"\x8fN", MILLION, b"\x80\x04}(", b"u.")),
    "10 million OrderedDicts": Bomb(
        flood(b"h\0)R", 10 * MILLION, b"\x80\x02ccollections\nOrderedDict\nq\x000(", b"l.")
    ),
    "10 million objects with state": Bomb(flood(b"h\0)\x81}b", 10 * MILLION, b"\x80\x02cm\nC\nq\x000(", b"l.")),
    "10 million objects with items": Bomb(flood(b"h\0)\x81NNs", 10 * MILLION, b"\x80\x02cm\nC\nq\x000(", b"l.")),
    "25 million floats": Bomb(flood(b"G\x3f\xf0\0\0\0\0\0\1", 25 * MILLION, b"\x80\x02](", b"e.")),
    "25 million floats, a thousand at a time": Bomb(
        flood(b"(" + b"G\x3f\xf0\0\0\0\0\0\1" * 1000 + b"e", 25_000, b"\x80\x02]", b".")
    ),
    "25 million integers": Bomb(flood(b"J\0\1\0\0", 25 * MILLION, b"\x80\x02(", b"t.")),
    "20 million short texts": Bomb(flood(b"\x8c\x02ab", 20 * MILLION, b"\x80\x04(", b"l.")),
    "texts of 250 MB, four bytes a character": Bomb(
        flood(b"X\xff\xf0\0\0" + b"a" * 61_691 + "\U0001f600".encode(), 4000, b"\x80\x02(", b"l.")
    ),
    "250 MB of texts in long ones": Bomb(flood(text("a" * 9_999_996 + "\U0001f600"), 25, b"\x80\x02(", b"l.")),
    "integers of 64 KiB": Bomb(flood(b"\x8b\0\0\1\0" + b"\1" * 65536, 3800, b"\x80\x02(", b"l.")),
    "20 million long integers": Bomb(flood(b"\x8a\x0a" + b"\1" * 10, 20 * MILLION, b"\x80\x02(", b"l.")),
    "one list in a list, 2**60 when walked": Bomb(deflated(b"\x80\x02]" + b"q\0(h\0h\0l" * 60 + b".")),
    "one dict in a dict, 2**60 when walked": Bomb(
        deflated(b"\x80\x02" + META + b"q\0" + (b"0}(" + text("a") + b"h\0" + text("b") + b"h\0uq\0") * 60 + b".")
    ),
    "5,000 levels of dicts": Bomb(deflated(b"\x80\x02" + (b"}" + text("a")) * 5000 + META + b"s" * 5000 + b".")),
    "text of false length": Bomb(stored(lambda: b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"a" * 100)),
    "a million globals": Bomb(
        stored(lambda: b"\x80\x02(" + b"".join(b"cm\nC%d\n" % i for i in range(MILLION)) + b"l.")
    ),
    "60,000 globals of 4 KB": Bomb(
        stored(lambda: b"\x80\x02(" + b"".join(b"cm%d\n%s\n" % (i, b"C" * 4000) for i in range(60_000)) + b"l.")
    ),
    # state dicts
    "1,000 keys of 100 KB": Bomb(state_dict(lambda: (f"{i}" + "k" * 100_000 for i in range(1000))), EVERY),
    "one key of 90 MB": Bomb(safetensors("k" * size for size in [90_000_000]), EVERY),
    "one key of 90 MB of dots": Bomb(safetensors("k." * size + "w" for size in [45_000_000]), EVERY),
    "one key of 60 MB in a pickle": Bomb(state_dict(lambda: ["k." * 8_000_000] * 4), FEW),
    "1,000 keys of 500 components": Bomb(safetensors([f"k{i}." * 500 + "w" for i in range(1000)]), EVERY),
    "20 keys of 12,000 components": Bomb(safetensors([f"{i}." * 12_000 + "w" for i in range(20)]), EVERY),
    "2,000 keys each deeper by a component": Bomb(safetensors(["a." * i + "w" for i in range(2000)]), EVERY),
    "200,000 keys of other numbers": Bomb(safetensors(gone_apart(200_000)), EVERY),
    "700,000 numbers as keys": Bomb(safetensors(str(i) for i in range(700_000)), EVERY),
    "200,000 numbers apart as keys": Bomb(safetensors(str(i * i) for i in range(200_000)), EVERY),
    "100,000 keys of 16 numbers": Bomb(safetensors(opposed(100_000)), EVERY),
    "200,000 keys of control characters": Bomb(
        safetensors(f"\x1b[31m\u202e{i}\n::error::" for i in range(200_000)), EVERY
    ),
    "a million keys of one tensor": Bomb(one_tensor(MILLION), EVERY),
    "a million dtypes and shapes": Bomb(header(lambda: _shapes(500_000)), FEW),
    "500,000 values that are no tensors": Bomb(
        deflated(
            lambda: itertools.chain(  # type: ignore[arg-type]
                [b"\x80\x02}" + text("w") + META + b"s("],
                (text(f"v{i}") + b"J\0\1\0\0" for i in range(500_000)),
                [b"u."],
            )
        ),
        EVERY,
    ),
    # JSON
    "30 million [] in a safetensors header": Bomb(header(lambda: b'{"a":[' + b"[]," * 30_000_000 + b"[]]}")),
    "12 million {} in a safetensors header": Bomb(header(lambda: b'{"a":[' + b"{}," * 30_000_000 + b"{}]}")),
    "6 million metadata entries": Bomb(
        header(lambda: b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(6 * MILLION)) + b"}}"), FEW
    ),
    "500,000 metadata entries": Bomb(
        header(
            lambda: (
                b'{"__metadata__":{'
                + b",".join(b'"%d":""' % i for i in range(500_000))
                + b'},"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
            )
        ),
        FEW,
    ),
    "one shape of 30 million numbers": Bomb(
        header(lambda: b'{"a":{"dtype":"F32","shape":[' + b"300," * 24_000_000 + b'1],"data_offsets":[0,0]}}')
    ),
    "10 million texts in a list": Bomb(header(lambda: b'{"a":[' + b'"ab",' * 18_000_000 + b'""]}')),
    "a header of blanks": Bomb(header(lambda: b"{" + b" " * 90_000_000 + b"}")),
    "an index of 3 million keys": Bomb(index_of(3 * MILLION), FEW),
    "an index of 30 million []": Bomb(json_file(lambda: b'{"weight_map":[' + b"[]," * 60_000_000 + b"[]]}")),
    # containers
    "a million records": Bomb(directory_of(MILLION), FEW),
    "1,000 metadata entries of deep modules": Bomb(nested_modules(990, 480), FEW),
    "a directory of 500,000 tensors": Bomb(distributed(lambda: dcp(500_000)), FEW),
    "TorchScript code of 60 MB": Bomb(
        torchscript(lambda: b"class Net(Module):\n  __parameters__ = [" + b'"a", ' * 12_000_000 + b"]\n")
    ),
    "TorchScript of 2 million classes": Bomb(torchscript(lambda: b"class N(Module):\n" * 3_000_000)),
    "a tar of 20,000 members": Bomb(legacy_tar),
    "zeros of 250 MB inflated": Bomb(flood(b"\0", 250 * MILLION)),
    # what is no checkpoint
    "a snapshot of 30 million []": Bomb(
        json_file(lambda: b'{"ckptdiff_snapshot": 1, "modules":[' + b"[]," * 60_000_000 + b"[]]}")
    ),
    "a snapshot of 500,000 keys": Bomb(
        json_file(lambda: snapshot_of(500_000, lambda i: f"layers.{i // 2}.{'ab'[i % 2]}")), FEW
    ),
    "a snapshot of one deep path": Bomb(json_file(lambda: snapshot_of(1, lambda _: "a." * 3000 + "w"))),
}


def _shapes(count: int) -> bytes:
    rows = []
    for i in range(count):
        rows.append(b'"layers.%d.w":{"dtype":"U8","shape":[0,%d],"data_offsets":[0,0]}' % (i, i))
    return b"{" + b",".join(rows) + b"}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process used, and how it ended."""

    cpu: float
    memory: int
    code: int
    said: str


def measure(arguments: list[str], directory: Path) -> Cost:
    """Runs `ckptdiff ARGUMENTS` in a process of its own, held by the operating system."""
    import resource

    def held() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (HELD_CPU, HELD_CPU))
        resource.setrlimit(resource.RLIMIT_AS, (HELD_MEMORY, HELD_MEMORY))

    where = directory / "out"
    with where.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ckptdiff", *arguments],
            stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY, preexec_fn=held,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    with where.open("rb") as out:
        head = out.read(4000).decode("utf-8", "replace")
    first = next((line.strip() for line in head.splitlines() if line.strip()), "")
    said = re.sub(re.escape(str(directory)) + "/", "", re.sub(r"^(error: )", "", first))
    if "Traceback" in head or "internal error" in head.lower():
        said = "TRACEBACK " + head[-300:]
    return Cost(
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        process.returncode,
        said[:150],
    )


def written(bomb: Bomb, directory: Path) -> Path:
    """The bomb's file, written by another process: the peak memory of a process counts what its parent had."""
    said, say = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(say, os.fsencode(bomb.write(directory / "file")))
        finally:
            os._exit(0)
    os.close(say)
    with os.fdopen(said, "rb") as pipe:
        path = pipe.read()
    os.waitpid(child, 0)
    return Path(os.fsdecode(path))


def arguments_of(verb: str, path: Path, small: Path) -> list[str]:
    """The command line of a verb on a file, `small` being a small model's snapshot."""
    name, *options = verb.split()
    if name == "inspect":
        return ["inspect", str(path), *options]
    if verb == "compare itself":
        return ["compare", str(path.with_suffix(".model.json")), str(path)]
    if name == "filter":
        return ["filter", str(small), str(path), "-o", str(path) + ".out.pth", *options]
    if name == "rewrite":
        return ["rewrite", str(path), "-o", str(path) + ".out.pth", *options]
    return [name, str(small), str(path), *options]


SMALL = snapshot_of(8, lambda i: f"layers.{i}.weight")


def main(argv: list[str] | None = None) -> int:
    """Writes every bomb, measures it, prints a row for each verb. The exit code is 1 where one went off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="files whose name holds this")
    parser.add_argument("--verb", default="", help="verbs that begin so")
    options = parser.parse_args(argv)
    over = 0
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder, "small.json")
        small.write_bytes(SMALL)
        for name, bomb in BOMBS.items():
            if options.only not in name:
                continue
            directory = Path(folder, "it")
            directory.mkdir()
            path = written(bomb, directory)
            size = sum(item.stat().st_size for item in directory.rglob("*") if item.is_file())
            for verb in bomb.verbs:
                if not verb.startswith(options.verb) or verb == "compare itself":
                    continue
                cost = measure(arguments_of(verb, path, small), directory)
                bad = cost.cpu > CPU or cost.memory > MEMORY or cost.code not in (0, 1, 2) or "TRACEBACK" in cost.said
                over += bad
                said = f"`{cost.said}`" if cost.code == 2 else "read" if cost.code in (0, 1) else cost.said
                print(
                    f"| {name} | {size / 1e6:.2f} MB | {verb} | {cost.cpu:.1f} s | {cost.memory / 1e6:,.0f} MB "
                    f"| {cost.code} | {said} |" + (" **over**" if bad else ""),
                    flush=True,
                )
            for item in sorted(directory.rglob("*"), reverse=True):
                item.unlink() if item.is_file() else item.rmdir()
            directory.rmdir()
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
