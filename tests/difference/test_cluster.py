"""The values read by the workers of a Dask cluster on this machine, one of which is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

import ckptdiff

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
distributed = pytest.importorskip("distributed")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    a = {f"layers.{i}.weight": torch.randn(400, 400) for i in range(12)}
    b = {key: value.clone() for key, value in a.items()}
    b["layers.3.weight"][1, 2] += 1
    b["layers.11.weight"] *= 2
    torch.save({"model": a}, tmp_path / "a.ckpt")
    torch.save(b, tmp_path / "b.pth")
    return tmp_path / "a.ckpt", tmp_path / "b.pth"


def test_a_cluster_finds_the_same_and_a_killed_worker_loses_nothing(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptdiff.difference import on_cluster

    monkeypatch.setattr(on_cluster, "_SHARE", 400 * 400 * 4)  # a share for each tensor
    here = ckptdiff.diff(*pair)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        told: list[int] = []

        def progress(done: int, total: int) -> None:
            if not told:  # the first answer is there: end one of the workers
                os.kill(next(iter(cluster.workers.values())).process.process.pid, signal.SIGKILL)
            told.append(done)

        there = ckptdiff.diff(*pair, scheduler=cluster.scheduler_address, progress=progress)
    assert len(told) == 12
    assert there.verdict == here.verdict == "different values"
    for key, change in here.changed.items():
        other = there.changed[key]
        assert (other.count, other.index, other.max_abs, other.explained) == (
            change.count, change.index, change.max_abs, change.explained,
        )  # fmt: skip
        assert other.rel_l2 == pytest.approx(change.rel_l2, rel=1e-9)
    assert there.equal == here.equal


def test_what_workers_open(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptdiff.checkpoint.reading import read
    from ckptdiff.difference.on_cluster import _for_workers
    from tests.loopback import serving

    monkeypatch.chdir(pair[0].parent)
    assert _for_workers(read("a.ckpt")) == str(pair[0])
    with serving(pair[0].parent) as server:
        url = f"{server.url}/b.pth?token=secret"
        assert _for_workers(read(url)) == url


def test_no_scheduler_is_no_answer(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptdiff.difference import on_cluster

    monkeypatch.setattr(on_cluster, "_CONNECT", 0.3)
    with pytest.raises(ckptdiff.CkptdiffError, match="no Dask scheduler"):
        ckptdiff.diff(*pair, scheduler="tcp://127.0.0.1:9")
