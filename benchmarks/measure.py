"""Whole processes measured from outside, in turn, so that a machine that slows down slows down every side."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RUNS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the runs: CPU and wall time in seconds, peak resident memory in MB (10**6 bytes)."""

    cpu: float
    wall: float
    peak: float


def in_turn(commands: Mapping[str, Sequence[str]], runs: int = RUNS, warmups: int = 1) -> dict[str, Cost]:
    """Run every command once a round, `warmups` + `runs` rounds; a command that fails ends the benchmark."""
    samples: dict[str, list[Cost]] = {name: [] for name in commands}
    for round_ in range(warmups + runs):
        for name, command in commands.items():
            cost = once(command)
            if round_ >= warmups:
                samples[name].append(cost)
    return {
        name: Cost(*(statistics.median(getattr(cost, figure) for cost in costs) for figure in ("cpu", "wall", "peak")))
        for name, costs in samples.items()
    }


def once(command: Sequence[str]) -> Cost:
    """One run of a command, its output thrown away."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{errors.decode(errors='replace')}")
    scale = 1 if sys.platform == "darwin" else 1024
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * scale / 1e6)


def table(title: str, costs: Mapping[str, Cost], yardstick: str) -> str:
    """A Markdown table with ratios to the row named `yardstick`."""
    base = costs[yardstick]
    lines = [
        f"### {title}",
        "",
        "| | CPU s | × | wall s | × | peak MB | × |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, cost in costs.items():
        lines.append(
            f"| {name} | {cost.cpu:.2f} | {cost.cpu / base.cpu:.2f} | {cost.wall:.2f} | {cost.wall / base.wall:.2f} "
            f"| {cost.peak:.0f} | {cost.peak / base.peak:.2f} |"
        )
    return "\n".join(lines) + "\n"
