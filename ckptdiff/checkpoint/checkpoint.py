"""The file side of a comparison, as one plain value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptdiff.formats.opened import Opened
from ckptdiff.formats.table import Format, format_named
from ckptdiff.places import Identity, RemoteFile
from ckptdiff.shown import Shown, rendered
from ckptdiff.tensors import Entry, SavedOn, TensorInfo


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another state dict in the same container: the `--key` that would select it, and how many tensors it holds."""

    key: str
    tensors: int


Source = tuple[str, str]
"""A file and the key in it; the file is "" for a state dict in memory."""


class FromFile(NamedTuple):
    """What a key that was renamed or computed is made of, and what is done to that, in words, the first one first."""

    sources: tuple[Source, ...]
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SeenInMemory:
    """Of the values of a state dict in memory, what its entries do not tell. It holds for `of` alone."""

    of: Mapping[object, object]
    without_values: frozenset[object]
    """The keys of tensors on the meta device."""
    unusual: frozenset[object]
    """The keys of values of which torch has to be asked how it loads them: subclasses, sparse tensors, …"""


@dataclass(frozen=True, slots=True, repr=False)
class Checkpoint(Shown):
    """What a checkpoint says of itself, read from its headers alone.

    `entries` maps each key of the chosen state dict, in its own order, to a tensor or an inert object.
    `metadata` is the state dict's `_metadata` (module prefix without the trailing dot → e.g. `{"version": 2}`),
    None where the state dict has none, as in every safetensors file.
    `state_dict_key` is the dotted path of the chosen state dict inside its container, "" for the file's top level.
    """

    path: str
    format: str
    entries: Mapping[str, Entry]
    metadata: Mapping[str, Mapping[str, object]] | None = None
    state_dict_key: str = ""
    alternatives: tuple[Alternative, ...] = ()
    container: Mapping[str, str] = field(default_factory=dict)
    """The container's other entries: key → short description (`int 12`, `dict of 3`)."""
    file_metadata: Mapping[str, str] = field(default_factory=dict)
    """safetensors' `__metadata__`."""
    nbytes: int = 0
    """Size of the file or files, in bytes."""
    unsafe_globals: tuple[str, ...] = ()
    """Globals a pickle names that plain checkpoints do not need, each once, in order of appearance."""
    plain_globals: tuple[str, ...] = ()
    """Those that only make inert data (of numpy, say), which `torch.load`, with its default, refuses all the same."""
    weights_only: str = ""
    """Why `torch.load(weights_only=True)`, its default, refuses the file for another reason than a global: torch's own
    words."""
    warnings: tuple[str, ...] = ()
    """What a user should know of the file itself: one sentence each."""
    non_persistent: tuple[str, ...] = ()
    """Buffers of a whole pickled module that its state dict leaves out."""
    saved_on: tuple[SavedOn, ...] = ()
    """The devices that the whole file was saved on, other than the CPU, in the order in which torch restores them."""
    byteorder: str = "little"
    """Order of the bytes of each element in the file: `little` or `big`."""
    identities: Mapping[str, Identity] = field(default_factory=dict, compare=False, repr=False)
    """Local file → which one it was when its header was read: whoever reads its bytes later holds it to that."""
    origins: Mapping[str, FromFile] = field(default_factory=dict, compare=False, repr=False)
    """Keys that were renamed or computed since the file was read → what of the file they are."""
    live: Mapping[object, object] | None = field(default=None, compare=False, repr=False)
    """The caller's own state dict when this Checkpoint describes one in memory."""

    seen: SeenInMemory | None = field(default=None, compare=False, repr=False)
    """What was seen of the values of a state dict in memory when it was described."""

    opened: Opened | None = field(default=None, compare=False, repr=False)
    """All that the file holds, the state dict and what is beside it; None where no file was read in this process."""

    @property
    def remotes(self) -> Mapping[str, RemoteFile]:
        """File behind a URL, as `Storage.file` has it → which one it was when its header was read."""
        return {} if self.opened is None else self.opened.remotes()

    @property
    def kind(self) -> Format:
        """What can be done with a checkpoint of this format."""
        return format_named(self.format)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The entries that are tensors, in order."""
        return {key: entry for key, entry in self.entries.items() if isinstance(entry, TensorInfo)}

    def without_values(self) -> frozenset[Any]:
        """The keys whose tensors are on the meta device, so that they load into none that has values."""
        if self.live is not None:
            if self.seen is not None and self.seen.of is self.live:
                return self.seen.without_values
            return frozenset([key for key, value in self.live.items() if getattr(value, "is_meta", False)])
        return frozenset(
            [key for key, entry in self.entries.items() if type(entry) is TensorInfo and entry.device == "meta"]
        )

    def origin(self, key: Any) -> FromFile:
        """What of the file a key is: for most, the key of that name."""
        known = self.origins.get(key) if self.origins else None
        if known is not None:
            return known
        entry = self.entries.get(key)
        storage = entry.storage if isinstance(entry, TensorInfo) else None
        return FromFile(((self.path if storage is None else storage.file, key),))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key → shape of its tensors, in its order."""
        return {key: entry.shape for key, entry in self.tensors.items() if isinstance(key, str)}

    def _line(self) -> str:
        tensors = self.tensors
        beside = len(self.entries) - len(tensors)
        parts = [self.path or "in memory", self.format, f"{len(tensors)} tensors"]
        parts += [f"{beside} other entries"] if beside else []
        parts.append(f"{sum(tensor.numel for tensor in tensors.values()):,} elements")
        return ", ".join(parts)

    def _rendered(self, form: str) -> str:
        return rendered("render_checkpoint", form, self)
