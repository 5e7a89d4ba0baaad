"""Where a file says that its tensors were, the meta device above all: a shape without bytes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch

from ckptdiff import CkptdiffError, rewrite
from ckptdiff.checkpoint import read
from tests.contents.reading import tensor_bytes
from tests.formats.oracle import assert_same, load

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit is old


def moved(path: Path, location: str) -> Path:
    """The file of torch.save with another location in every persistent id."""
    data = path.read_bytes()
    old = b"X\3\0\0\0cpu"
    new = b"X" + len(location).to_bytes(4, "little") + location.encode()
    if not zipfile.is_zipfile(path):
        path.write_bytes(data.replace(old, new))
        return path
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(old, new))
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_a_meta_tensor_is_a_shape_on_meta(legacy: bool, tmp_path: Path) -> None:
    state = torch.nn.Linear(3, 2, device="meta").state_dict()
    state["whole"] = torch.ones(2)
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    checkpoint = read(tmp_path / "w.pth")
    assert_same(checkpoint, load(tmp_path / "w.pth"))
    assert [(t.device, t.is_meta, t.storage is None) for t in checkpoint.tensors.values()] == [
        ("meta", True, True),
        ("meta", True, True),
        ("cpu", False, False),
    ]
    with pytest.raises(CkptdiffError, match=r"is on the meta device, so .* has no values of it"):
        tensor_bytes(checkpoint, "weight")
    with pytest.raises(CkptdiffError, match="the tensor 'weight' is on the meta device, so the file has no values"):
        rewrite(tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_meta_tensor_in_torchscript(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(3, 2, device="meta")).save(tmp_path / "w.pt")
    state = torch.jit.load(tmp_path / "w.pt", map_location="cpu").state_dict()
    assert all(value.device.type == "meta" for value in state.values())
    checkpoint = read(tmp_path / "w.pt")
    assert {key: (t.shape, t.device) for key, t in checkpoint.tensors.items()} == {
        key: (tuple(value.shape), "meta") for key, value in state.items()
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("many", [2, 2000])  # by steps and by phrases
def test_the_location_of_a_storage(legacy: bool, many: int, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({str(i): torch.ones(2) for i in range(many)}, path, _use_new_zipfile_serialization=not legacy)
    assert {t.device for t in read(path).tensors.values()} == {"cpu"}
    assert {t.device for t in read(moved(path, "cuda:1")).tensors.values()} == {"cuda:1"}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_storage_on_meta(legacy: bool, tmp_path: Path) -> None:
    """torch.load puts it on the meta device, whatever bytes are in the file."""
    path = tmp_path / "w.pth"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=not legacy)
    moved(path, "meta")
    if not legacy:
        assert torch.load(path, weights_only=True)["w"].is_meta
    assert read(path).tensors["w"].is_meta


def test_the_values_of_a_lazy_conjugate_are_not_in_the_file(tmp_path: Path) -> None:
    values = torch.complex(torch.arange(2.0), torch.arange(2.0))
    torch.save({"w": values.conj(), "n": torch._neg_view(torch.ones(2)), "v": values}, tmp_path / "w.pth")
    checkpoint = read(tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth")
    assert loaded["w"].is_conj()
    assert loaded["n"].is_neg()
    assert [key for key, tensor in checkpoint.tensors.items() if tensor.storage is None] == ["w", "n"]
    assert checkpoint.tensors["w"].shape == (2,)
