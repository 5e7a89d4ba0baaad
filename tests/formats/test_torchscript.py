"""TorchScript archives read as torch.jit.load reads them."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.errors import CheckpointError
from tests.contents.reading import tensor_bytes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit is old


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        self.pair = torch.nn.Bilinear(3, 3, 2, bias=False)
        self.register_buffer("scale", torch.arange(2.0))
        self.register_buffer("transient", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return self.pair(y, y) * self.scale


def saved() -> dict[str, bytes]:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(Net()), stream)
    with zipfile.ZipFile(stream) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def changed(path: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    contents = saved()
    old = next(key for key in contents if key.endswith(name))
    content = change(contents[old])
    assert content != contents[old]
    return write(path, {**contents, old: content})


def as_torch_reads(path: Path) -> Checkpoint:
    state = torch.jit.load(path, map_location="cpu").state_dict()
    checkpoint = read(path)
    assert list(checkpoint.entries) == list(state)
    assert checkpoint.metadata == state._metadata
    for key, value in state.items():
        tensor = checkpoint.tensors[key]
        assert (tensor.dtype, tensor.shape) == (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        assert tensor_bytes(checkpoint, key) == value.detach().contiguous().numpy().tobytes()
    return checkpoint


def test_parameters_buffers_and_versions_in_order(tmp_path: Path) -> None:
    as_torch_reads(write(tmp_path / "w.pt", saved()))


def test_attributes_come_in_the_order_of_their_declarations(tmp_path: Path) -> None:
    old, new = b'["weight", "bias", ]', b'["bias", "weight", ]'
    as_torch_reads(changed(tmp_path / "w.pt", "linear.py", lambda code: code.replace(old, new)))


def test_no_byte_order_is_looked_at(tmp_path: Path) -> None:
    as_torch_reads(changed(tmp_path / "w.pt", "byteorder", lambda _: b"big"))


def test_a_file_of_torch_1_4(tmp_path: Path) -> None:
    """Its persistent ids had six elements, and its classes did not say which attributes are buffers."""
    contents = {
        name.replace("archive/", "old/"): re.sub(rb"  __buffers__ = .*\n", b"", content)
        if name.endswith(".py")
        else content
        for name, content in saved().items()
        if not name.endswith(("byteorder", "serialization_id", "debug_pkl"))
    }
    contents["old/data.pkl"] = re.sub(rb"(K.)tQ", rb"\1NtQ", contents["old/data.pkl"], flags=re.DOTALL)
    checkpoint = as_torch_reads(write(tmp_path / "w.pt", contents))
    assert list(checkpoint.entries) == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
        "pair.weight",
    ]


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("linear.py", b'["weight", ', b'["weight", "training", ', "training is no tensor"),
        ("data.pkl", b"bias", b"bibs", r"layers\.0\.bias has no value"),
        ("data.pkl", b"X\3\0\0\0cpu", b"X\3\0\0\0cpx", "makes no sense"),
        ("data.pkl", b"}(", b"I1\n0}(", r"torch\.jit\.load refuses its pickle program"),
        ("version", b"", b"99", r"torch\.load refuses its file format version"),
    ],
)
def test_what_torch_refuses(name: str, old: bytes, new: bytes, sentence: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "w.pt", name, lambda content: content.replace(old, new, 1))
    with pytest.raises((RuntimeError, IndexError)):
        torch.jit.load(path, map_location="cpu").state_dict()
    with pytest.raises(CheckpointError, match=sentence):
        read(path)
