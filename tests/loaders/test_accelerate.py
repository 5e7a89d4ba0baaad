"""accelerate's `load_checkpoint_in_model`, beside the real call on two files: what differs came from the file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ckptdiff

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]
accelerate = pytest.importorskip("accelerate")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def state(seed):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, value in net().state_dict().items():
        floating = value.is_floating_point()
        made[key] = torch.rand(value.shape, generator=generator) + seed if floating else torch.tensor(seed)
    return made


def saved(path, tensors, layout):
    """The path to hand over: of a file, of an index, or of a directory."""
    path.mkdir()
    if layout == "torch":
        torch.save(tensors, path / "pytorch_model.bin")
        return path / "pytorch_model.bin"
    if layout == "safetensors":
        save_file(tensors, path / "model.safetensors")
        return path / "model.safetensors"
    names = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(tensors)}
    for name in set(names.values()):
        save_file({key: value for key, value in tensors.items() if names[key] == name}, path / name)
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index if layout == "index" else path


def really(path, other, options):
    """What is raised, and the keys that differ between what two files leave."""
    left = []
    for place in (path, other):
        model = net()
        try:
            accelerate.load_checkpoint_in_model(model, str(place), **options)
        except Exception as error:
            return f"{type(error).__name__}: {error}", set()
        left.append(model.state_dict())
    return None, {key for key, value in left[0].items() if not torch.equal(value, left[1][key])}


CHANGES = {
    "as saved": lambda tensors: tensors,
    "key dropped": lambda tensors: {key: value for key, value in tensors.items() if key != "2.bias"},
    "key added": lambda tensors: {**tensors, "3.weight": torch.ones(2)},
    "shape changed": lambda tensors: {**tensors, "0.weight": torch.ones(5, 3)},
    "prefix": lambda tensors: {f"module.{key}": value for key, value in tensors.items()},
    "half": lambda tensors: {
        key: value.half() if value.is_floating_point() else value for key, value in tensors.items()
    },
    "nothing": lambda tensors: {"other": torch.ones(1)},
}


@pytest.mark.parametrize("layout", ["torch", "safetensors", "index", "directory"])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_it_leaves_what_the_call_leaves(tmp_path, layout, strict, change):
    path, other = (saved(tmp_path / str(seed), CHANGES[change](state(seed)), layout) for seed in (1, 2))
    options = {"strict": True} if strict else {}
    raised, filled = really(path, other, options)
    report = ckptdiff.compare(net(), path, loader="accelerate", loader_args=options)
    assert report.raises == raised
    if raised is None:
        assert {key for key, item in report.outcome.filled.items() if item.by == "file"} == filled
        assert report.complete == (filled == set(net().state_dict()))
    assert report.loader.version == accelerate.__version__


def test_an_option_that_it_does_not_take(tmp_path):
    path = saved(tmp_path / "a", state(1), "torch")
    with pytest.raises(ckptdiff.CkptdiffError, match="the loader accelerate takes no such argument"):
        ckptdiff.compare(net(), path, loader="accelerate", loader_args={"offload_folder": "x"})
