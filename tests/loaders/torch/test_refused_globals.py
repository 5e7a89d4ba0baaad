"""What `torch.load`, with its default, refuses a file for, object by object."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import pathlib
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

import ckptdiff
from ckptdiff.formats.pickles.globals import ORDINARY, PLAIN
from ckptdiff.torch_private import allowed_globals

VALUES = {
    "float64": np.float64(1.5),
    "array": np.ones(3),
    "objects": np.array([None, 1], dtype=object),
    "records": np.rec.array([(1, 2)]),
    "dtype": np.dtype("float32"),
    "random state": np.random.RandomState(1).get_state(),
    "generator": np.random.default_rng(1),
    "Namespace": argparse.Namespace(a=1),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "PosixPath": pathlib.PurePosixPath("a"),
    "defaultdict": collections.defaultdict(list),
    "deque": collections.deque([1]),
    "datetime": datetime.datetime(2026, 1, 2),
    "timedelta": datetime.timedelta(1),
    "slice": slice(1, 2),
    "range": range(3),
    "frozenset": frozenset([1]),
    "Fraction": fractions.Fraction(1, 2),
    "Decimal": decimal.Decimal(1),
    "UUID": uuid.UUID(int=1),
    "a class": nn.Linear,
    "uninitialized": nn.UninitializedParameter(),
    # these it takes
    "complex": 1j,
    "bytearray": bytearray(b"x"),
    "set": {1},
    "device": torch.device("cpu"),
    "size": torch.Size([1]),
    "counter": collections.Counter("ab"),
}


@pytest.mark.skipif(
    not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"), reason="torch 2.6 lists what it refuses"
)
@pytest.mark.parametrize("name", VALUES)
def test_every_object_is_named(name: str, tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    path = tmp_path / "run.pth"
    torch.save({"state_dict": model.state_dict(), "beside": VALUES[name]}, path)
    report = ckptdiff.compare(model, path)
    named = {item.key for item in report.findings if item.rule in ("weights-only", "unsafe-global") and item.key}
    assert named == set(torch.serialization.get_unsafe_globals_in_checkpoint(path))


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="torch 2.5 has it")
def test_what_the_program_allows_is_not_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    path = tmp_path / "run.pth"
    torch.save({"state_dict": model.state_dict(), "beside": argparse.Namespace(a=1)}, path)

    def refused() -> list[Any]:
        return [item.key for item in ckptdiff.compare(model, path).findings]

    with torch.serialization.safe_globals([argparse.Namespace]):
        assert refused() == []
        torch.load(path)
    assert refused() == ["argparse.Namespace"]
    with pytest.raises(Exception, match=r"GLOBAL argparse\.Namespace was not an allowed global by default"):
        torch.load(path, weights_only=True)


@pytest.mark.filterwarnings("ignore")  # that no process group runs
def test_a_distributed_checkpoint_is_not_read_by_torch_load(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    dcp.save({"model": model.state_dict(), "epoch": 3}, checkpoint_id=tmp_path / "run")
    assert "pathlib" in (tmp_path / "run" / ".metadata").read_text("latin-1")
    assert ckptdiff.compare(model, tmp_path / "run").findings == ()


def test_the_list_is_that_of_torch() -> None:
    allowed = set(allowed_globals())
    assert not PLAIN & allowed
    if torch.__version__ >= "2.13":
        assert allowed >= ORDINARY - PLAIN
