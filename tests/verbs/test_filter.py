"""`filter`: what loads, and nothing of the model's code run for a wish that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.render.written import text
from ckptdiff.writing.execute import Job, Written


def test_what_is_written_loads(tmp_path: Path) -> None:
    model, given = nn.Linear(3, 2), {**nn.Linear(3, 2).state_dict(), "junk": torch.ones(1)}
    written = ckptdiff.filter(model, given, tmp_path / "out.pth")
    assert isinstance(written, Written)
    model.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True))
    assert torch.equal(model.weight, given["weight"])


def test_what_is_missing_gets_the_models_own_values(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef make(n): return nn.Linear(n, 2)\n")
    given = {"weight": torch.ones(2, 3)}
    reference = f"{tmp_path / 'net.py'}:make"
    for seed in (0, "1"):
        ckptdiff.filter(reference, given, tmp_path / "out.pth", args={"n": 3}, fill_missing=True, seed=seed, force=True)
        torch.manual_seed(int(seed))
        assert torch.equal(torch.load(tmp_path / "out.pth", weights_only=True)["bias"], nn.Linear(3, 2).bias)
    live = nn.Linear(3, 2)
    ckptdiff.filter(live, given, tmp_path / "out.pth", fill_missing=True, force=True)
    assert torch.equal(torch.load(tmp_path / "out.pth", weights_only=True)["bias"], live.bias)


def test_a_dry_run_gives_the_job(tmp_path: Path) -> None:
    job = ckptdiff.filter(
        nn.Linear(3, 2), nn.Linear(3, 4).state_dict(), tmp_path / "o.pth", adapt="*=slice", dry_run=True
    )
    assert isinstance(job, Job)
    assert job.keys == ("weight", "bias")
    assert not (tmp_path / "o.pth").exists()


@pytest.mark.parametrize(
    ("out", "options", "says"),
    [
        ("out.h5", {}, "an extension that says no format of weights"),
        ("out.pth", {"seed": "x"}, "is not a whole number"),
        ("out.pth", {"seed": 1 << 64}, "takes seeds of 64 bits only"),
        ("out.pth", {"adapt": "fc"}, "fc"),
        ("out.pth", {"shared": "once"}, "there is no such choice"),
        ("out.pth", {"rename": "a"}, "a"),
    ],
)
def test_a_wish_that_cannot_be_runs_no_code(tmp_path: Path, out: str, options: dict[str, Any], says: str) -> None:
    (tmp_path / "net.py").write_text("raise SystemExit('the code ran')\n")
    with pytest.raises(ckptdiff.CkptdiffError, match=says) as caught:
        ckptdiff.filter(f"{tmp_path / 'net.py'}:Net", tmp_path / "gone.pth", tmp_path / out, **options)
    assert "the code ran" not in str(caught.value) + caught.value.detail
    assert "does not exist" not in caught.value.message


def test_the_rule_that_is_reported_is_the_one_that_was_used(tmp_path: Path) -> None:
    state = {
        f"module.{key}": value for key, value in nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).state_dict().items()
    }
    torch.save(state, tmp_path / "old.pth")
    rules = {"rename": ["module.{i}.weight -> {i}.weight", "{*}.0.bias -> 0.bias"]}
    done = ckptdiff.filter(
        nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), tmp_path / "old.pth", tmp_path / "a.pth", **rules
    )
    assert "  module.{i}.weight -> {i}.weight (2 keys)\n  {*}.0.bias -> 0.bias (1 key)\n" in text(done, show_all=True)
    both = {"strip_prefix": "module.", "rename": "0.{*} -> 0.{*}"}
    done = ckptdiff.filter(
        nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), tmp_path / "old.pth", tmp_path / "b.pth", **both
    )
    assert "  0.{*} -> 0.{*} (2 keys)\n  module.{*} -> {*} (2 keys)\n" in text(done, show_all=True)
