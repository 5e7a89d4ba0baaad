"""`python -m tests.fuzz --mutants 100000 --seed 1`: reads damaged files until something happens that must not.

For every mutant: no exception but CkptdiffError, no more than 5 seconds, no more than 1 GB (held by the operating
system, on Linux), no file created or changed. The offender is kept and its path printed; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

from ckptdiff.checkpoint import pickle_vm, read
from ckptdiff.checkpoint.tensor_bytes import TensorReader
from ckptdiff.errors import CkptdiffError
from tests.fuzz.mutate import mutant

FILES = Path(__file__).parents[2] / "fixtures" / "files"
SECONDS = 5
MEMORY = 1 << 30
KEYS = (None, None, None, "", "state_dict", "model", "state_dict.a", "0")


class HangError(Exception):
    """A mutant took too long."""


def seeds() -> dict[str, bytes]:
    """The committed file of every format, each by its name."""
    files = (path for path in FILES.rglob("*") if path.is_file() and path.name != "expected.json")
    return {path.relative_to(FILES).as_posix(): path.read_bytes() for path in sorted(files)}


def place(name: str, data: bytes, directory: Path) -> Path:
    """Writes a mutant where its format wants it; what to read."""
    if name.startswith("distributed/") or name.startswith("sharded/"):
        folder = directory / name.split("/")[0]
        (directory / name).write_bytes(data)
        return folder
    path = directory / "mutant"
    path.write_bytes(data)
    return path


def outcome(path: Path, key: str | None) -> str:
    """What became of reading it: the kind of file, or refused. Read with and without the unpickler's short cut, which
    must make no difference."""
    with_phrases, kind = _read(path, key, -1)
    step_by_step, _ = _read(path, key, 1 << 60)
    assert with_phrases == step_by_step, "the short cut gives another result"
    return kind


def _read(path: Path, key: str | None, phrases_from: int) -> tuple[str, str]:
    pickle_vm.PHRASES_FROM = phrases_from
    try:
        checkpoint = read(path, key=key)
        told = repr(checkpoint)
        with TensorReader(checkpoint) as reader:
            for tensor in list(checkpoint.tensors.values())[:3]:
                for _, _ in zip(range(4), reader.chunks(tensor), strict=False):
                    pass
    except CkptdiffError as error:
        message = error.message
    else:
        return told, f"read as {checkpoint.format}"
    assert message
    assert len(message) < 5000
    assert "\n" not in message
    return message, "refused"


def _hang(signum: int, frame: FrameType | None) -> None:
    raise HangError(f"more than {SECONDS} seconds")


def run(mutants: int, seed: int) -> tuple[Counter[str], float]:
    """Reads that many mutants. Raises whatever must not happen, with the mutant's path as a note on stderr."""
    originals = seeds()
    names = list(originals)
    others = list(originals.values())
    counts: Counter[str] = Counter()
    slowest = 0.0
    alarm = hasattr(signal, "setitimer")
    previous = signal.signal(signal.SIGALRM, _hang) if alarm else None
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        for name, data in originals.items():
            (directory / name).parent.mkdir(exist_ok=True)
            if "/" in name:
                (directory / name).write_bytes(data)
        (directory / "mutant").touch()
        listing = sorted(directory.rglob("*"))
        for number in range(mutants):
            source = random.Random(f"{seed}:{number}")
            name = names[number % len(names)]
            data = mutant(originals[name], others, source)
            path = place(name, data, directory)
            started = time.perf_counter()
            try:
                if alarm:
                    signal.setitimer(signal.ITIMER_REAL, SECONDS)
                counts[outcome(path, source.choice(KEYS))] += 1
                if alarm:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                if number % 500 == 0:
                    assert sorted(directory.rglob("*")) == listing, "a file was created"
            except BaseException:
                kept = Path(tempfile.gettempdir()) / f"mutant-{seed}-{number}-{name.replace('/', '-')}"
                kept.write_bytes(data)
                print(f"mutant {number} of seed {seed}, made from {name}, kept at {kept}", file=sys.stderr)
                raise
            finally:
                if alarm:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            slowest = max(slowest, time.perf_counter() - started)
            if "/" in name:
                (directory / name).write_bytes(originals[name])
            if number % 10_000 == 9_999:
                print(f"{number + 1} mutants", file=sys.stderr, flush=True)
        assert sorted(directory.rglob("*")) == listing, "a file was created"
    if alarm:
        signal.signal(signal.SIGALRM, previous)
    return counts, slowest


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    started = time.perf_counter()
    try:
        counts, slowest = run(arguments.mutants, arguments.seed)
    except BaseException:
        traceback.print_exc()
        return 1
    seconds = time.perf_counter() - started
    print(f"{arguments.mutants} mutants of seed {arguments.seed} in {seconds:.0f} s, the slowest {slowest:.2f} s")
    for what, count in counts.most_common():
        print(f"{count:8} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
