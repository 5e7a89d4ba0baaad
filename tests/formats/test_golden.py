"""The committed file of every format reads as it did when it was committed, and as a fresh one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ckptdiff.checkpoint import read
from fixtures import generate
from fixtures.models import Net

EXPECTED = json.loads((generate.FILES / generate.EXPECTED).read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_committed_file(name: str) -> None:
    assert generate.described(read(generate.FILES / name)) == EXPECTED[name]


def test_every_format_has_one() -> None:
    assert {expected["format"] for expected in EXPECTED.values()} == {
        "torch-zip",
        "torch-legacy",
        "torchscript",
        "safetensors",
        "sharded safetensors",
        "torch-distributed",
    }


def test_files_are_small() -> None:
    assert sum(path.stat().st_size for path in generate.FILES.rglob("*") if path.is_file()) < 50_000


def test_the_net_loads() -> None:
    Net().load_state_dict(torch.load(generate.FILES / "net.pth", weights_only=True))


@pytest.mark.filterwarnings("ignore")
def test_a_fresh_set_reads_alike(tmp_path: Path) -> None:
    names = generate.write(tmp_path)
    assert names == list(EXPECTED)
    for name in names:
        assert generate.described(read(tmp_path / name)) == EXPECTED[name]
