"""A lock: the digests of a checkpoint's tensors as text that can be reviewed, and held against a checkpoint later.

The first line says what it is, the second the digest of all; then comes a line for each tensor, sorted by key: digest,
dtype, shape, and the key as JSON writes it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from ckptdiff.contents.digests import Digests, whole
from ckptdiff.errors import CheckpointError
from ckptdiff.small_files import text_of as read_text
from ckptdiff.tensors import DTYPES, TensorInfo

HEAD = "# ckptdiff lock 1: the digests of a checkpoint's weights, by `ckptdiff lock`"
SIGNATURE = b"# ckptdiff lock 1"
_LINE = re.compile(r"([0-9a-f]{64}) ([a-z][a-z0-9_]*) \[((?:\d{1,19}(?:, \d{1,19})*)?)\] (\".*\"|\d+)")


@dataclass(frozen=True, slots=True)
class Lock:
    """What a lock says: each tensor's dtype, shape and digest, and the digest of all."""

    path: str
    tensors: Mapping[str, TensorInfo]
    digests: Mapping[str, str]
    whole: str


def text_of(tensors: Mapping[str, TensorInfo], digests: Digests) -> str:
    """A lock as its file has it."""
    lines = [HEAD, f"whole {digests.whole}"]
    for key in sorted(digests.tensors, key=lambda key: (not isinstance(key, str), str(key))):
        tensor = tensors[key]
        shape = ", ".join(map(str, tensor.shape))
        lines.append(f"{digests.tensors[key]} {tensor.dtype} [{shape}] {json.dumps(key)}")
    return "\n".join(lines) + "\n"


def is_lock(path: str) -> bool:
    """Whether a local file begins as a lock does. A pipe is not looked into: opening it waits for who writes."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return False
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib takes 3 ms
            return file.read(len(SIGNATURE)) == SIGNATURE
    except (OSError, ValueError):
        return False


def read_lock(path: str) -> Lock:
    """Raises CheckpointError for what is no lock, or one whose lines are not those that its second line is of."""
    text = read_text(path, "Write it anew with `ckptdiff lock`.", "a lock")
    tensors: dict[str, TensorInfo] = {}
    digests: dict[str, str] = {}
    total = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("whole "):
            total = line.removeprefix("whole ").strip()
            continue
        match = _LINE.fullmatch(line)
        if match is None or match[2] not in DTYPES:
            raise _bad(path, f"its line {number} is no digest, dtype, shape and key")
        try:
            key = json.loads(match[4])
        except ValueError:
            raise _bad(path, f"the key in its line {number} is no JSON text") from None
        if key in digests:
            raise _bad(path, f"its line {number} has a key that was there before")
        tensors[key] = TensorInfo(match[2], tuple(int(size) for size in match[3].split(", ") if size))
        digests[key] = match[1]
    if not digests:
        raise _bad(path, "it has no tensors")
    if whole(digests) != total:
        raise _bad(path, "the digest of all is not that of its lines")
    return Lock(path, tensors, digests, total)


def _bad(path: str, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is no sound lock: {what}", "Write it anew with `ckptdiff lock`.")
