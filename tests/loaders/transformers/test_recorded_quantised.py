"""The recordings of quantised directories on both machines, which `make quantised` holds ckptdiff against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gpu.quantised import ANSWERS, ARCHIVE, cases, same, situations

pytest.importorskip("safetensors")


def test_every_recording_has_its_directory(tmp_path: Path) -> None:
    situations(ARCHIVE, tmp_path)
    asked = list(cases(tmp_path, ""))
    assert len(asked) == 224
    assert all((tmp_path / directory / "model.safetensors").exists() for directory, *_ in asked)


def test_the_machines_differ_in_some(tmp_path: Path) -> None:
    """An answer as on one machine is told from that of the other."""
    situations(ARCHIVE, tmp_path)
    gpu, cpu = (json.loads((tmp_path / ANSWERS[device]).read_text()) for device in ("cuda", "cpu"))
    got = [{**one, "mismatched": sorted(entry[0] for entry in one["mismatched"])} for one in gpu.values()]
    assert all(same(one, other) for one, other in zip(got, gpu.values(), strict=True))
    different = [name for name, one in zip(gpu, got, strict=True) if not same(one, cpu[name])]
    assert {name.partition("-")[0] for name in different} == {"fp8"}
    assert len(different) == 18
