"""Two checkpoints held against each other by the CRC-32 that zip archives have of their records: no value is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.difference.comparing import Pair
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.formats.zip_archive import ZipArchive, record_of
from ckptdiff.places import open_again
from ckptdiff.spelling import option
from ckptdiff.tensors import TensorInfo

DOUBT = (
    "by checksums alone, of 32 bits: one difference in four thousand million is not seen, nor one that was made on "
    "purpose, nor damage since the files were written"
)


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What checksums say of pairs before a value is read, by A's keys. `same` and `whole` hold some of the others:
    those whose storages have the same checksum, and those of which the storage is all of the tensor."""

    different: frozenset[str] = frozenset()
    same: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()

    def contradicted(self, unequal: Collection[str]) -> tuple[str, ...]:
        """Keys of which the bytes say otherwise: those of which the bits are not all the same are `unequal`."""
        odd = {key for key in self.same if key in unequal}
        odd |= {key for key in self.different & self.whole if key not in unequal}
        return tuple(sorted(odd))


def first_look(a: Checkpoint, b: Checkpoint, pairs: Sequence[Pair]) -> FirstLook:
    """What is known without reading a value; nothing of files without checksums."""
    if a.live is not None or b.live is not None:
        return FirstLook()
    mine, theirs = _Sums(a), _Sums(b)
    different: set[str] = set()
    same: set[str] = set()
    whole: set[str] = set()
    for pair in pairs:
        told = _told(mine, theirs, pair)
        if told is not None:
            (same if told else different).add(pair.key)
            if all(t.storage is not None and t.storage.nbytes == t.nbytes for t in (pair.before, pair.after)):
                whole.add(pair.key)
    return FirstLook(frozenset(different), frozenset(same), frozenset(whole))


def differing(a: Checkpoint, b: Checkpoint, pairs: Sequence[Pair]) -> tuple[list[Pair], str]:
    """The pairs of different checksums, and what is in doubt. Raises UsageError where there are none to compare."""
    mine, theirs = _Sums(a), _Sums(b)
    unequal = []
    for pair in pairs:
        if not pair.before.numel:
            continue
        told = _told(mine, theirs, pair)
        if told is None:
            lacking = a if mine.of(pair.before) is None else b
            raise UsageError(
                f"{option('quick')} compares checksums, and {lacking.path or 'a state dict in memory'} has none "
                f"of {pair.key!r} that the other side's says anything of.",
                "Leave it out: then the values are read.",
            )
        if not told:
            unequal.append(pair)
    return unequal, DOUBT


def _told(mine: _Sums, theirs: _Sums, pair: Pair) -> bool | None:
    """Whether both have the same checksum; None where that says nothing of the pair."""
    if not pair.before.numel or pair.before[:4] != pair.after[:4]:  # dtype, shape, stride, offset
        return None
    before, after = mine.of(pair.before), theirs.of(pair.after)
    return None if before is None or after is None else before == after


class _Sums:
    """Of each storage its bytes and their CRC-32, from the directories of the archives."""

    def __init__(self, side: Checkpoint) -> None:
        self._side = side
        self._archives: dict[str, ZipArchive | None] = {}

    def of(self, tensor: TensorInfo) -> tuple[int, int] | None:
        storage = tensor.storage
        if storage is None or tensor.layout != "strided" or tensor.parts:
            return None
        archive = self._archive(storage.file)
        if archive is None:
            return None
        record = record_of(archive, storage.id)
        return None if record is None or not record.crc else (record.size, record.crc)

    def _archive(self, path: str) -> ZipArchive | None:
        if path not in self._archives:
            remote = self._side.remotes.get(path)
            source = open_again(path if remote is None else remote.url, self._side.identities.get(path))
            try:
                zipped = source.size > 4 and source.read(0, 4) == b"PK\3\4"
                self._archives[path] = ZipArchive(source) if zipped else None
            except CheckpointError:  # several archives in a row, as torch.distributed.checkpoint writes them
                self._archives[path] = None
            finally:
                source.close()
        return self._archives[path]
