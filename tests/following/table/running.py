"""Running rows: each in a forked process with a time limit, so that no library meets what another left."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.following.table.rows import NotMade

FAMILIES = (
    "plain", "vision", "training", "hub", "language", "optimizers", "shipped", "packages", "pretrained", "quantised",
)  # fmt: skip
ROW_SECONDS = 1200


@dataclass
class Tally:
    """What came out of some cases."""

    cases: int = 0
    agreed: int = 0
    doubted: list[str] = field(default_factory=list)
    """Those that are not answered, and said so."""
    wrong: list[str] = field(default_factory=list)
    rows: int = 0
    absent: list[str] = field(default_factory=list)
    raised: int = 0

    @property
    def code(self) -> int:
        return 1 if self.wrong or not self.cases else 0

    def add(self, name: str, verdict: str) -> None:
        if verdict.startswith("absent"):
            self.absent.append(f"{name} ({verdict})")
            return
        self.cases += 1
        if verdict.startswith("agree"):
            self.agreed += 1
        elif verdict.startswith(("doubt", "refused")):
            self.doubted.append(f"{name}: {verdict}")
        else:
            self.wrong.append(f"{name}: {verdict}")

    def __str__(self) -> str:
        lines = [f"agree {self.agreed} of {self.cases}, {self.rows} loaders"]
        if self.doubted:
            lines.append(f"not answered, and said so: {len(self.doubted)}")
            lines += [f"  {line[:600]}" for line in self.doubted]
        if self.absent:
            lines.append("not installed, or not made: " + "; ".join(self.absent))
        lines += [f"WRONG {line[:1500]}" for line in self.wrong]
        return "\n".join(lines)


def run_family(family: str, only: str = "", situation: str = "", *, quiet: bool = False) -> Tally:
    """Run the rows of a module of this package."""
    module = importlib.import_module(f"tests.following.table.{family}")
    tally = Tally()
    for row in module.ROWS:
        if re.search(only, row.name):
            if lacking := [name for name in row.needs if not importable(name)]:
                tally.absent.append(f"{row.name} ({', '.join(lacking)})")
                continue
            verdicts = apart(row, situation)
            tally.rows += 1
            for name, verdict in verdicts.items():
                tally.add(f"{family}: {row.name}: {name}", verdict)
                if not quiet or verdict != "agree":
                    print(f"{row.name}: {name}: {verdict[:1500]}", file=sys.stderr, flush=True)
    return tally


def importable(name: str) -> bool:
    """Whether a package is installed; then it is imported, once for all rows."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(name)
        except Exception:
            return False
    return True


def apart(row: Any, situation: str = "") -> dict[str, str]:
    """The verdicts on a row, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        child = os.fork()
        if not child:
            code = 1
            try:
                signal.alarm(ROW_SECONDS)
                torch.set_num_threads(1)  # the threads of the pool are not here
                torch.use_deterministic_algorithms(
                    True, warn_only=True
                )  # what nobody initialises is NaN, not what was there
                warnings.simplefilter("ignore")
                _answer(row, situation, Path(folder), answer)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        verdicts: dict[str, str] = {}
        with contextlib.suppress(OSError):
            verdicts = dict(map(json.loads, answer.read_text().splitlines()))
        if status:
            verdicts["end"] = f"WRONG the process ended with {status}"
        return verdicts


def _answer(row: Any, situation: str, folder: Path, answer: Path) -> None:
    with answer.open("a") as file:
        for name, ask in row.verdicts(situation, folder):
            start = time.perf_counter()
            try:
                verdict = ask()
            except NotMade as error:
                file.write(json.dumps(["model", f"absent: {str(error).splitlines()[0][:100]}"]) + "\n")
                return
            except Exception:
                verdict = f"WRONG {traceback.format_exc()[-1400:]}"
            if os.environ.get("TABLE_TIMES"):
                print(f"{row.name} {name} {time.perf_counter() - start:.2f} s", file=sys.stderr)
            file.write(json.dumps([name, verdict]) + "\n")
            file.flush()
