"""Is a checkpoint whole and sane? Everything that can be held against something else is."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.from_shards import index_faults
from ckptdiff.contents.checksums import Checksums
from ckptdiff.contents.digests import digest
from ckptdiff.contents.flat_bytes import Blocks, nbytes_of, parts_of
from ckptdiff.contents.spreading import Progress, for_each_tensor
from ckptdiff.difference.companions import lacking
from ckptdiff.difference.locks import Lock
from ckptdiff.difference.verification import Fault, Verification
from ckptdiff.errors import CheckpointError
from ckptdiff.keys import Globs
from ckptdiff.tensors import TensorInfo

_BLOCK = 1 << 18
_MOST_SUMS = 16 << 20
_MASK = re.compile(r"(?:^|[._])(?:\w*mask\w*)$")
"""Names of what holds infinities on purpose."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What a checkpoint is held against. `allowed` are keys that may be NaN, infinite, zero or without a scale."""

    lock: Lock | None = None
    values: bool = True
    allowed: Globs | None = None
    progress: Progress | None = None


@dataclass(slots=True)
class _Numbers:
    nan: int = 0
    inf: int = 0
    zero: bool = True
    digest: str = ""
    error: str = ""


def verified(checkpoint: Checkpoint, options: VerifyOptions) -> Verification:
    """Everything that is wrong with a checkpoint whose headers could be read."""
    allowed = options.allowed or (lambda _: False)
    faults: list[Fault] = []
    checked = ["headers"]
    faults += [Fault("index", text) for text in index_faults(checkpoint)]
    if checkpoint.kind.content == "shards":
        checked.append("index")
    damaged, archives = _checksums(checkpoint)
    faults += damaged
    if archives:
        checked.append("checksums")
    sums, listed = _sums(checkpoint)
    faults += sums
    if listed:
        checked.append("sha256")
    faults += [
        Fault("companions", f"{key} {what}", key) for key, what in lacking(checkpoint.tensors) if not allowed(str(key))
    ]
    if options.lock is not None:
        checked.append("lock")
        faults += _structure(checkpoint, options.lock)
    notes: list[str] = []
    if options.values:
        checked.append("values")
        faults += _values(checkpoint, options, allowed, notes)
    return Verification(checkpoint.path, tuple(faults), tuple(checked), tuple(notes))


def _checksums(checkpoint: Checkpoint) -> tuple[list[Fault], bool]:
    """The records whose bytes are not those of which the archive has the CRC-32, and whether there are any archives."""
    with Checksums(checkpoint, forgiving=True) as checksums:
        for path in checkpoint.identities:
            checksums.use_all(path)
        checksums.finish()
    return [Fault("checksum", error.message) for error in checksums.damaged], checksums.used


def _sums(checkpoint: Checkpoint) -> tuple[list[Fault], bool]:
    """Files whose SHA-256 is not the one in a file beside them: `FILE.sha256`, or a line of `SHA256SUMS`."""
    faults = []
    listed = False
    for path in checkpoint.identities:
        folder, name = os.path.split(path)
        for beside in (f"{path}.sha256", os.path.join(folder, "SHA256SUMS")):  # noqa: PTH118
            wanted = _sum_in(beside, name)
            if wanted is None:
                continue
            listed = True
            digest = _sha256(path)
            if digest != wanted:
                faults.append(Fault("sha256", f"{path} has the SHA-256 {digest}, and {beside} says {wanted}"))
    return faults, listed


def _sum_in(path: str, name: str) -> str | None:
    """The digest that a file of sums has for a name; one without names is of the file that it is called after."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a pipe would be waited for
            return None
        with open(path, "rb") as file:  # noqa: PTH123
            lines = file.read(_MOST_SUMS).decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        named = re.match(r"\s*\\?([0-9a-fA-F]{64})(?:\s+[ *]?(?:.*/)?(.+?))?\s*$", line)
        if named and (named[2] == name or (named[2] is None and path.endswith(f"{name}.sha256"))):
            return named[1].lower()
    return None


def _sha256(path: str) -> str:
    total = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


def _structure(checkpoint: Checkpoint, lock: Lock) -> Iterator[Fault]:
    for key in lock.tensors:
        if key not in checkpoint.tensors:
            yield Fault("lock", f"{lock.path} has {key}, which {checkpoint.path} lacks", key)
    for key, tensor in checkpoint.tensors.items():
        locked = lock.tensors.get(key)
        if locked is None:
            yield Fault("lock", f"{key} is not in {lock.path}", key)
        elif (locked.dtype, locked.shape) != (tensor.dtype, tensor.shape):
            said = f"{locked.dtype} {list(locked.shape)}"
            yield Fault("lock", f"{key} is {tensor.dtype} {list(tensor.shape)}, and {lock.path} says {said}", key)


def _values(
    checkpoint: Checkpoint, options: VerifyOptions, allowed: Callable[[str], bool], notes: list[str]
) -> Iterator[Fault]:
    lock = options.lock

    def look(blocks: Blocks, key: str, tensor: TensorInfo, count: Callable[[int], None]) -> _Numbers:
        numbers = _Numbers()
        try:
            if lock is not None and key in lock.digests:
                numbers.digest = digest(blocks, key, tensor)
            _look(blocks, key, tensor, count, numbers)
        except CheckpointError as error:
            numbers.error = error.message
        return numbers

    values = for_each_tensor(checkpoint, checkpoint.tensors, look, options.progress)
    for key, numbers in values.items():
        if numbers.error:
            yield Fault("unreadable", f"{key} cannot be read: {numbers.error}", key)
            continue
        if numbers.digest and lock is not None and numbers.digest != lock.digests[key]:
            same = (lock.tensors[key].dtype, lock.tensors[key].shape) == _like(checkpoint.tensors[key])
            if same:
                yield Fault("lock", f"{key} has other values than {lock.path} says", key)
        if not allowed(str(key)):
            yield from _insane(key, checkpoint.tensors[key], numbers, notes)


def _like(tensor: TensorInfo) -> tuple[str, tuple[int, ...]]:
    return tensor.dtype, tensor.shape


def _insane(key: str, tensor: TensorInfo, numbers: _Numbers, notes: list[str]) -> Iterator[Fault]:
    if numbers.nan:
        yield Fault("nan", f"{key} has {_many(numbers.nan, 'NaN')} among {_many(tensor.numel, 'element')}", key)
    if numbers.inf:
        said = f"{key} has {_many(numbers.inf, 'infinite element')} among {tensor.numel:,}"
        if _MASK.search(str(key)):
            notes.append(said)
        else:
            yield Fault("nan", said, key)
    if numbers.zero and tensor.numel > 1 and tensor.layout == "strided":
        said = f"{key} is zero in all of its {tensor.numel:,} elements"
        # A bias, a buffer or the second half of an adapter begins so; a weight that is learned does not.
        begins = len(tensor.shape) < 2 or "lora_" in str(key) or not tensor.dtype.startswith(("float", "bfloat"))
        if begins:
            notes.append(said)
        else:
            yield Fault("zeros", said, key)


def _many(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}" if amount == 1 or noun == "NaN" else f"{amount:,} {noun}s"


def _look(blocks: Blocks, key: str, tensor: TensorInfo, count: Callable[[int], None], numbers: _Numbers) -> None:
    """What the numbers of a tensor are: a block at a time, and without numpy as long as they are zero."""
    for number, part in enumerate(parts_of(tensor)):
        total = nbytes_of(part)
        if not total:
            continue
        fill = blocks.of(key, part) if not number and tensor.layout == "strided" else blocks.stored(part)
        buffer = memoryview(bytearray(min(_BLOCK, total)))
        for start in range(0, total, _BLOCK):
            block = buffer[: total - start]
            fill(start, block)
            count(len(block))
            _sort(block, part, numbers)


def _sort(block: memoryview, tensor: TensorInfo, numbers: _Numbers) -> None:
    from ckptdiff.difference.figures import nan_and_infinite
    from ckptdiff.difference.numerals import numeral

    kind = numeral(tensor.dtype)
    nan, infinite, zero = nan_and_infinite(block, kind)
    numbers.nan += nan
    numbers.inf += infinite
    numbers.zero = numbers.zero and zero
