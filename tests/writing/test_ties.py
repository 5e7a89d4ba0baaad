"""What becomes of tied tensors in safetensors, which holds a tensor once: what is said is what is in the file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn

import ckptdiff
from ckptdiff.cli import main

MODEL = """\
from torch import nn
class Heads(nn.Module):
    def __init__(self, extra=0):
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        shared = nn.Linear(3, 7)
        self.heads = nn.ModuleList([shared] * 4)
        shared.weight = self.embed.weight
        if extra:
            self.extra = nn.Linear(3, extra)
"""


@pytest.fixture
def heads(tmp_path, monkeypatch):
    """A model of nine keys and two tensors, whose weights lie in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    scope = {}
    exec(MODEL, scope)
    torch.save(scope["Heads"]().state_dict(), "in.pth")
    return scope["Heads"]


@pytest.mark.parametrize("out", ["out.safetensors", "out/"])
def test_a_filtered_file_has_what_a_strict_load_asks_for(heads, capsys, out):
    assert main(["filter", "model.py:Heads", "in.pth", "-o", out]) == 0
    assert "Wrote 9 tensors" in (said := capsys.readouterr().out)
    assert "It loads into model.py:Heads.\n" in said
    written = load_file("out/model.safetensors" if out == "out/" else out)
    assert len(written) == 9
    heads().load_state_dict(written, strict=True)


@pytest.mark.parametrize("extra", [0, 2])
def test_what_is_left_out_on_request_is_named(heads, capsys, extra):
    model = f"--arg=extra={extra}"
    assert main(["filter", "model.py:Heads", "in.pth", "-o", "dry.safetensors", "--shared", "drop", "-n", model]) == 0
    dry = capsys.readouterr().out
    assert main(["filter", "model.py:Heads", "in.pth", "-o", "out.safetensors", "--shared", "drop", model]) == 0
    said = capsys.readouterr().out
    written = load_file("out.safetensors")
    assert set(written) == {"embed.weight", "heads.0.bias"}
    assert "Wrote 2 tensors" in said
    assert "It loads into model.py:Heads with strict=False." in said
    assert "Would write 2 tensors" in dry
    assert "kept (2)" in dry
    for text in (said, dry):
        assert "left out (7): " in text
        assert "  heads.3.bias: written as heads.0.bias\n" in text
        assert "  heads.0.weight: written as embed.weight\n" in text
    heads(extra).load_state_dict(written, strict=False)


def test_a_rewrite_without_a_model_names_what_it_left_out(heads, capsys):
    assert main(["rewrite", "in.pth", "-o", "out.safetensors"]) == 0
    said = capsys.readouterr().out
    assert "Wrote 2 tensors" in said
    assert "left out (7): " in said
    assert "--shared copy" in said
    assert len(load_file("out.safetensors")) == 2
    model = heads()
    load_model(model, "out.safetensors", strict=True)  # safetensors' own loader knows ties
    assert torch.equal(model.embed.weight, torch.load("in.pth", weights_only=True)["embed.weight"])


@pytest.mark.parametrize("shared", ["drop", "copy"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_programs_are_told_the_same(heads, capsys, shared, dry_run):
    options = ["--shared", shared, "--format", "json", *(["--dry-run"] if dry_run else [])]
    assert main(["rewrite", "in.pth", "-o", "out.safetensors", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    done = ckptdiff.rewrite("in.pth", "py.safetensors", shared=shared, dry_run=dry_run)
    assert told["tensors"] == list(done.keys)
    assert {item["key"]: item["written_as"] for item in told["left_out"]} == done.left_out
    assert len(done.left_out) == (7 if shared == "drop" else 0)
    assert told["dry_run"] is dry_run
    if not dry_run:
        assert set(load_file("out.safetensors")) == set(told["tensors"])
        assert told["bytes"] == sum(item["bytes"] for item in told["files"])


def test_a_pth_keeps_ties_and_leaves_nothing_out(heads):
    done = ckptdiff.filter(heads(), "in.pth", "out.pth")
    assert len(done.keys) == 9
    assert done.left_out == {}
    found = torch.load("out.pth", weights_only=True)
    assert len({value.data_ptr() for value in found.values()}) == 2


def test_ties_that_a_safetensors_file_has_on_record_are_filled_for_the_model(heads):
    """The file of `save_model` lacks names that the model asks for: `--fill-missing` gives them their twin's tensor."""
    state = torch.load("in.pth", weights_only=True)
    save_file({key: state[key].clone() for key in ("embed.weight", "heads.0.bias")}, "in.safetensors")
    done = ckptdiff.filter(heads(), "in.safetensors", "out.safetensors", fill_missing=True)
    assert done.job.plan.filled == ()
    heads().load_state_dict(load_file("out.safetensors"), strict=True)


def test_the_json_of_a_filter_says_how_it_loads(heads, capsys):
    assert main(["filter", "model.py:Heads", "in.pth", "-o", "a.pth", "--arg=extra=2", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["loads"] == {"strict": False, "non_strict": True}
    assert told["missing_keys"] == ["extra.weight", "extra.bias"]
    assert isinstance(heads(), nn.Module)
    assert main(["filter", "model.py:Heads", "in.pth", "-o", "b.pth", "--format", "xml"]) == 2
