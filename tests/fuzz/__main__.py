"""`python -m tests.fuzz --mutants 100000 --seed 1`: reads damaged files until something happens that must not.

For every mutant: no exception but CkptdiffError, no more than 5 seconds of CPU, no more than 1 GB (held by the
operating system, on Linux), no file created or changed. What is read must be what torch and safetensors read (keys in
order, dtypes, shapes, values, shared storages, `_metadata`), and what they refuse must be refused or told; read as if
over a network it must be the same. The offender is kept and its path printed; the exit code is then 1, at the first
one or, with `--go-on`, in the end.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.contents.files import Files
from ckptdiff.contents.tensor_bytes import TensorBytes
from ckptdiff.errors import CkptdiffError
from ckptdiff.formats.pickles import machine as pickle_vm
from tests.fuzz.differential import compare, read_from_afar
from tests.fuzz.library import Library
from tests.fuzz.mutate import mutant

FILES = Path(__file__).parents[2] / "fixtures" / "files"
SECONDS = 5
MEMORY = 1 << 30
KEYS = (None, None, None, "", "state_dict", "model", "state_dict.a", "0")


class HangError(Exception):
    """A mutant took too long."""


def seeds() -> dict[str, bytes]:
    """The committed file of every format, each by its name, and those that `made` writes."""
    files = (path for path in FILES.rglob("*") if path.is_file() and path.name != "expected.json")
    found = {path.relative_to(FILES).as_posix(): path.read_bytes() for path in sorted(files)}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "tests.fuzz.made", folder], check=True, cwd=FILES.parents[1])
        found |= {f"made-{path.name}": path.read_bytes() for path in sorted(Path(folder).iterdir())}
    return found


def place(name: str, data: bytes, directory: Path) -> Path:
    """Writes a mutant where its format wants it; what to read."""
    if name.startswith("distributed/") or name.startswith("sharded/"):
        folder = directory / name.split("/")[0]
        (directory / name).write_bytes(data)
        return folder
    path = directory / "mutant"
    path.write_bytes(data)
    return path


def outcome(path: Path, key: str | None) -> tuple[str, Checkpoint | None]:
    """What became of reading it: the kind of file, or refused; and what was read. Read with and without the
    unpickler's short cut, which must make no difference."""
    with_phrases, kind, checkpoint = _read(path, key, -1)
    step_by_step, _, _ = _read(path, key, 1 << 60)
    assert with_phrases == step_by_step, "the short cut gives another result"
    if checkpoint is not None and path.is_file():
        read_from_afar(path, key, checkpoint)
    return kind, checkpoint


def _read(path: Path, key: str | None, phrases_from: int) -> tuple[str, str, Checkpoint | None]:
    pickle_vm.PHRASES_FROM = phrases_from
    try:
        checkpoint = read(path, key=key)
        told = repr(checkpoint)
        with Files(checkpoint.identities) as files:
            reader = TensorBytes(checkpoint, files)
            for tensor in list(checkpoint.tensors.values())[:3]:
                for _, _ in zip(range(4), reader.chunks(tensor), strict=False):
                    pass
    except CkptdiffError as error:
        message = error.message
    else:
        return told, f"read as {checkpoint.format}", checkpoint
    assert message
    assert len(message) < 5000
    assert "\n" not in message
    return message, "refused", None


def _hang(signum: int, frame: FrameType | None) -> None:
    raise HangError(f"more than {SECONDS} seconds of CPU")


def run(
    originals: dict[str, bytes], mutants: int, seed: int, *, go_on: bool = False
) -> tuple[Counter[str], float, int]:
    """Reads that many mutants: what became of them, the slowest, and with `go_on` how many did what they must not.

    Else it raises that, with the mutant's path as a note on stderr.
    """
    names = list(originals)
    others = list(originals.values())
    counts: Counter[str] = Counter()
    slowest = 0.0
    offenders = 0
    alarm = hasattr(signal, "setitimer")
    previous = signal.signal(signal.SIGPROF, _hang) if alarm else None
    library = Library()
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
            started = time.process_time()
            try:
                if alarm:
                    signal.setitimer(signal.ITIMER_PROF, SECONDS)
                kind, checkpoint = outcome(path, source.choice(KEYS))
                if alarm:
                    signal.setitimer(signal.ITIMER_PROF, 0)
                slowest = max(slowest, time.process_time() - started)
                counts[kind] += 1
                if checkpoint is not None:
                    counts[f"  {compare(checkpoint, path, library)}"] += 1
                if number % 500 == 0:
                    assert sorted(directory.rglob("*")) == listing, "a file was created"
            except BaseException as error:
                if alarm:
                    signal.setitimer(signal.ITIMER_PROF, 0)
                kept = Path(tempfile.gettempdir()) / f"mutant-{seed}-{number}-{name.replace('/', '-')}"
                kept.write_bytes(data)
                print(f"mutant {number} of seed {seed}, made from {name}, kept at {kept}: {error}", file=sys.stderr)
                if not go_on or not isinstance(error, Exception):
                    raise
                offenders += 1
            if "/" in name:
                (directory / name).write_bytes(originals[name])
            if number % 10_000 == 9_999:
                print(f"{number + 1} mutants", file=sys.stderr, flush=True)
        assert sorted(directory.rglob("*")) == listing, "a file was created"
    library.close()
    if alarm:
        signal.signal(signal.SIGPROF, previous)
    return counts, slowest, offenders


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--go-on", action="store_true")
    arguments = parser.parse_args()
    originals = seeds()
    if sys.platform == "linux":
        import resource

        # The soft limit alone: the library, which runs in a process below this one, needs more.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    started = time.perf_counter()
    try:
        counts, slowest, offenders = run(originals, arguments.mutants, arguments.seed, go_on=arguments.go_on)
    except BaseException:
        traceback.print_exc()
        return 1
    seconds = time.perf_counter() - started
    print(f"{arguments.mutants} mutants of seed {arguments.seed} in {seconds:.0f} s, the slowest {slowest:.2f} s")
    print(f"{offenders} that did what they must not")
    for what, count in counts.most_common():
        print(f"{count:8} {what}")
    return 1 if offenders else 0


if __name__ == "__main__":
    sys.exit(main())
