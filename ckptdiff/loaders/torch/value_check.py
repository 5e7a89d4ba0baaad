"""The values of matched tensors, read a piece at a time: what is NaN or infinite, what a cast loses, which ties differ.

At most `CHUNK` elements of a tensor are in memory, whatever its size, and they go through `copy_`, which is what torch
loads with. Only a view with gaps or another order is mapped or, where its bytes are compressed or of the other byte
order, held as a whole.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.tensor_bytes import TensorReader, span
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.loaders.outcome import (
    Comparison,
    Match,
    TensorValues,
    ValueFacts,
    memory,
)
from ckptdiff.loaders.torch.shadows import is_plain
from ckptdiff.places import ensure_same, is_url
from ckptdiff.tensors import DTYPES, TensorInfo

CHUNK = 1 << 20
"""Elements looked at at a time."""

_ABSENT = "torch {version} has no dtype {dtype}"
_SPREAD = "they are not in one place of the file"
# The others are several in a byte, mere bits, or mean nothing without a scale: torch refuses to work with them, and
# ends the process over a quantized tensor that was made of bytes alone.
_NUMBERS = {dtype.name for dtype in DTYPES.values() if dtype.kind == "complex" or dtype.code not in (None, "F4")}
_MADE = "code of the model or a tensor operation makes them"
_UNUSUAL = "it is no ordinary tensor"
_ENCODED = "what {dtype} stands for is not in its bytes alone"
_NO_VALUES = "it is on the meta device and has none"


def ensure_readable(checkpoint: Checkpoint) -> None:
    """Raises UsageError for a checkpoint whose values are not at hand: remote, distributed, or none at all."""
    name = checkpoint.path
    if checkpoint.kind.values == "none":
        raise UsageError(f"--check-values: {name} is a snapshot, which holds no values.", "Give the checkpoint itself.")
    if checkpoint.kind.values == "in pieces":
        raise UsageError(
            f"--check-values: {name} is a distributed checkpoint, whose tensors are in pieces.",
            "Convert it to one file with torch.distributed.checkpoint.format_utils.dcp_to_torch_save.",
        )
    storages = (entry.storage.file for entry in checkpoint.tensors.values() if entry.storage is not None)
    if is_url(name) or any(map(is_url, storages)):
        raise UsageError(f"--check-values: {name} is remote, and only its headers were read.", "Download it first.")


def check_values(comparison: Comparison) -> ValueFacts:
    """Read the values of every matched tensor and of every pair that is loaded into one tensor of the model.

    Under `assign` nothing is cast. Raises UsageError where there are no values to read, CheckpointError where the file
    is damaged.
    """
    checkpoint = comparison.checkpoint
    ensure_readable(checkpoint)
    tensors: dict[str, TensorValues] = {}
    ties: dict[str, int] = {}
    unread: dict[str, list[str]] = {}
    known: dict[object, TensorValues] = {}
    identities = comparison.identities()
    winners = {identities[key]: match for key, match in comparison.matched.items()}
    with _Values(checkpoint) as values:
        for key, match in comparison.matched.items():
            source, target = match.source, match.source.dtype if comparison.assign else match.target.tensor.dtype
            try:
                if DTYPES[source.dtype].kind in ("float", "complex") or source.dtype != target:
                    same = (source.storage, source.offset, source.shape, source.stride, source.dtype, target)
                    facts = known.get(same) if source.storage is not None else None
                    if facts is None:
                        facts = known[same] = _facts(values.pieces(source), _dtype(source.dtype), _dtype(target))
                    if facts != TensorValues():
                        tensors[key] = facts
                winner = winners[identities[key]]
                if winner.key != key and values.apart(match.source, winner.source):
                    ties[key] = _differing(values, match, winner)
            except _UnreadError as why:
                unread.setdefault(str(why), []).append(key)
            except RuntimeError:  # torch lacks one or another operation for a rare dtype
                unread.setdefault(f"torch cannot look into {source.dtype}", []).append(key)
    return ValueFacts(tensors, ties, tuple(_sentence(why, keys) for why, keys in unread.items()))


def _sentence(why: str, keys: list[str]) -> str:
    others = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"The values of {keys[0]}{others} were not checked: {why}."


# One tensor


def _facts(pieces: Iterator[torch.Tensor], source: torch.dtype, target: torch.dtype) -> TensorValues:
    total = TensorValues()
    lost_by = _loss(source, target)
    floating = source.is_floating_point or source.is_complex
    done = 0
    for piece in pieces:
        work = _workable(piece)
        # One infinity or NaN makes the sum one; only then is it worth counting, which takes much longer.
        if floating and not _sum(work).isfinite():
            nan, finite = work.isnan(), work.isfinite()
            count = int(nan.sum())
            odd = len(work) - int(finite.sum())
            if odd:
                first = total.first_non_finite if total.nan + total.inf else done + _first(~finite)
                total = replace(total, nan=total.nan + count, inf=total.inf + odd - count, first_non_finite=first)
        if lost_by is not None:
            lost = lost_by(work)
            count = int(lost.sum())
            if count:
                first = total.first_lost if total.lost else done + _first(lost)
                total = replace(total, lost=total.lost + count, first_lost=first)
        done += len(piece)
    return total


def _loss(source: torch.dtype, target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What tells which values of a piece do not survive; None where all do.

    Between floating-point dtypes rounding is no loss, and being out of range is; everywhere else a value is lost that
    is not what it was.
    """
    if source == target or source == torch.bool:
        return None
    if target == torch.bool:
        return lambda piece: (piece != 0) & (piece != 1)
    continuous = target.is_floating_point or target.is_complex
    if source.is_complex and not target.is_complex:
        if continuous and torch.finfo(target).max >= torch.finfo(source).max:
            return lambda piece: piece.imag != 0
        real = _between_floats(target) if continuous else _into_int(target)
        return lambda piece: (piece.imag != 0) | real(piece.real)
    if source.is_floating_point or source.is_complex:
        if not continuous:
            return _into_int(target)
        return None if torch.finfo(target).max >= torch.finfo(source).max else _between_floats(target)
    if continuous:
        return _int_into_float(source, target)
    return _between_ints(source, target)


def beyond_range(piece: torch.Tensor, cast: torch.Tensor) -> torch.Tensor:
    """Which finite values of a floating-point piece are beyond the range of the dtype it was cast to, as `cast`."""
    info = torch.finfo(cast.dtype)
    # Half a step above the largest number; anything beyond is not rounded to it but clamped.
    limit = info.max + info.eps / 2 * 2.0 ** math.floor(math.log2(info.max))
    # Newer releases of torch clamp where older ones make it NaN.
    clamps = cast.dtype.itemsize == 1
    piece, cast = _workable(piece), _workable(cast)
    if clamps:
        return piece.isfinite() & (~cast.isfinite() | (piece.abs() > limit))
    # One infinity or NaN makes the sum one; only then is it worth looking at each, which takes ten times as long.
    if _sum(cast).isfinite():
        return torch.zeros(1, dtype=torch.bool)
    return piece.isfinite() & ~cast.isfinite()


def _between_floats(target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda piece: beyond_range(piece, piece.to(target))


def _into_int(target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    low, high = _bounds(target)

    def lost(piece: torch.Tensor) -> torch.Tensor:
        # In float64, in which every value of a smaller dtype and both bounds are exact. Processors disagree on what
        # a value out of range becomes; it is lost on all of them.
        wide = piece.double()
        return (wide != wide.trunc()) | ~((wide >= float(low)) & (wide < float(high + 1)))

    return lost


def _between_ints(source: torch.dtype, target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor] | None:
    (low, high), (new_low, new_high) = _bounds(source), _bounds(target)
    if new_low <= low and high <= new_high:
        return None
    if source == torch.uint64:  # its upper half is negative in the int64 that it is looked at in
        return lambda piece: (piece < 0) | (piece > min(new_high, 2**63 - 1))
    return lambda piece: (piece < max(new_low, low)) | (piece > min(new_high, high))


def _int_into_float(source: torch.dtype, target: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    high = _bounds(source)[1]

    def lost(piece: torch.Tensor) -> torch.Tensor:
        given = piece.view(torch.uint64) if source == torch.uint64 else piece
        cast = given.to(target)
        real = _workable(cast).real.double() if cast.is_complex() else cast.double()
        inside = real.isfinite() & (real < float(high + 1))
        back = real.masked_fill(~inside, 0).to(given.dtype)
        return ~inside | (back.view(torch.int64) != piece if source == torch.uint64 else back != piece)

    return lost


def _bounds(dtype: torch.dtype) -> tuple[int, int]:
    info = torch.iinfo(dtype)
    return info.min, info.max


# Two tensors that are loaded into one


def _differing(values: _Values, match: Match, winner: Match) -> int:
    """How many elements would be another value in the model if the other of the two had been loaded last."""
    if match.source.numel != winner.source.numel:
        raise _UnreadError("the two are not of one size")
    target = _dtype(match.target.tensor.dtype)
    differing = 0
    for one, other in zip(values.pieces(match.source), values.pieces(winner.source), strict=True):
        if one.dtype == other.dtype and torch.equal(_bits(one), _bits(other)):
            continue
        left, right = _workable(_cast(one, target)), _workable(_cast(other, target))
        unequal = left != right
        if left.is_floating_point() or left.is_complex():
            unequal &= ~(left.isnan() & right.isnan())
        differing += int(unequal.sum())
    return differing


def _cast(piece: torch.Tensor, target: torch.dtype) -> torch.Tensor:
    # torch warns of an imaginary part that is dropped, and here it is dropped on purpose.
    return (piece if target.is_complex or not piece.is_complex() else _workable(piece).real).to(target)


def _bits(piece: torch.Tensor) -> torch.Tensor:
    return piece.view(torch.uint8)


# Values, wherever they are


class _UnreadError(Exception):
    """Why values could not be read, as the end of a sentence."""


class _Values:
    """The values of a checkpoint's tensors, in a file or in memory. Use it with `with`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._reader = TensorReader(checkpoint)
        # A hook may have given an entry another key.
        self._keys = {id(entry): key for key, entry in checkpoint.entries.items()}
        self._maps: dict[str, mmap.mmap] = {}

    def __enter__(self) -> _Values:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._maps.clear()

    def apart(self, one: TensorInfo, other: TensorInfo) -> bool:
        """Whether two tensors are not the same memory, as far as it is known."""
        live = self._checkpoint.live
        if live is None or not {id(one), id(other)} <= self._keys.keys():
            return memory(one) != memory(other)
        left, right = (live[self._keys[id(info)]] for info in (one, other))
        return left is not right and _address(left) != _address(right)

    def pieces(self, info: TensorInfo) -> Iterator[torch.Tensor]:
        """The elements in row-major order, as flat tensors of `CHUNK` and at the end fewer."""
        if id(info) not in self._keys:
            raise _UnreadError(_MADE)
        if self._checkpoint.live is not None:
            value: Any = self._checkpoint.live[self._keys[id(info)]]
            if not isinstance(value, torch.Tensor) or not is_plain(value) or value.is_meta:
                raise _UnreadError(_UNUSUAL)
            return _flat(value.detach())
        if info.is_meta:
            raise _UnreadError(_NO_VALUES)
        if info.storage is None or info.layout != "strided":
            raise _UnreadError(_MADE if info.layout == "strided" else _SPREAD)
        dtype = _dtype(info.dtype)
        if info.stride is None:
            return (_tensor(piece, dtype) for piece in self._reader.chunks(info, CHUNK * dtype.itemsize))
        return _flat(self._strided(info, info.stride, dtype))

    def _strided(self, info: TensorInfo, stride: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        storage = info.storage
        assert storage is not None
        start, count = span(info)
        if not info.numel or storage.start is None or self._checkpoint.byteorder == "big":
            return _tensor(self._reader.read(info), dtype).as_strided(info.shape, stride)
        if start + count > storage.nbytes:
            raise CheckpointError(f"{storage.file} is damaged: a tensor ends outside its storage")
        if storage.file not in self._maps:
            with open(storage.file, "rb") as file:  # noqa: PTH123 - the map outlives the file object
                ensure_same(storage.file, file.fileno(), self._checkpoint.identities.get(storage.file))
                self._maps[storage.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        data = torch.frombuffer(self._maps[storage.file], dtype=torch.uint8, count=count, offset=storage.start + start)
        if (storage.start + start) % dtype.itemsize:
            data = data.clone()
        return data.view(dtype).as_strided(info.shape, stride)


def _address(value: Any) -> object:
    if not isinstance(value, torch.Tensor) or not is_plain(value) or value.is_meta:
        return id(value)
    return value.device, value.data_ptr(), value.shape, value.stride(), value.dtype


def _flat(value: torch.Tensor) -> Iterator[torch.Tensor]:
    if value.is_contiguous():
        flat = value.view(-1)
        for start in range(0, flat.numel(), CHUNK):
            yield flat[start : start + CHUNK].cpu()
        return
    # Whole rows of the first dimensions, as many as fit, gathered into pieces of equal length.
    held: list[torch.Tensor] = []
    length = 0
    for part in _parts(value):
        part = part.reshape(-1).cpu()
        while length + len(part) >= CHUNK:
            yield torch.cat([*held, part[: CHUNK - length]])
            part, held, length = part[CHUNK - length :], [], 0
        if len(part):
            held.append(part)
            length += len(part)
    if held:
        yield torch.cat(held)


def _parts(value: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor in parts of at most `CHUNK` elements, in row-major order."""
    if value.numel() <= CHUNK:
        yield value
        return
    row = value[0].numel()
    if row > CHUNK:
        for part in value:
            yield from _parts(part)
        return
    rows = CHUNK // row
    for start in range(0, len(value), rows):
        yield value[start : start + rows]


def _tensor(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _dtype(name: str) -> torch.dtype:
    if name not in _NUMBERS:
        raise _UnreadError(_ENCODED.format(dtype=name))
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise _UnreadError(_ABSENT.format(version=torch.__version__, dtype=name))
    return dtype


def _workable(piece: torch.Tensor) -> torch.Tensor:
    """The same values in a dtype that torch can compare and sum: uint64 as the int64 of its bits."""
    dtype = piece.dtype
    if dtype == torch.uint64:
        return piece.view(torch.int64)
    if dtype in (torch.uint16, torch.uint32):
        return piece.long()
    if dtype == torch.complex32:
        return piece.to(torch.complex64)
    return piece.float() if dtype.is_floating_point and dtype.itemsize == 1 else piece


def _sum(piece: torch.Tensor) -> torch.Tensor:
    return piece.sum(dtype=torch.float32 if piece.dtype in (torch.float16, torch.bfloat16) else None)


def _first(mask: torch.Tensor) -> int:
    return int(mask.to(torch.uint8).argmax())
