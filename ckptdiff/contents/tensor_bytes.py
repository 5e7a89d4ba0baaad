"""The bytes of one tensor, read when they are asked for and never more than they.

What comes back is little-endian, whatever the file's byte order, and spans the tensor's first to its last element
in its storage: for a contiguous tensor exactly its elements, for a strided one what `as_strided` needs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.contents.pieces import span
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.zip_archive import checksum, record_of
from ckptdiff.formats.zip_members import archive_in, split
from ckptdiff.tensors import DTYPES, Storage, TensorInfo

CHUNK = 8 << 20


class TensorBytes:
    """The bytes of one checkpoint's tensors, out of its files."""

    def __init__(self, checkpoint: Checkpoint, files: Files) -> None:
        self._checkpoint = checkpoint
        self._files = files

    def read(self, tensor: TensorInfo) -> bytes:
        """All of the tensor's span. Raises CheckpointError for a tensor whose bytes are not in one place."""
        return b"".join(self.chunks(tensor))

    def chunks(self, tensor: TensorInfo, size: int = CHUNK) -> Iterator[bytes]:
        """The same in pieces of at most about `size` bytes, each of whole elements."""
        storage = self.storage(tensor)
        begin, count = span(tensor)
        width = swap_width(tensor.dtype) if self._checkpoint.byteorder == "big" else 1
        size = max(size // 16 * 16, 16)
        for piece in self._pieces(storage, begin, count, size):
            yield piece if width == 1 else _swapped(piece, width)

    def storage(self, tensor: TensorInfo) -> Storage:
        """Where its bytes are. Raises CheckpointError for a tensor whose bytes are not in one place."""
        if tensor.storage is None and tensor.is_meta:
            raise CheckpointError(
                f"A tensor of {self._checkpoint.path} is on the meta device, so the file has no values of it",
                "Save the model after its weights were loaded or initialised.",
            )
        if tensor.storage is None:
            raise CheckpointError(
                f"{self._checkpoint.path} does not hold the values of this {tensor.layout} tensor in one place",
                "Load the checkpoint with torch and save it with torch.save.",
            )
        return tensor.storage._replace(start=self._files.start(tensor.storage))

    def _pieces(self, storage: Storage, begin: int, count: int, size: int) -> Iterator[bytes]:
        if storage.start is not None:
            for offset in range(0, count, size):
                # Asked for each time: it may have been closed meanwhile for another.
                source = self._files.source(storage.file)
                yield source.read(storage.start + begin + offset, min(size, count - offset))
        elif count:
            yield from self._inflated(storage, begin, count, size)

    def _inflated(self, storage: Storage, begin: int, count: int, size: int) -> Iterator[bytes]:
        """A compressed record, from its beginning, since deflate cannot be entered in the middle."""
        # A remote file says so here, before it is asked for its records.
        self._files.source(storage.file)
        archive = self._files.archive(storage.file)
        record = record_of(archive, storage.id)
        base = 0
        if record is None:  # a member's is called MEMBER:RECORD
            member, inner = split(archive.records, storage.id, ":")
            below = archive_in(archive, archive.records[member]) if member else None
            record = None if below is None else below[0].records.get(inner)
            if below is None or record is None:
                raise CheckpointError(f"{storage.file} has changed since it was read")
            archive, base = below
        position = base + archive.start(record)
        end = position + record.compressed
        inflater = zlib.decompressobj(-15)
        pending = b""
        done = 0
        held = bytearray()
        crc, wanted = 0, checksum(archive, record)
        # To its end if it has a checksum, which is of all of it.
        while done < (begin + count if wanted is None else record.size):
            if not pending and position < end:
                pending = self._files.source(storage.file).read(position, min(CHUNK, end - position))
                position += len(pending)
            try:
                piece = inflater.decompress(pending, size)
            except zlib.error:
                raise _not_inflated(storage) from None
            pending = inflater.unconsumed_tail
            if not piece and (inflater.eof or (not pending and position >= end)):
                raise _not_inflated(storage)
            if wanted is not None:
                crc = zlib.crc32(piece, crc)
            held += piece[max(begin - done, 0) : max(begin + count - done, 0)]
            done += len(piece)
            while len(held) >= size:
                yield bytes(held[:size])
                del held[:size]
        if wanted is not None and crc != wanted:
            raise _not_inflated(storage)
        if held:
            yield bytes(held)


def _not_inflated(storage: Storage) -> CheckpointError:
    return CheckpointError(
        f"{storage.file} is damaged: a compressed storage in it cannot be inflated", "Download or copy the file again."
    )


def swap_width(dtype: str) -> int:
    """Bytes that are reversed together: an element, or each half of a complex one."""
    known = DTYPES[dtype]
    width = max(known.bits // 8, 1)
    return width // 2 if known.kind == "complex" else width


def _swapped(piece: bytes, width: int) -> bytes:
    swapped = bytearray(len(piece))
    for index in range(width):
        swapped[index::width] = piece[width - 1 - index :: width]
    return bytes(swapped)
