"""What a written file will hold, and why: the plain value that `--dry-run` prints and the writers execute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ckptdiff.checkpoint.checkpoint import Checkpoint, FromFile
from ckptdiff.tensors import DTYPES, Entry, TensorInfo
from ckptdiff.writing.steps import Shape, Step

if TYPE_CHECKING:
    from ckptdiff.model.tree import ModuleTree
    from ckptdiff.renaming.applied import Renames

Format = Literal["safetensors", "torch"]


@dataclass(frozen=True, slots=True)
class Keep:
    """One tensor of the output.

    `sources` are the checkpoint's keys it is made of: mostly one, several for a concatenation, none where the model's
    own initial value fills it. `steps` are done to it in order; `how` says in words what an adaptation did.
    """

    key: str
    sources: tuple[str, ...]
    dtype: str
    shape: Shape
    steps: tuple[Step, ...] = ()
    how: str = ""

    @property
    def filled(self) -> bool:
        """Whether its values are the model's own initial ones."""
        return not self.sources

    @property
    def nbytes(self) -> int:
        return TensorInfo(self.dtype, self.shape).nbytes


@dataclass(frozen=True, slots=True)
class Carry:
    """An entry that is no tensor and goes along as it is: plain data in a .pth."""

    key: str
    source: str


@dataclass(frozen=True, slots=True)
class Drop:
    """A key of the checkpoint that is not written, and why: `why` completes "dropped because …".

    `detail` is what is this key's own, where many are dropped for one reason.
    """

    key: str
    why: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FilterPlan:
    """The keys of the output in order, and the keys of the checkpoint that are not in it.

    `metadata` is the output's `_metadata`, its module prefixes renamed with the keys; None for safetensors.
    `tree` is the model the output must load into, None for a rewrite without one. `dtype` is the floating-point dtype
    asked for, "" for each tensor's own. `uncertain` are the walk's sentences on what could not be known.
    """

    checkpoint: Checkpoint
    format: Format
    kept: tuple[Keep | Carry, ...]
    dropped: tuple[Drop, ...] = ()
    metadata: Mapping[str, Mapping[str, object]] | None = None
    tree: ModuleTree | None = None
    dtype: str = ""
    fill_missing: bool = False
    uncertain: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    renames: Renames | None = None
    """What the keys were renamed by, where rules were."""

    @property
    def tensors(self) -> tuple[Keep, ...]:
        return tuple([item for item in self.kept if isinstance(item, Keep)])

    @property
    def objects(self) -> tuple[Carry, ...]:
        return tuple([item for item in self.kept if isinstance(item, Carry)])

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """(from, to) of every tensor or entry that changes its name and is made of one."""
        pairs = ((item.sources[0] if len(item.sources) == 1 else "", item.key) for item in self.tensors)
        objects = ((item.source, item.key) for item in self.objects)
        return tuple((old, new) for old, new in (*pairs, *objects) if old and old != new)

    @property
    def filled(self) -> tuple[str, ...]:
        """Keys that get the model's own initial values."""
        return tuple(item.key for item in self.tensors if item.filled)

    @property
    def adapted(self) -> tuple[tuple[str, str], ...]:
        """(key, what was done) of every tensor whose shape is adapted."""
        return tuple((item.key, item.how) for item in self.tensors if item.how)

    @property
    def converted(self) -> tuple[tuple[str, str, str], ...]:
        """(key, dtype in the checkpoint, dtype written) of every tensor whose dtype changes."""
        entries = self.checkpoint.tensors
        rows = ((item.key, entries[item.sources[0]].dtype, item.dtype) for item in self.tensors if item.sources)
        return tuple(row for row in rows if row[1] != row[2])

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, each counted once, tied or not."""
        return sum(item.nbytes for item in self.tensors)

    def result(self) -> Checkpoint:
        """What reading the output will give, known beforehand, so that the walk can go over it.

        Tensors that are written as they are keep their storage in the input.
        """
        given, values = self.checkpoint.entries, self.checkpoint.live
        entries: dict[str, Entry] = {}
        sources: dict[str, str] = {}
        for item in self.kept:
            if isinstance(item, Carry):
                entries[item.key], sources[item.key] = given[item.source], item.source
                continue
            source = given[item.sources[0]] if len(item.sources) == 1 else None
            if isinstance(source, TensorInfo) and not item.steps and source.dtype == item.dtype:
                entries[item.key], sources[item.key] = source, item.sources[0]
            else:
                entries[item.key] = TensorInfo(item.dtype, item.shape)
        live: dict[object, object] | None = None
        if values is not None and len(sources) == len(entries):
            live = {key: values[source] for key, source in sources.items()}
        return replace(self.checkpoint, entries=entries, metadata=self.metadata, live=live, origins=self._origins())

    def _origins(self) -> dict[str, FromFile]:
        """What of the input's file each key of the output is, where it is not the key of that name."""
        origins: dict[str, FromFile] = {}
        for item in self.kept:
            names, steps = (
                ((item.source,), ()) if isinstance(item, Carry) else (item.sources, tuple(map(str, item.steps)))
            )
            if names != (item.key,) or steps or self.checkpoint.origins:
                parts = [self.checkpoint.origin(name) for name in names]
                sources = tuple(source for part in parts for source in part.sources)
                origins[item.key] = FromFile(sources, (*(step for part in parts for step in part.steps), *steps))
        return origins


def written_dtype(dtype: str, wanted: str) -> str:
    """The dtype a tensor of `dtype` is written in when `wanted` is asked for: as `Module.to`, floating point only.

    Formats that hold no number of their own are left alone: two values packed into a byte, and bare exponents, which
    scale other tensors.
    """
    floating = DTYPES[dtype].kind == "float" and dtype not in ("float4_e2m1fn_x2", "float8_e8m0fnu")
    return wanted if wanted and floating else dtype
