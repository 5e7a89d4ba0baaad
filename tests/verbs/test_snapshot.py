"""`snapshot`: the schema of a model, which stands in for it on either side."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import ckptdiff


def test_it_stands_in_for_the_model_and_for_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.ckptdiff.json"
    path.write_text(ckptdiff.snapshot(nn.Linear(3, 2)))
    assert ckptdiff.compare(path, nn.Linear(3, 2).state_dict()).loads()
    assert ckptdiff.compare(nn.Linear(3, 2), path).loads()
    assert ckptdiff.compare(nn.Linear(3, 4), path).mismatched_keys == [
        ("weight", (2, 3), (4, 3)),
        ("bias", (2,), (4,)),
    ]
    assert ckptdiff.snapshot(path) == path.read_text()


def test_a_reference_and_the_module_have_one_schema(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef make(n): return nn.Linear(n, 2)\n")
    assert ckptdiff.snapshot(f"{tmp_path / 'net.py'}:make", args={"n": 3}) == ckptdiff.snapshot(nn.Linear(3, 2))


def test_what_takes_no_arguments_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(ckptdiff.snapshot(nn.Linear(3, 2)))
    with pytest.raises(ckptdiff.CkptdiffError, match="is a snapshot, which takes no arguments"):
        ckptdiff.snapshot(path, args={"n": 3})
    with pytest.raises(ckptdiff.CkptdiffError, match="args is for a model that ckptdiff builds"):
        ckptdiff.snapshot(nn.Linear(3, 2), args={"n": 3})
