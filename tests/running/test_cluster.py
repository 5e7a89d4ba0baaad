"""`check --scheduler`: a real Dask scheduler and workers on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ckptdiff.cli import main
from tests.running.test_check import MODELS, ROOT, check, ends, targets

pytest.importorskip("distributed", reason="needs the extra ckptdiff[dask]")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs signals")]

WAITS_ONCE = """

def waits_once():
    import pathlib
    started = pathlib.Path("started")
    if not started.exists():
        started.with_suffix(".new").write_text(str(os.getpid()))
        started.with_suffix(".new").rename(started)
        time.sleep(1000)
    return Net()
"""


def until(happened: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """(the scheduler's address, [scheduler, worker, worker]); the workers have no nanny that would start them again."""
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODELS + WAITS_ONCE)
    torch.save({"body.weight": torch.zeros(4, 4), "body.bias": torch.zeros(4)}, "weights.pth")
    described = tmp_path / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MARK": str(tmp_path)}
    log = (tmp_path / "log").open("wb")

    def start(kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + kind, "--scheduler-file", str(described)]
        # Their own directory, so that the tests see whether the client's is where the targets run.
        return subprocess.Popen([*command, *arguments], env=environment, stdout=log, stderr=log, cwd="/")

    here = ("--host", "127.0.0.1", "--no-dashboard")
    running = [start("scheduler", *here, "--port", "0")]
    try:
        until(described.exists)
        local = ("--local-directory", str(tmp_path / "dask"))
        running += [start("worker", *here, "--no-nanny", "--nthreads", "1", *local) for _ in range(2)]
        yield json.loads(described.read_text())["address"], running
    finally:
        for process in running:
            process.kill()
            process.wait()
        log.close()


@pytest.mark.long
def test_a_cluster_gives_the_results_of_processes(cluster: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    Path("ckptdiff.toml").write_text(targets("Net", "aborts", "quiet", "late", "hangs", "deep"))
    done = check("--scheduler", cluster[0], "--format", "json", "--timeout", "25")
    expected = {"Net": "pass", "aborts": "crash", "quiet": "exit", "late": "pass", "hangs": "timeout", "deep": "fail"}
    assert ends(done) == expected, done.stderr
    assert list(ends(done)) == list(expected)
    assert done.returncode == 2


def test_a_worker_killed_midway_costs_no_answer(cluster: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    address, (_, *workers) = cluster
    Path("ckptdiff.toml").write_text(targets("Net", "waits_once", "late"))
    command = [sys.executable, "-m", "ckptdiff", "check", "--scheduler", address, "--format", "json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as running:
        until(Path("started").exists)
        ancestors = {process.pid for process in psutil.Process(int(Path("started").read_text())).parents()}
        (busy,) = [worker for worker in workers if worker.pid in ancestors]
        busy.send_signal(signal.SIGKILL)
        out, err = running.communicate(timeout=120)
    assert {row["name"]: row["outcome"] for row in json.loads(out)["targets"]} == {
        "Net": "pass",
        "waits_once": "pass",
        "late": "pass",
    }, err.decode()
    assert running.returncode == 0


def test_no_scheduler_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ckptdiff.running.cluster._CONNECT", 1)
    Path("ckptdiff.toml").write_text(targets("Net"))
    assert main(["check", "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert "error: There is no Dask scheduler at tcp://127.0.0.1:1: OSError." in capsys.readouterr().err
