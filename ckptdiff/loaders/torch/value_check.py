"""The values of matched tensors: which have something to tell, which ties differ, and which could not be read.

Only a view with gaps or another order is mapped or, where its bytes are compressed or of the other byte order, held as
a whole; the others are counted a piece at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents import counting
from ckptdiff.contents.counting import counted, differing
from ckptdiff.contents.files import Files
from ckptdiff.contents.numbers import TensorValues
from ckptdiff.contents.torch_tensors import StoredTensors, flat, torch_dtype
from ckptdiff.errors import UsageError
from ckptdiff.loaders.outcome import Filled, Outcome, ValueFacts, memory
from ckptdiff.loaders.torch.shadows import is_plain
from ckptdiff.places import is_url
from ckptdiff.spelling import option
from ckptdiff.tensors import DTYPES, TensorInfo

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
        raise UsageError(
            f"{option('check_values')}: {name} is a snapshot, which holds no values.", "Give the checkpoint itself."
        )
    if checkpoint.kind.values == "in pieces":
        raise UsageError(
            f"{option('check_values')}: {name} is a distributed checkpoint, whose tensors are in pieces.",
            "Convert it to one file with torch.distributed.checkpoint.format_utils.dcp_to_torch_save.",
        )
    storages = (entry.storage.file for entry in checkpoint.tensors.values() if entry.storage is not None)
    if is_url(name) or any(map(is_url, storages)):
        raise UsageError(
            f"{option('check_values')}: {name} is remote, and only its headers were read.", "Download it first."
        )


def check_values(outcome: Outcome) -> ValueFacts:
    """Read the values of every loaded tensor and of every pair that is loaded into one tensor of the model.

    Under `assign` nothing is cast. Raises UsageError where there are no values to read, CheckpointError where the file
    is damaged.
    """
    checkpoint = outcome.checkpoint
    ensure_readable(checkpoint)
    tensors: dict[str, TensorValues] = {}
    ties: dict[str, int] = {}
    unread: dict[str, list[str]] = {}
    known: dict[object, TensorValues] = {}
    with _Values(checkpoint) as values:
        for key, source, slot in outcome.loaded():
            item, target = outcome.filled[key], source.dtype if outcome.assign else slot.tensor.dtype
            try:
                if DTYPES[source.dtype].kind in ("float", "complex") or source.dtype != target:
                    same = (source.storage, source.offset, source.shape, source.stride, source.dtype, target)
                    facts = known.get(same) if source.storage is not None else None
                    if facts is None:
                        facts = known[same] = counted(values.pieces(item), _dtype(source.dtype), _dtype(target))
                    if facts != TensorValues():
                        tensors[key] = facts
                if key in outcome.overwritten:
                    winner = outcome.filled[outcome.overwritten[key]]
                    if values.apart(item, winner):
                        ties[key] = _differing(values, item, winner, slot.tensor.dtype)
            except _UnreadError as why:
                unread.setdefault(str(why), []).append(key)
            except RuntimeError:  # torch lacks one or another operation for a rare dtype
                unread.setdefault(f"torch cannot look into {source.dtype}", []).append(key)
    return ValueFacts(tensors, ties, tuple(_sentence(why, keys) for why, keys in unread.items()))


def _sentence(why: str, keys: list[str]) -> str:
    others = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"The values of {keys[0]}{others} were not checked: {why}."


# Two tensors that are loaded into one


def _differing(values: _Values, loaded: Filled, winner: Filled, dtype: str) -> int:
    """How many elements would be another value in the model if the other of the two had been loaded last."""
    if _tensor_of(loaded).numel != _tensor_of(winner).numel:
        raise _UnreadError("the two are not of one size")
    return differing(values.pieces(loaded), values.pieces(winner), _dtype(dtype))


# Values, wherever they are


class _UnreadError(Exception):
    """Why values could not be read, as the end of a sentence."""


class _Values:
    """The values of a checkpoint's tensors, in a file or in memory. Use it with `with`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._files = Files(checkpoint.identities)
        self._stored = StoredTensors(checkpoint, self._files)

    def __enter__(self) -> _Values:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def apart(self, loaded: Filled, winner: Filled) -> bool:
        """Whether what two keys are loaded from is not the same memory, as far as it is known."""
        if self._checkpoint.live is None or not (_is_stored(loaded) and _is_stored(winner)):
            return memory(_tensor_of(loaded)) != memory(_tensor_of(winner))
        left, right = (self._checkpoint.live[item.sources[0][1]] for item in (loaded, winner))
        return left is not right and _address(left) != _address(right)

    def pieces(self, loaded: Filled) -> Iterator[torch.Tensor]:
        """The elements in row-major order, as flat tensors of `CHUNK` and at the end fewer."""
        if not _is_stored(loaded):
            raise _UnreadError(_MADE)
        if self._checkpoint.live is not None:
            value: object = self._checkpoint.live[loaded.sources[0][1]]
            if not isinstance(value, torch.Tensor) or not is_plain(value) or value.is_meta:
                raise _UnreadError(_UNUSUAL)
            return flat(value.detach(), counting.CHUNK)
        info = _tensor_of(loaded)
        if info.is_meta:
            raise _UnreadError(_NO_VALUES)
        if info.storage is None or info.layout != "strided":
            raise _UnreadError(_MADE if info.layout == "strided" else _SPREAD)
        return self._stored.pieces(info, _dtype(info.dtype), counting.CHUNK)


def _is_stored(loaded: Filled) -> bool:
    """Whether what is loaded is one tensor of the checkpoint's, as it is there."""
    return len(loaded.sources) == 1 and not loaded.steps


def _tensor_of(loaded: Filled) -> TensorInfo:
    assert loaded.entry is not None
    return loaded.entry


def _address(value: object) -> object:
    if not isinstance(value, torch.Tensor) or not is_plain(value) or value.is_meta:
        return id(value)
    return value.device, value.data_ptr(), value.shape, value.stride(), value.dtype


def _dtype(name: str) -> torch.dtype:
    if name not in _NUMBERS:
        raise _UnreadError(_ENCODED.format(dtype=name))
    dtype = torch_dtype(name)
    if dtype is None:
        raise _UnreadError(_ABSENT.format(version=torch.__version__, dtype=name))
    return dtype
