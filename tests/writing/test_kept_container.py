"""What a training checkpoint holds beside the weights can stay, as long as it is safe."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.requests import renames_of
from ckptdiff.writing.execute import execute, output_of, prepare
from ckptdiff.writing.rewriting import plan_renamed
from tests.formats.test_archives import baselines

from .support import same
from .test_filter import Net


def keep(path, out, key=None, strip_prefix=None, **options):
    output = output_of(str(out))
    plan = plan_renamed(read(path, key=key), renames_of(strip_prefix, None), format=output.format, **options)
    return execute(prepare(plan, output, keep_container=True), fsync=False, verify_bytes=True)


def trained():
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("legacy", [False, True])
def test_epoch_and_optimizer_stay(tmp_path, legacy):
    model, optimizer = trained()
    state = OrderedDict((f"module.{key}", value) for key, value in model.state_dict().items())
    state["module.steps"] = 12
    held = {
        "epoch": 7,
        "model": state,
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "args": {"lr": 0.1},
    }
    torch.save(held, tmp_path / "in.pth", _use_new_zipfile_serialization=not legacy)
    keep(tmp_path / "in.pth", tmp_path / "out.pth", strip_prefix="module", drop=["fc.*"], dtype="bfloat16")
    found = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(found) == list(held)
    assert (found["epoch"], found["args"]) == (7, {"lr": 0.1})
    assert torch.equal(found["rng"], held["rng"])
    torch.optim.AdamW(Net().parameters()).load_state_dict(found["optimizer"])
    for number, slots in held["optimizer"]["state"].items():
        assert all(same(found["optimizer"]["state"][number][name], value) for name, value in slots.items())
    kept = found["model"]
    assert list(kept) == [key for key in model.state_dict() if not key.startswith("fc.")] + ["steps"]
    assert kept["steps"] == 12
    assert same(kept["conv.weight"], model.conv.weight.bfloat16())


def test_deep_inside_and_among_others(tmp_path):
    model = Net()
    held = {"a.b": [{"x": 1}, {"net": model.state_dict(), "y": (1, 2)}], "ema": model.state_dict()}
    torch.save(held, tmp_path / "in.pth")
    keep(tmp_path / "in.pth", tmp_path / "out.pth", key="a.b.1.net", keep=["fc.*"])
    found = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(found["a.b"][1]["net"]) == ["fc.weight", "fc.bias"]
    assert found["a.b"][1]["net"]._metadata == model.state_dict()._metadata
    assert found["a.b"][0] == {"x": 1}
    assert found["a.b"][1]["y"] == (1, 2)
    assert all(same(found["ema"][key], value) for key, value in model.state_dict().items())


def test_dtypes_without_a_storage_class(tmp_path):
    held = {
        "model": {"a": torch.randn(3).to(torch.float8_e5m2), "t": torch.ones(2, 3).t()},
        "other": torch.ones(1).to(torch.float8_e4m3fn),
    }
    torch.save(held, tmp_path / "in.pth")
    keep(tmp_path / "in.pth", tmp_path / "out.pth")
    found = torch.load(tmp_path / "out.pth", weights_only=True)
    assert same(found["model"]["a"], held["model"]["a"])
    assert same(found["model"]["t"], held["model"]["t"])
    assert same(found["other"], held["other"])


def test_a_file_that_is_the_state_dict_has_no_container(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "in.pth")
    keep(tmp_path / "in.pth", tmp_path / "out.pth")
    assert list(torch.load(tmp_path / "out.pth", weights_only=True)) == list(Net().state_dict())


class Config:
    pass


def test_classes_of_others_are_refused(tmp_path):
    torch.save({"model": Net().state_dict(), "config": Config()}, tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match=r"classes that must not be loaded: .*test_kept_container\.Config"):
        keep(tmp_path / "in.pth", tmp_path / "out.pth")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.pth"]


def test_what_torch_refuses_is_refused(tmp_path):
    import datetime

    torch.save({"model": Net().state_dict(), "when": datetime.date(2020, 1, 1)}, tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match=r"torch\.load does not take|must not be loaded") as caught:
        keep(tmp_path / "in.pth", tmp_path / "out.pth")
    assert "datetime.date" in caught.value.message
    assert "\x1b" not in caught.value.message
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.pth"]


def test_only_a_pth_has_a_container(tmp_path):
    torch.save({"model": Net().state_dict(), "epoch": 1}, tmp_path / "in.pth")
    with pytest.raises(UsageError, match="holds tensors alone"):
        keep(tmp_path / "in.pth", tmp_path / "out.safetensors")


def test_the_other_files_of_an_archive_are_not_said_to_be_nothing(tmp_path):
    with pytest.raises(UsageError, match="is a zip archive of several files, which are not written again"):
        keep(baselines(tmp_path), tmp_path / "out.pth")
