"""Everything that a checkpoint holds, before anything is chosen from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.table import Format, format_named
from ckptdiff.places import Identity, RemoteFile
from ckptdiff.tensors import Entry, SavedOn, TensorInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ckptdiff.formats.pickles.entries import Locate
    from ckptdiff.formats.pickles.stand_ins import Global


MAX_KEYS = 400_000
"""Of a state dict. The largest that are known, of hundreds of experts packed into integers, have half as many."""


def check_count(name: str, keys: int) -> None:
    """Raises CheckpointError where there are more keys than any state dict has: each costs more than its bytes do."""
    if keys > MAX_KEYS:
        raise CheckpointError(
            f"{name} has {keys:,} keys, more than any state dict ({MAX_KEYS:,} are read)",
            "Do not trust this file: it may be hostile.",
        )


@dataclass(frozen=True, slots=True, eq=False)  # a value too large to compare
class Opened:
    """The whole inert content of a file, a folder or several files that belong together.

    `content` is what the format's `content` says: the object that was saved, of inert values
    (`formats/pickles/stand_ins.py`), optimizer and epoch and whatever else included; the tensors by key; or what an
    index says of the `parts`. A part is None where it was not looked at, an error where it cannot be read.

    An Opened stays in its process: to another it is handed as None, which then reads the file again.
    """

    name: str
    """What messages and reports call it."""
    format: str
    content: Any = None
    nbytes: int = 0
    locate: Locate | None = None
    """Finds the bytes of a storage that the content names."""
    globals: Mapping[tuple[str, str], Global] = field(default_factory=dict)
    """What the pickles name, in order."""
    weights_only: str = ""
    """Why `torch.load(weights_only=True)` refuses it for another reason than a global, in torch's own words."""
    leftover: bool = False
    """Whether its pickle leaves more behind than the one value."""
    byteorder: str = "little"
    saved_on: tuple[SavedOn, ...] = ()
    """The devices that it was saved on, other than the CPU, in the order in which torch restores them: of all that is
    in the file, each once."""
    file_metadata: Mapping[str, str] = field(default_factory=dict)
    """safetensors' `__metadata__`."""
    warnings: tuple[str, ...] = ()
    """What a user should know of the file: one sentence each."""
    identities: Mapping[str, Identity] = field(default_factory=dict)
    """Local file → which one it was before anything of it was read."""
    remote: RemoteFile | None = None
    """Of a file behind a URL, which one it was."""
    parts: Mapping[str, Opened | CheckpointError | None] = field(default_factory=dict)
    """The files it is made of, or that lie in it, by their names in it."""
    start: int = 0
    """Of a file that lies in another: where in that its bytes begin."""

    @property
    def kind(self) -> Format:
        """The row of its format."""
        return format_named(self.format)

    def entry(self, key: object, value: object) -> Entry:
        """The plain value of one that the content holds, checked. Raises CheckpointError for a damaged tensor."""
        if isinstance(value, TensorInfo):
            return value
        from ckptdiff.formats.pickles.entries import entry

        assert self.locate is not None
        return entry(self.name, key, value, self.locate)

    def remotes(self) -> dict[str, RemoteFile]:
        """Each file behind a URL of those that it is made of, by the name that messages have for it."""
        remotes = {} if self.remote is None else {self.name: self.remote}
        for part in self.opened_parts().values():
            remotes |= part.remotes()
        return remotes

    def opened_parts(self) -> dict[str, Opened]:
        """The parts that could be read."""
        return {name: part for name, part in self.parts.items() if isinstance(part, Opened)}

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return nothing, ()


def nothing() -> None:
    """What another process gets of an Opened."""
