"""Two checkpoints held against each other by the CRC-32 that zip archives have of their records: no value is read."""

from __future__ import annotations

from collections.abc import Sequence

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.difference.comparing import Pair
from ckptdiff.errors import UsageError
from ckptdiff.formats.zip_archive import ZipArchive
from ckptdiff.places import open_again
from ckptdiff.spelling import option
from ckptdiff.tensors import TensorInfo

DOUBT = (
    "by checksums alone, of 32 bits: one difference in four thousand million is not seen, nor one that was made on "
    "purpose, nor damage since the files were written"
)


def differing(a: Checkpoint, b: Checkpoint, pairs: Sequence[Pair]) -> tuple[list[Pair], str]:
    """The pairs of different checksums, and what is in doubt. Raises UsageError where there are none to compare."""
    mine, theirs = _Sums(a), _Sums(b)
    unequal = []
    for pair in pairs:
        if not pair.before.numel:
            continue
        one, other = mine.of(pair.before), theirs.of(pair.after)
        like = pair.before[:4] == pair.after[:4]  # dtype, shape, stride, offset
        if one is None or other is None or not like:
            lacking = a if one is None else b
            raise UsageError(
                f"{option('quick')} compares checksums, and {lacking.path or 'a state dict in memory'} has none "
                f"of {pair.key!r} that the other side's says anything of.",
                "Leave it out: then the values are read.",
            )
        if one != other:
            unequal.append(pair)
    return unequal, DOUBT


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
        record = archive.records.get(storage.id) or archive.records.get(storage.id.rpartition(":")[2])
        return None if record is None or not record.crc else (record.size, record.crc)

    def _archive(self, path: str) -> ZipArchive | None:
        if path not in self._archives:
            source = open_again(self._place(path), self._side.identities.get(path))
            try:
                zipped = source.size > 4 and source.read(0, 4) == b"PK\3\4"
                self._archives[path] = ZipArchive(source) if zipped else None
            finally:
                source.close()
        return self._archives[path]

    def _place(self, path: str) -> str:
        return path
