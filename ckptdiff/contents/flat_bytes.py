"""The elements of tensors as flat bytes, read from any place on: row-major, little-endian, whatever the file has.

A contiguous tensor is read where it lies, into the caller's buffer. What is strided, compressed, of the other byte
order or in parts is put in order first, in memory up to `_IN_MEMORY` and beyond that in a temporary file.
"""

from __future__ import annotations

from collections.abc import Callable
from tempfile import SpooledTemporaryFile

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.contents.pieces import Piece, piece
from ckptdiff.contents.tensor_bytes import TensorBytes
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import DTYPES, TensorInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

Fill = Callable[[int, memoryview], None]
"""Fills a buffer with a tensor's bytes from a place on."""

_IN_MEMORY = 32 << 20


class Blocks:
    """The tensors of one checkpoint. For one thread; use it with `with`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._files = Files(checkpoint.identities, remotes=checkpoint.remotes)
        self._bytes = TensorBytes(checkpoint, self._files)
        self._spools: list[SpooledTemporaryFile[bytes]] = []

    def __enter__(self) -> Blocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        self._files.close()

    def let_go(self) -> None:
        """Give back what was put in order; readers of it end here."""
        for spool in self._spools:
            spool.close()
        self._spools.clear()

    def of(self, key: object, tensor: TensorInfo) -> Fill:
        """What reads a tensor. Raises CheckpointError where its values are not at hand."""
        live = self._checkpoint.live
        if live is not None:
            from ckptdiff.contents.live_bytes import bytes_of

            return _from_memory(bytes_of(live[key], tensor))
        return self.stored(tensor)

    def stored(self, tensor: TensorInfo) -> Fill:
        """The same of a tensor in a file."""
        place = self._place(tensor)
        if place is None:
            return self._ordered(tensor)
        files, file, base = self._files, place.file, place.start
        return lambda start, buffer: files.read(file, base + start, buffer)

    def is_direct(self, tensor: TensorInfo) -> bool:
        """Whether any part of it is read without the parts before."""
        if self._checkpoint.live is not None:
            return True
        storage = tensor.storage
        if storage is not None and storage.start is None and self._files.has_start(storage):
            tensor = tensor._replace(storage=storage._replace(start=0))
        return piece(tensor, self._checkpoint.byteorder) is not None

    def _place(self, tensor: TensorInfo) -> Piece | None:
        """The bytes of its file that are the tensor's as they are."""
        storage = tensor.storage
        if storage is not None and storage.start is None and tensor.numel:
            start = self._files.start(storage)
            tensor = tensor if start is None else tensor._replace(storage=storage._replace(start=start))
        return piece(tensor, self._checkpoint.byteorder)

    def _ordered(self, tensor: TensorInfo) -> Fill:
        spool = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - until `let_go`
        self._spools.append(spool)
        if tensor.pieces:
            from ckptdiff.contents.assembled import assembled

            for part in assembled(tensor, self._checkpoint, self._files):
                spool.write(part)
        elif tensor.stride is None:
            for chunk in self._bytes.chunks(tensor):
                spool.write(chunk)
        else:
            from ckptdiff.contents.gathered import gathered

            for part in gathered(tensor, self._bytes.read(tensor)):
                spool.write(part)

        def fill(start: int, buffer: memoryview) -> None:
            spool.seek(start)
            data = spool.read(len(buffer))
            if len(data) != len(buffer):
                raise CheckpointError(f"{self._checkpoint.path} ends before its tensors do")
            buffer[:] = data

        return fill


def parts_of(tensor: TensorInfo) -> tuple[TensorInfo, ...]:
    """The dense tensors that its values are: itself, or those that it is made of. Raises CheckpointError where it is
    stored in a way of its own."""
    if tensor.layout != "strided":
        if not tensor.parts:
            raise CheckpointError(
                f"The values of a tensor of layout {tensor.layout} cannot be looked at", "Save it as a dense one."
            )
        return tensor.parts
    return (tensor._replace(parts=()), *tensor.parts)


def nbytes_of(tensor: TensorInfo) -> int:
    """Bytes of the flat elements of a dense tensor."""
    return (tensor.numel * DTYPES[tensor.dtype].bits + 7) // 8


def _from_memory(data: memoryview) -> Fill:
    def fill(start: int, buffer: memoryview) -> None:
        buffer[:] = data[start : start + len(buffer)]

    return fill
