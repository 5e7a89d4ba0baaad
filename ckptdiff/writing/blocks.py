"""A block's bytes into a file, by the quickest way that is open: the file system's, a buffer, or torch."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.checksums import Checksums
from ckptdiff.contents.files import Files
from ckptdiff.writing.byte_copying import Sink
from ckptdiff.writing.layout import Block

if TYPE_CHECKING:
    from ckptdiff.writing.compute import Computer


class BlockWriter:
    """Writes the blocks of one output.

    `initial` holds the model's own values for filled keys. `crcs` collects the CRC-32 of every block that is computed,
    by its first key: there is nothing in the input to compare it with afterwards.
    """

    def __init__(
        self,
        files: Files,
        checksums: Checksums,
        checkpoint: Checkpoint,
        initial: Mapping[str, Any],
    ) -> None:
        self._files = files
        self._checksums = checksums
        self._checkpoint = checkpoint
        self._initial = initial
        self._computer: Computer | None = None
        self.crcs: dict[str, int] = {}

    @property
    def overflowed(self) -> Mapping[str, int]:
        """Key → number of values too large for the new dtype."""
        return self._computer.overflowed if self._computer is not None else {}

    def uses_whole_file(self, path: str) -> None:
        """Say that bytes of the file get into the output by another way."""
        self._checksums.use_all(path)

    def write_all(self, blocks: Iterable[Block], sink: Sink) -> None:
        """Blocks one behind the other. What lies together in the input is copied together."""
        file, start, nbytes = "", 0, 0
        for block in blocks:
            for span in block.ranges or ():
                if span.file == file and span.start == start + nbytes:
                    nbytes += span.nbytes
                    continue
                if nbytes:
                    sink.copy(file, start, nbytes)
                file, start, nbytes = span.file, span.start, span.nbytes
            if block.ranges is None:
                if nbytes:
                    sink.copy(file, start, nbytes)
                nbytes = 0
                self._compute(block, sink)
        if nbytes:
            sink.copy(file, start, nbytes)

    def write_with_crc(self, block: Block, sink: Sink) -> int:
        """One block; returns its CRC-32: the one that the input has on record, if there is, since it will be proved."""
        if block.ranges is None:
            return self._compute(block, sink)
        if len(block.ranges) == 1:
            (span,) = block.ranges
            known = self._checksums.known(span.file, span.start, span.nbytes)
            if known is not None:
                sink.copy(span.file, span.start, span.nbytes)
                return known
        crc = 0
        for span in block.ranges:
            crc = sink.copy_with_crc(span.file, span.start, span.nbytes, crc)
        return crc

    def _compute(self, block: Block, sink: Sink) -> int:
        if self._computer is None:
            from ckptdiff.writing.compute import Computer

            self._computer = Computer(self._files, self._checksums, self._checkpoint, self._initial)
        key = block.members[0].keep.key
        files = {info.storage.file for info in block.recipe.tensors if info.storage is not None}
        crc = 0
        for piece in self._computer.stream(block.recipe, key):
            crc = zlib.crc32(piece, crc)
            sink.write_of(files, piece)
        self.crcs[key] = crc
        return crc
