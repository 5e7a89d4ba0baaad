"""What a training checkpoint holds beside the weights can stay, as long as it is safe."""

from __future__ import annotations

import argparse
import datetime
import io
import pathlib
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.cli import main
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
    with pytest.raises(
        CheckpointError, match=r"classes that must not be loaded in 'config' \(.*test_kept_container\.Config\)"
    ):
        keep(tmp_path / "in.pth", tmp_path / "out.pth")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.pth"]


class Parameters(dict):
    """As Lightning's AttributeDict: filled by SETITEMS."""


class Thing:
    def __init__(self):
        self.ran = True


BESIDE = {
    "when": datetime.datetime(2026, 1, 2),
    "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a")),
    "lists": defaultdict(list, {1: [2]}),
    "best": np.float64(0.5),
    "rng": np.random.RandomState(1).get_state(),
    "classes": np.array(["cat", "dog"]),
    "range": range(3),
}


@pytest.mark.parametrize("legacy", [False, True])
def test_plain_data_that_torch_refuses_stays(tmp_path, legacy):
    torch.save({"model": Net().state_dict(), **BESIDE}, tmp_path / "in.pth", _use_new_zipfile_serialization=not legacy)
    keep(tmp_path / "in.pth", tmp_path / "out.pth")
    found = torch.load(tmp_path / "out.pth", weights_only=False)
    assert list(found) == ["model", *BESIDE]
    assert all(found[name] == BESIDE[name] for name in ("when", "args", "lists", "best", "range"))
    assert type(found["best"]) is np.float64
    assert type(found["lists"]) is defaultdict
    assert all(np.array_equal(a, b) for a, b in zip(found["rng"], BESIDE["rng"], strict=True))
    assert np.array_equal(found["classes"], BESIDE["classes"])


@pytest.mark.parametrize("legacy", [False, True])
def test_entries_of_other_classes_are_left_out_on_request(tmp_path, legacy, capsys):
    held = {
        "model": Net().state_dict(),
        "hyper_parameters": Parameters(lr=0.1),
        "callbacks": {"early.stopping": [Thing()]},
        "epoch": 7,
    }
    path, out = str(tmp_path / "in.pth"), str(tmp_path / "out.pth")
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"in 'hyper_parameters' \(.*Parameters\), and in 'callbacks'"):
        ckptdiff.rewrite(path, out, keep_container=True)
    with pytest.raises(CheckpointError, match=r"in 'callbacks' \(.*Thing\)"):
        ckptdiff.rewrite(path, out, keep_container=True, drop_entry="hyper_parameters", dry_run=True)
    with pytest.raises(UsageError, match="has no such entry beside its state dict"):
        ckptdiff.rewrite(path, out, keep_container=True, drop_entry=["model"])
    with pytest.raises(UsageError, match="is for what lies beside the state dict, which is not written"):
        ckptdiff.rewrite(path, out, drop_entry="epoch")
    assert not (tmp_path / "out.pth").exists()
    entries = ["--drop-entry", "hyper_parameters", "--drop-entry", "callbacks"]
    assert main(["rewrite", path, "-o", out, "--keep-container", *entries]) == 0
    assert "left out of what is around it (2)\n  hyper_parameters\n  callbacks\n" in capsys.readouterr().out
    assert list(torch.load(out, weights_only=True)) == ["model", "epoch"]


def test_no_object_gets_past_the_list_of_names(tmp_path):
    """A call of something harmless may still make what is not plain."""
    torch.save({"model": Net().state_dict(), "stream": io.BytesIO(b"x")}, tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match=r"the class _io\.BytesIO, which must not be loaded"):
        keep(tmp_path / "in.pth", tmp_path / "out.pth")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.pth"]


def test_only_a_pth_has_a_container(tmp_path):
    torch.save({"model": Net().state_dict(), "epoch": 1}, tmp_path / "in.pth")
    with pytest.raises(UsageError, match="holds tensors alone"):
        keep(tmp_path / "in.pth", tmp_path / "out.safetensors")


def test_the_other_files_of_an_archive_are_not_said_to_be_nothing(tmp_path):
    with pytest.raises(UsageError, match="is a zip archive of several files, which are not written again"):
        keep(baselines(tmp_path), tmp_path / "out.pth")
