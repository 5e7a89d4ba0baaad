"""The files of a tensor-parallel set as one Checkpoint of whole tensors, where it is certain how they were cut.

Every rank holds the same keys. What all of them hold alike is whole (norms, a router); a matrix is cut along one
dimension, and the other is the width of the network, which the whole vectors have. No name is asked, but for packed
matrices: of `[gate; up]` each rank has a part of both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cache

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.entries import shown
from ckptdiff.places import ByteSource, open_again
from ckptdiff.tensors import DTYPES, Part, TensorInfo

_BLOCK = 1 << 20
_PACKED = re.compile(r"(^|[._])(qkv|kv|gate_up|w13|wqkv|in_proj|c_attn)([._]|_proj[._]|$)", re.IGNORECASE)
_MEGATRON_QKV = re.compile(r"\.(query_key_value|linear_qkv)\.")
"""Each rank's heads have their queries, keys and values side by side, so that ranks follow one another."""
_MEGATRON_UP = re.compile(r"\.(dense_h_to_4h|linear_fc1)\.")
_MEGATRON_DOWN = {"dense_h_to_4h": "dense_4h_to_h", "linear_fc1": "linear_fc2"}
_SIDE_BY_SIDE = 2.0
"""The `checkpoint_version` since which Megatron-LM lays a head's queries, keys and values so
(megatron/legacy/model/transformer.py and its `fix_query_key_value_ordering`)."""


def merged(opened: Opened, choose: Callable[[Opened], Checkpoint]) -> Checkpoint:
    """The whole tensors of all ranks; `choose` gives the Checkpoint of one.

    Raises CheckpointError where the ranks do not belong together, or nothing says along which dimension one is cut.
    """
    ranks = [choose(part) for part in opened.opened_parts().values()]
    first = ranks[0]
    for rank in ranks[1:]:
        if rank.tensors.keys() != first.tensors.keys():
            key = next(iter(rank.tensors.keys() ^ first.tensors.keys()))
            raise CheckpointError(
                f"{opened.name}: {shown(key)} is not in all files, so they are no tensor-parallel set", "Give one file."
            )
    merger = _Merger(opened, ranks)
    entries = {key: merger.whole(key) for key in first.tensors}
    return Checkpoint(
        opened.name,
        opened.format,
        entries,
        nbytes=opened.nbytes,
        warnings=(f"{opened.name} holds {len(ranks)} shards of a tensor-parallel set, to be merged: {merger.said()}",),
        unsafe_globals=tuple(dict.fromkeys(name for rank in ranks for name in rank.unsafe_globals)),
        plain_globals=tuple(dict.fromkeys(name for rank in ranks for name in rank.plain_globals)),
        byteorder=first.byteorder,
        identities=opened.identities,
        opened=opened,
    )


class _Merger:
    def __init__(self, opened: Opened, ranks: Sequence[Checkpoint]) -> None:
        self.name, self.ranks = opened.name, ranks
        self.keys: Mapping[str, TensorInfo] = ranks[0].tensors
        with ExitStack() as files:

            @cache
            def source(file: str) -> ByteSource:
                return files.enter_context(closing(open_again(file, opened.identities.get(file))))

            self.alike = {key for key in self.keys if self._alike(key, source)}
        self.width = self._width()
        """The size of what goes from layer to layer."""
        self.along: Counter[int] = Counter()

    def _width(self) -> int:
        """The size of a norm's vectors that most of the matrices that were cut have, too."""
        # A bias of zeros is alike in all ranks, cut or not.
        vectors = [self.keys[key].shape for key in self.alike if not self._matrix_of(key)]
        sizes = Counter(shape[0] for shape in vectors if len(shape) == 1)
        cut = [set(info.shape) for key, info in self.keys.items() if key not in self.alike and len(info.shape) > 1]
        return max(sizes, key=lambda size: (sum(size in shape for shape in cut), sizes[size]), default=0)

    def said(self) -> str:
        """How the tensors are put together."""
        parts = [f"{count} tensors along dimension {dim}" for dim, count in sorted(self.along.items())]
        return ", ".join([*parts, f"{len(self.keys) - self.along.total()} alike in all"])

    def whole(self, key: str) -> TensorInfo:
        parts = [rank.tensors[key] for rank in self.ranks]
        first = parts[0]
        weight = self._matrix_of(key)
        if weight:  # a bias is cut as the rows of its matrix are
            cut = weight not in self.alike and self._dimension(weight) == 0
            if not cut and key not in self.alike:
                raise self._unknown(key, "its ranks hold different values of what each has whole")
            dim = 0 if cut else None
        else:
            dim = None if key in self.alike else self._dimension(key)
        if dim is None:
            return first
        self._check_order(key)
        self.along[dim] += 1
        if self._gated(key):
            return _halves(first, parts)
        pieces, at = [], 0
        for part in parts:
            pieces.append(Part((0,) * dim + (at,) + (0,) * (len(first.shape) - dim - 1), part))
            at += part.shape[dim]
        return TensorInfo(first.dtype, (*first.shape[:dim], at, *first.shape[dim + 1 :]), pieces=tuple(pieces))

    def _matrix_of(self, key: str) -> str:
        """The key of the matrix that a bias belongs to; "" for all else."""
        weight = f"{key.removesuffix('bias')}weight" if key.endswith("bias") else ""
        return weight if weight in self.keys and len(self.keys[weight].shape) > 1 else ""

    def _dimension(self, key: str) -> int:
        """Along which a tensor that differs between the ranks is cut."""
        parts = [rank.tensors[key] for rank in self.ranks]
        shapes = {part.shape for part in parts}
        if len({part.dtype for part in parts}) > 1 or len(shapes) > 1:
            raise self._unknown(key, "its parts differ in size or dtype")
        (shape,) = shapes
        if len(shape) == 1:
            return 0
        if len(shape) == 2:
            whole = [dim for dim in (0, 1) if shape[dim] == self.width]
            if len(whole) == 1:
                return 1 - whole[0]
            narrowed = [dim for dim in (0, 1) if shape[dim] * len(self.ranks) == self.width]
            if not whole and len(narrowed) == 1:
                return narrowed[0]
        raise self._unknown(key, f"of {list(shape)}, nothing says along which dimension it is cut")

    def _check_order(self, key: str) -> None:
        """Packed matrices whose parts no merger can tell apart are refused."""
        if _MEGATRON_QKV.search(key):
            version = self.ranks[0].container.get("checkpoint_version", "")
            number = re.search(r"\d+(\.\d+)?", version)
            if number is None or float(number.group()) < _SIDE_BY_SIDE:
                raise self._unknown(key, "its queries, keys and values lie in the order of an older Megatron-LM")
        elif _PACKED.search(key):
            raise self._unknown(key, "each rank has a part of every matrix that is packed in it")

    def _gated(self, key: str) -> bool:
        """Whether each rank holds its part of a gate above that of what is gated: twice the rows that come back."""
        found = _MEGATRON_UP.search(key)
        if found is None:
            return False
        back = f"{key[: found.start(1)]}{_MEGATRON_DOWN[found.group(1)]}.weight"
        return back in self.keys and self.keys[key].shape[0] == 2 * self.keys[back].shape[-1]

    def _alike(self, key: str, source: Callable[[str], ByteSource]) -> bool:
        """Whether all ranks hold the same values, read as far as they do; `source` opens a file, once."""
        first = self.keys[key]
        parts = [rank.tensors[key] for rank in self.ranks]
        if any((part.dtype, part.shape, part.strides) != (first.dtype, first.shape, first.strides) for part in parts):
            return False
        if not first.numel:
            return True
        places = []
        for part in parts:
            storage = part.storage
            if storage is None or storage.start is None or part.stride is not None:
                raise self._unknown(key, "its values are not stored plainly")
            width = DTYPES[part.dtype].bits // 8
            places.append((source(storage.file), storage.start + part.offset * width))
        return all(
            len({file.read(begin + at, min(size, first.nbytes - at)) for file, begin in places}) == 1
            for at, size in _blocks(first.nbytes)
        )

    def _unknown(self, key: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.name} is a tensor-parallel set, and cannot be merged at {shown(key)}: {why}",
            "Merge it with the code that saved it.",
        )


def _blocks(nbytes: int) -> list[tuple[int, int]]:
    """A few bytes first, which tell most parts apart, then all."""
    starts = [0, *range(4096, nbytes, _BLOCK)]
    return [(start, 4096 if not start else _BLOCK) for start in starts]


def _halves(first: TensorInfo, parts: Sequence[TensorInfo]) -> TensorInfo:
    """All ranks' gates, then all that they gate."""
    rest = first.shape[1:]
    rows = first.shape[0] // 2
    row = first.numel // first.shape[0]
    pieces = [
        Part(
            (half * rows * len(parts) + rank * rows, *(0 for _ in rest)),
            part._replace(shape=(rows, *rest), offset=part.offset + half * rows * row),
        )
        for half in (0, 1)
        for rank, part in enumerate(parts)
    ]
    return TensorInfo(first.dtype, (first.shape[0] * len(parts), *rest), pieces=tuple(pieces))
