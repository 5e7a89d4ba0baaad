"""Loading what fits into a live model, in one call."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.errors import CheckpointError
from tests.writing.support import everything, same, write
from tests.writing.test_filter import Net, Renaming, Tied

FORMATS = ["in.safetensors", "in.pth", "in.tar"]


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", [*FORMATS, "memory"])
@pytest.mark.parametrize("assign", [False, True])
def test_what_fits_is_loaded_and_the_rest_reported(tmp_path, name, assign):
    given, model = Net(1000), Net(10)
    head = state_of(model.fc)
    state = {**given.state_dict(), "junk": torch.ones(2)}
    checkpoint = checkpoint_of(state) if name == "memory" else read(write(state, tmp_path / name))
    report = ckptdiff.load(model, checkpoint, assign=assign)
    assert torch.equal(model.conv.weight, given.conv.weight)
    assert torch.equal(model.bn.running_mean, given.bn.running_mean)
    assert all(torch.equal(value, head[key]) for key, value in model.fc.state_dict().items())
    assert report.unexpected_keys == ["junk"]
    assert report.mismatched_keys == [("fc.weight", (1000, 8), (10, 8)), ("fc.bias", (1000,), (10,))]
    with torch.no_grad():
        model.conv.weight.add_(1)  # the file is not written to
    if name != "memory":
        assert (
            torch.equal(torch.load(tmp_path / name, weights_only=True)["conv.weight"], given.conv.weight)
            if name != "in.safetensors"
            else True
        )


@pytest.mark.parametrize("name", FORMATS)
def test_every_dtype_and_view_is_read_right(tmp_path, name):
    from tests.writing.support import for_format

    state = for_format(everything(), name)
    write(state, tmp_path / name)

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            for index, value in enumerate(state.values()):
                self.register_buffer(f"b{index}", torch.zeros(value.shape, dtype=value.dtype))

    from ckptdiff.writing.in_memory import materialised
    from ckptdiff.writing.planning import plan_rewrite

    found = materialised(plan_rewrite(read(tmp_path / name), format="torch"))
    assert set(found) == set(state)
    assert all(same(found[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("options", "extra"), [({"ignore_mismatched": False}, {}), ({"strict": True}, {"junk": torch.ones(1)})]
)
def test_a_refusal_changes_nothing(tmp_path, options, extra):
    given, model = Net(1000), Net(10)
    before = state_of(model)
    torch.save({**given.state_dict(), **extra}, tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match="does not load into Net") as caught:
        ckptdiff.load(model, read(tmp_path / "in.pth"), **options)
    with pytest.raises(RuntimeError) as torchs:
        copy.deepcopy(model).load_state_dict(
            torch.load(tmp_path / "in.pth", weights_only=True), strict=options.get("strict", False)
        )
    assert caught.value.detail == str(torchs.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_nothing_that_fits_changes_nothing(tmp_path):
    model = Net()
    before = state_of(model)
    torch.save({"x": torch.ones(1)}, tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match="Nothing in"):
        ckptdiff.load(model, read(tmp_path / "in.pth"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_hooks_of_the_model_do_their_work(tmp_path):
    model = Renaming()
    qkv = torch.randn(12, 4)
    torch.save({"qkv": qkv, "old_proj.weight": torch.randn(5, 5)}, tmp_path / "in.pth")
    ckptdiff.load(model, read(tmp_path / "in.pth"))
    assert torch.equal(torch.cat([model.q.weight, model.k.weight, model.v.weight]), qkv)


def test_ties_hold(tmp_path):
    given, model = Tied(), Tied()
    torch.save(given.state_dict(), tmp_path / "in.pth")
    ckptdiff.load(model, read(tmp_path / "in.pth"), strict=True)
    assert model.out.weight is model.embed.weight
    assert torch.equal(model.out.weight, given.out.weight)
