"""The bytes of one tensor, read when they are asked for and never more than they.

What comes back is little-endian, whatever the file's byte order, and spans the tensor's first to its last element
in its storage: for a contiguous tensor exactly its elements, for a strided one what `as_strided` needs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from types import TracebackType

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.zip_archive import ZipArchive, checksum
from ckptdiff.places import ByteSource, is_url, open_again
from ckptdiff.tensors import DTYPES, Storage, TensorInfo

CHUNK = 8 << 20


class TensorReader:
    """Reads tensors of one checkpoint; keeps its files open until closed. Use it with `with`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._sources: dict[str, ByteSource] = {}
        self._archives: dict[str, ZipArchive] = {}

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        self._archives.clear()

    def read(self, tensor: TensorInfo) -> bytes:
        """All of the tensor's span. Raises CheckpointError for a tensor whose bytes are not in one place."""
        return b"".join(self.chunks(tensor))

    def chunks(self, tensor: TensorInfo, size: int = CHUNK) -> Iterator[bytes]:
        """The same in pieces of at most about `size` bytes, each of whole elements."""
        storage = tensor.storage
        if storage is None and tensor.is_meta:
            raise CheckpointError(
                f"A tensor of {self._checkpoint.path} is on the meta device, so the file has no values of it",
                "Save the model after its weights were loaded or initialised.",
            )
        if storage is None:
            raise CheckpointError(
                f"{self._checkpoint.path} does not hold the values of this {tensor.layout} tensor in one place",
                "Load the checkpoint with torch and save it with torch.save.",
            )
        begin, count = span(tensor)
        width = _swap_width(tensor.dtype) if self._checkpoint.byteorder == "big" else 1
        size = max(size // 16 * 16, 16)
        for piece in self._pieces(storage, begin, count, size):
            yield piece if width == 1 else _swapped(piece, width)

    def _pieces(self, storage: Storage, begin: int, count: int, size: int) -> Iterator[bytes]:
        if begin + count > storage.nbytes:
            raise CheckpointError(f"{storage.file} is damaged: a tensor ends outside its storage")
        source = self._source(storage.file)
        if storage.start is not None:
            for offset in range(0, count, size):
                yield source.read(storage.start + begin + offset, min(size, count - offset))
        elif count:
            yield from self._inflated(source, storage, begin, count, size)

    def _source(self, path: str) -> ByteSource:
        if is_url(path):
            raise CheckpointError(
                f"{path} is remote: its headers were read, and its tensors' values are not",
                "Download it and give its path.",
            )
        if path not in self._sources:
            self._sources[path] = open_again(path, self._checkpoint.identities.get(path))
        return self._sources[path]

    def _inflated(self, source: ByteSource, storage: Storage, begin: int, count: int, size: int) -> Iterator[bytes]:
        """A compressed record, from its beginning, since deflate cannot be entered in the middle."""
        archive = self._archives.get(storage.file)
        if archive is None:
            archive = self._archives[storage.file] = ZipArchive(source)
        # A shard's storage is called FILE:RECORD.
        record = archive.records.get(storage.id) or archive.records.get(storage.id.partition(":")[2])
        if record is None:
            raise CheckpointError(f"{storage.file} has changed since it was read")
        position = archive.start(record)
        end = position + record.compressed
        inflater = zlib.decompressobj(-15)
        pending = b""
        done = 0
        held = bytearray()
        crc, wanted = 0, checksum(archive, record)
        # To its end if it has a checksum, which is of all of it.
        while done < (begin + count if wanted is None else record.size):
            if not pending and position < end:
                pending = source.read(position, min(CHUNK, end - position))
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


def tensor_bytes(checkpoint: Checkpoint, key: str) -> bytes:
    """The span of the tensor at `key`. For several tensors a `TensorReader` opens the file only once."""
    entry = checkpoint.entries[key]
    if not isinstance(entry, TensorInfo):
        raise CheckpointError(f"{checkpoint.path} has no tensor at {key!r}")
    with TensorReader(checkpoint) as reader:
        return reader.read(entry)


def span(tensor: TensorInfo) -> tuple[int, int]:
    """Offset of the tensor's first byte in its storage, and the bytes from there to its last element's end."""
    bits = DTYPES[tensor.dtype].bits
    if tensor.numel == 0:
        return 0, 0
    elements = tensor.numel
    if tensor.stride is not None:
        elements = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
    return tensor.offset * bits // 8, (elements * bits + 7) // 8


def _swap_width(dtype: str) -> int:
    """Bytes that are reversed together: an element, or each half of a complex one."""
    known = DTYPES[dtype]
    width = max(known.bits // 8, 1)
    return width // 2 if known.kind == "complex" else width


def _swapped(piece: bytes, width: int) -> bytes:
    swapped = bytearray(len(piece))
    for index in range(width):
        swapped[index::width] = piece[width - 1 - index :: width]
    return bytes(swapped)
