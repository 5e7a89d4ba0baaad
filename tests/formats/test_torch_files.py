"""Whatever torch.save writes reads as torch.load says, in both formats and every pickle protocol."""

from __future__ import annotations

import re
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles import machine as pickle_vm
from ckptdiff.tensors import DTYPES, ObjectInfo, TensorInfo
from tests.formats.oracle import assert_same, load

# torch warns that complex32, sparse and quantized tensors are young or old; neither is news here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

# torch cannot save the sub-byte shells (uint1 … int7) itself.
SHELLS = {f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)}
DTYPE_NAMES = [name for name in DTYPES if hasattr(torch, name) and name not in SHELLS]


def save(value: object, path: Path, protocol: int, legacy: bool) -> Path:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.fixture(params=[(p, legacy) for legacy in (False, True) for p in (2, 3, 4, 5)], ids=str)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    protocol, legacy = request.param

    def write(value: object) -> Path:
        return save(value, tmp_path / "file.pth", protocol, legacy)

    return write


def blank(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    dtype = getattr(torch, name)
    if dtype in (torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4):
        if name in ("quint4x2", "quint2x4"):
            return torch._empty_per_channel_affine_quantized(
                (4, 8),
                scales=torch.ones(4),
                zero_points=torch.zeros(4),
                axis=0,
                dtype=dtype,
            )
        return torch._empty_affine_quantized(shape, scale=1.0, zero_point=0, dtype=dtype)
    return torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize("name", DTYPE_NAMES)
def test_every_dtype(name: str, written: Any) -> None:
    state = {"w": blank(name, (3, 5)), "b": blank(name, (4,))}
    try:
        path = written(state)
    except KeyError:
        pytest.skip("this torch cannot save it")
    try:
        loaded = load(path)
    except AttributeError:
        # The legacy format has no word for dtypes younger than it: torch writes them and cannot read them back.
        with pytest.raises(CheckpointError, match=r"torch.load itself cannot read"):
            read(path)
    else:
        assert_same(read(path), loaded)


def kinds() -> dict[str, Any]:
    base = torch.arange(24.0).reshape(4, 6)
    weight = torch.nn.Parameter(torch.ones(2, 3))
    return {
        "plain": base,
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "empty_view": base[4:],
        "parameter": weight,
        "same_parameter": weight,
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "row": base[2],
        "columns": base[:, 1:3],
        "transposed": base.t(),
        "permuted": torch.zeros(2, 3, 4).permute(2, 0, 1),
        "expanded": torch.ones(1, 3).expand(5, 3),
        "stepped": torch.arange(10)[::3],
        "one_sized": torch.zeros(3, 1, 2).transpose(0, 1),
        "channels_last": torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "grad": torch.ones(3, requires_grad=True),
        "meta": torch.empty(3, 4, device="meta"),
        "buffer": torch.nn.Buffer(torch.ones(2)) if hasattr(torch.nn, "Buffer") else torch.ones(2),
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        "coo": torch.eye(4).to_sparse(),
        "csr": torch.eye(4).to_sparse_csr(),
        "csc": torch.eye(4).to_sparse_csc(),
        "bsr": torch.eye(4).to_sparse_bsr((2, 2)),
        "hybrid": torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.ones(2, 5), (3, 5)),
        "per_tensor": torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8),
        "per_channel": torch.quantize_per_channel(torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.quint8),
        "quantized_view": torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8)[1:, 1:],
    }


def test_every_kind_of_tensor(written: Any) -> None:
    path = written(kinds())
    assert_same(read(path), load(path))


def test_every_kind_of_object(written: Any) -> None:
    values: dict[str, Any] = {
        "w": torch.ones(2),
        "none": None,
        "true": True,
        "int": 12,
        "negative": -70000,
        "big": 1 << 80,
        "float": 1.5,
        "complex": 1 + 2j,
        "text": "téxt",
        "bytes": b"\x00\xff" * 10,
        "bytearray": bytearray(b"abc"),
        "list": [1, [2]],
        "tuple": (1, 2, 3, 4),
        "set": {1, 2},
        "frozenset": frozenset({1}),
        "slice": slice(1, 2),
        "range": range(3),
        "dict": {"a": 1},
        "ordered": OrderedDict(a=1),
        "counter": Counter("aab"),
        "default": defaultdict(list, a=[1]),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "array": np.ones((2, 3)),
        "number": np.float32(1.5),
        "integer": np.int64(3),
        "path": Path("a"),
    }
    path = written(values)
    loaded = load(path)
    checkpoint = read(path)
    assert list(checkpoint.entries) == list(loaded)
    for key, value in loaded.items():
        entry = checkpoint.entries[key]
        if isinstance(entry, ObjectInfo):
            assert f"<class '{entry.type_name}'>" == str(type(value)), key
            if entry.value is not None:
                assert entry.value == value
        else:
            assert isinstance(value, torch.Tensor)


def test_metadata_and_order_of_a_real_model(written: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    state = model.state_dict()
    checkpoint = read(written(state))
    assert_same(checkpoint, state)
    assert checkpoint.metadata == {key: dict(value) for key, value in state._metadata.items()}  # type: ignore[attr-defined]
    assert checkpoint.metadata["1"] == {"version": 2}
    assert checkpoint.unsafe_globals == ()
    assert checkpoint.state_dict_key == ""


def test_bytes_are_where_it_says(written: Any, tmp_path: Path) -> None:
    state = {"a": torch.arange(7, dtype=torch.int32), "b": torch.arange(5.0)}
    path = written(state)
    data = path.read_bytes()
    for key, entry in read(path).tensors.items():
        assert entry.storage is not None
        assert entry.storage.start is not None
        assert data[entry.storage.start :][: entry.nbytes] == state[key].numpy().tobytes()


class Sub(torch.Tensor):
    pass


def test_subclasses_keep_their_class_by_name(tmp_path: Path) -> None:
    tensor = torch.ones(2, 3)
    tensor.note = "attribute"  # type: ignore[attr-defined]
    path = tmp_path / "s.pth"
    torch.save({"sub": torch.ones(3).as_subclass(Sub), "noted": tensor}, path)
    assert_same(read(path), load(path))
    assert read(path).entries["sub"].type_name == f"{Sub.__module__}.Sub"
    assert read(path).unsafe_globals == (f"{Sub.__module__}.Sub",)


def test_keys_that_are_not_text_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    torch.save(
        {0: torch.ones(1), "a": torch.ones(1), None: torch.ones(1), b"x": torch.ones(1), 2.5: torch.ones(1)}, path
    )
    assert list(read(path).entries) == [0, "a", None, b"x", 2.5]


POOLED = ["float32", "float16", "bfloat16", "int64", "uint8", "bool", "complex64", "float8_e4m3fn"]


@st.composite
def states(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.text(max_size=12), min_size=1, max_size=6, unique=True))
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=3))
    pool = [torch.zeros(size, dtype=getattr(torch, draw(st.sampled_from(POOLED)))) for size in sizes]
    state: dict[str, Any] = {}
    for name in names:
        base = draw(st.sampled_from(pool))
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        stride = draw(st.lists(st.integers(0, 5), min_size=len(shape), max_size=len(shape)))
        last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if all(shape) else 0
        if last < base.numel():
            offset = draw(st.integers(0, base.numel() - 1 - last))
            state[name] = base.as_strided(shape, stride, offset)
        else:
            state[name] = base
        if state[name].dtype.is_floating_point and draw(st.booleans()):
            state[name] = torch.nn.Parameter(state[name])
    return state


@pytest.mark.parametrize("phrases_from", [-1, 1 << 40], ids=["phrases", "steps"])
@settings(max_examples=60, deadline=None)
@given(state=states(), protocol=st.integers(2, 5), legacy=st.booleans())
def test_any_views_of_any_storages(
    phrases_from: int, state: dict[str, Any], protocol: int, legacy: bool, tmp_path_factory: Any
) -> None:
    legacy = legacy and all(value.dtype != torch.float8_e4m3fn for value in state.values())
    path = save(state, tmp_path_factory.mktemp("views") / "v.pth", protocol, legacy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle_vm, "PHRASES_FROM", phrases_from)
        assert_same(read(path), load(path))


def test_big_endian_files_say_so(tmp_path: Path) -> None:
    path, swapped = tmp_path / "little.pth", tmp_path / "big.pth"
    torch.save({"a": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"big" if name.endswith("byteorder") else source.read(name))
    assert read(path).byteorder == "little"
    assert read(swapped).byteorder == "big"


def test_compressed_archives_read_alike(tmp_path: Path) -> None:
    path, packed = tmp_path / "stored.pth", tmp_path / "packed.pth"
    state = {"a": torch.zeros(1000), "b": torch.ones(3, 3)}
    torch.save(state, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert packed.stat().st_size < path.stat().st_size
    checkpoint = read(packed)
    assert_same(checkpoint, state)
    assert all(
        isinstance(e, TensorInfo) and e.storage is not None and e.storage.start is None
        for e in checkpoint.entries.values()
    )


def test_a_million_ways_to_name_the_archive(tmp_path: Path) -> None:
    """torch names the folder inside the archive after the file it wrote; nothing may depend on it."""
    for name in ("archive.pth", "日本.pth", "a b.tar", "x.y.z", "data.pkl"):
        path = tmp_path / name
        torch.save({"a": torch.ones(2)}, path)
        path = path.rename(tmp_path / "renamed.bin")
        assert list(read(path).entries) == ["a"]


def many(count: int) -> dict[str, torch.Tensor]:
    return {f"layer.{i}": torch.zeros(i % 3 + 1, 2) if i % 5 else torch.tensor(i) for i in range(count)}


@pytest.mark.parametrize("legacy", [False, True])
def test_many_tensors(legacy: bool, tmp_path: Path) -> None:
    state = many(1500)
    state["tied"] = state["layer.1499"]
    path = save({"model": state, "again": state}, tmp_path / "many.pth", 2, legacy)
    assert_same(read(path, key="model"), state)
    assert_same(read(path, key="again"), state)


def rewritten(path: Path, change: Any) -> Path:
    """The archive with its pickle changed."""
    target = path.with_suffix(".changed")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return target


def test_a_pickle_may_fetch_anything_from_its_memo(tmp_path: Path) -> None:
    """Tuples inside a tensor's phrase are memoised too, and a program may use them again: here, as another's shape."""
    path = save(many(1500), tmp_path / "many.pth", 2, False)

    def change(program: bytes) -> bytes:
        # The sizes of the first full-sized tensor late in the file, fetched instead of spelled out in the last one.
        at = program.rindex(b"K\x02K\x02\x86r")
        first = program.index(b"K\x02K\x02\x86r", len(program) // 2)
        return program[:at] + b"j" + program[first + 6 : first + 10] + program[at + 5 :]

    changed = rewritten(path, change)
    assert_same(read(changed), load(changed))


def test_a_memo_index_used_twice_means_the_later_one(tmp_path: Path) -> None:
    path = save(many(1500), tmp_path / "many.pth", 2, False)

    def change(program: bytes) -> bytes:
        # Every tensor's sizes are memoised at the one index 300, and a last entry fetches it.
        program = re.sub(rb"(K\x02K\x02\x86r)....", lambda found: found[1] + b"\x2c\x01\0\0", program, flags=re.DOTALL)
        return program[:-2] + b"X\x01\0\0\0xj\x2c\x01\0\0u."

    changed = rewritten(path, change)
    assert load(changed)["x"] == (2, 2)
    assert_same(read(changed), load(changed))
