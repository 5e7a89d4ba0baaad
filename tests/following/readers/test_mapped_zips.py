"""What torch.load gives of a plain file, and what is left to torch."""

from __future__ import annotations

import copy
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ckptdiff.following.followed import ask
from ckptdiff.following.readers.mapped_zips import NotPlainError, laid_over, opened_plainly
from ckptdiff.following.readers.tensor_files import map_file


def read(path: Path, **asked: Any) -> object:
    return laid_over(opened_plainly(path, (), {"weights_only": True, **asked}), map_file(path))


def told(value: object, seen: dict[int, int]) -> object:
    """All that there is to a value, and which objects and storages in it are the same."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        return (
            type(value), value.dtype, value.size(), value.stride(), value.storage_offset(), value.requires_grad,
            value._is_view(), storage.nbytes(), seen.setdefault(id(value), len(seen)),
            seen.setdefault(storage._cdata, len(seen)), value.detach().cpu().numpy().tobytes()
            if value.dtype is not torch.bfloat16 else value.detach().view(torch.int16).numpy().tobytes(),
        )  # fmt: skip
    if isinstance(value, dict):
        inside = [(key, type(key), told(item, seen)) for key, item in value.items()]
        of_itself = vars(value) if type(value) is OrderedDict else {}  # no object that lasts: its identity is nobody's
        attributes = [(name, told(item, seen)) for name, item in of_itself.items()]
        return type(value), seen.setdefault(id(value), len(seen)), inside, attributes
    if isinstance(value, (list, tuple)):
        return type(value), [told(item, seen) for item in value]
    return type(value), value


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    size = draw(st.lists(st.integers(0, 3), max_size=3))
    tensor = torch.randint(0, 2, size).to(draw(st.sampled_from(DTYPES)))
    if draw(st.booleans()) and tensor.dim():
        tensor = tensor.transpose(0, -1)
    if draw(st.booleans()) and tensor.dim() and tensor.size(0):
        tensor = tensor[1:]
    return tensor.requires_grad_(tensor.is_floating_point() and draw(st.booleans()))


shared = torch.arange(6.0)
leaves = st.one_of(
    tensors(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.booleans(), st.none(),
    st.sampled_from((shared, shared[2:4], shared.view(2, 3))),
)  # fmt: skip
names = st.one_of(st.text(max_size=4), st.integers(0, 300))
contents = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(names, inner, max_size=4),
        st.dictionaries(names, inner, max_size=4).map(OrderedDict),
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=12,
)


@given(contents, st.booleans())
def test_it_is_what_torch_gives(tmp_path_factory: pytest.TempPathFactory, content: Any, twice: bool) -> None:
    path = tmp_path_factory.mktemp("plain") / "w.pth"
    torch.save([content, content] if twice else content, path)
    assert told(read(path), {}) == told(torch.load(path, weights_only=True), {})


def test_a_state_dict_has_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict(), path)
    assert told(read(path), {}) == told(torch.load(path, weights_only=True), {})
    assert read(path)._metadata[""] == {"version": 1}  # type: ignore[attr-defined]


def test_a_file_of_more_tensors_than_pickle_remembers_in_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({f"{i}": torch.full((i % 5,), float(i), requires_grad=i % 3 == 0) for i in range(2000)}, path)
    assert told(read(path), {}) == told(torch.load(path, weights_only=True), {})


def test_what_is_written_to_it_is_not_written_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.ones(3)}, path)
    before = path.read_bytes()
    tensor: torch.Tensor = read(path)["w"]  # type: ignore[index]
    tensor.zero_()
    assert path.read_bytes() == before
    assert read(path)["w"].tolist() == [1, 1, 1]  # type: ignore[index]


class Own(dict):  # type: ignore[type-arg]
    pass


def _deflated(path: Path) -> None:
    torch.save({"w": torch.ones(30)}, path)
    whole = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in whole.items():
            archive.writestr(name, data)


def _cut_off(path: Path) -> None:
    torch.save({"w": torch.ones(3000)}, path)
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save(nn.Linear(2, 2), path),
        lambda path: torch.save({"w": nn.Parameter(torch.ones(2))}, path),
        lambda path: torch.save({"w": torch.ones(2).to_sparse()}, path),
        lambda path: torch.save({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, path),
        lambda path: torch.save({"w": torch.ones(2, device="meta")}, path),
        lambda path: torch.save({"w": torch.ones(2, dtype=torch.complex64).conj()}, path),
        lambda path: torch.save({"w": {1, 2}}, path),
        lambda path: torch.save(Own(w=torch.ones(2)), path),
        lambda path: torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False),
        lambda path: torch.save({"w": torch.ones(2)}, path, pickle_protocol=4),
        lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path),
        lambda path: zipfile.ZipFile(path, "w").writestr("w.txt", "none"),
        _deflated,
        _cut_off,
    ],
)
def test_what_is_less_plain_is_left_to_torch(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "w.pth"
    write(path)
    with pytest.raises(NotPlainError):
        read(path)


@pytest.mark.parametrize(
    "asked",
    [
        {"map_location": "meta"},
        {"map_location": torch.device("meta")},
        {"map_location": {"cuda:0": "cpu"}},
        {"map_location": lambda storage, _: storage},
        {"mmap": True},
        {"weights_only": 1},
        {"encoding": "latin1"},
        {"pickle_module": copy},
    ],
)
def test_what_is_asked_of_torch_otherwise_is_left_to_it(tmp_path: Path, asked: dict[str, object]) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.ones(2)}, path)
    with pytest.raises(NotPlainError):
        read(path, **asked)


def test_a_loader_is_given_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state": nn.Linear(2, 2).state_dict(), "epoch": 3}, path)
    asked: list[object] = []
    original = torch.serialization._load
    monkeypatch.setattr(torch.serialization, "_load", lambda *args, **kwargs: asked.append(original(*args, **kwargs)))

    def load(given: Path) -> nn.Module:
        model = nn.Linear(2, 2)
        model.load_state_dict(torch.load(given, weights_only=True)["state"])
        return model

    followed = ask(load, path)
    assert followed.raised is None
    assert asked == []
    assert isinstance(followed.result, nn.Module)
    assert {key: fill.by for key, fill in followed.fills(followed.result).items()} == {"weight": "file", "bias": "file"}
