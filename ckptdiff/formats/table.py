"""The formats, a row each: how one is told, who reads it, and what can be done with it.

A format is one module and one row. Whoever wants to know what can be done with a checkpoint asks for it, not for the
format's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ckptdiff.formats.signatures import is_pickle, is_safetensors, is_zip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ckptdiff.formats.opened import Opened
    from ckptdiff.places import ByteSource

Read = Callable[["ByteSource", "str | None"], "Opened"]
"""Reads a file; of several files in one, where a key is given, only the one that it leads to."""
Content = Literal["object", "tensors", "shards", "rank parts", "tensor-parallel", "members", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class Format:
    """One format. `name` is what reports call it; of a checkpoint made of others it comes before the others' name."""

    name: str
    recognise: Callable[[bytes], bool] | None = None
    """By the first bytes. None where something else tells: what is in the file, or in the folder."""
    read: Read | None = None
    content: Content = "object"
    """What an `Opened` of it holds: the object that was saved, tensors by key, or other files."""
    values: Literal["in the file", "in pieces", "none"] = "in the file"
    """Where a tensor's values are."""
    by_torch_load: bool = False
    """Whether torch.load itself builds all that is in it: then what lies around the state dict must be sound as well,
    and can be written again."""
    mapped: bool = False
    """Whether torch.load takes `mmap=True`."""
    refused: tuple[str, str] | None = None
    """Why torch cannot load it, though its keys can be read: the end of a sentence, and a hint."""
    predicted: bool = False
    """Whether it says what would be saved, not what was: its warnings are then doubts about the answer."""


def _zip(source: ByteSource, key: str | None) -> Opened:
    from ckptdiff.formats import torch_zip

    try:
        return torch_zip.read(source)
    except torch_zip.NotTorchError as error:
        from ckptdiff.formats import torch_export, zip_members

        if torch_export.is_export(error.archive):
            return torch_export.read(source, error.archive, key)
        several = zip_members.read(source, error.archive, key)
        if several is None:
            raise
        return several


def _safetensors(source: ByteSource, _: str | None) -> Opened:
    from ckptdiff.formats import safetensors

    return safetensors.read(source)


def _legacy(source: ByteSource, _: str | None) -> Opened:
    from ckptdiff.formats import torch_legacy

    return torch_legacy.read(source)


FORMATS: tuple[Format, ...] = (
    Format("torch-zip", is_zip, _zip, by_torch_load=True, mapped=True),
    # Before pickles, whose two first bytes can be those of a length.
    Format("safetensors", is_safetensors, _safetensors, "tensors"),
    Format("torch-legacy", is_pickle, _legacy, by_torch_load=True),
    # In files that one of the rows above reads.
    Format("torchscript"),
    Format("torch-export"),
    Format(
        "pickle",
        refused=(
            # torch.load takes no pickle that torch.save did not write (`Invalid magic number`), so nor do we.
            "was written by pickle.dump, and torch.load cannot read it",
            "Load it with pickle.load, if you trust it, and save it with torch.save.",
        ),
    ),
    Format("zip of", content="members"),
    # Made of several files.
    Format("sharded", content="shards"),
    Format("torch-distributed", values="in pieces"),
    Format("torch-distributed safetensors", content="rank parts"),
    Format("tensor-parallel", content="tensor-parallel"),
    # No files of tensors at all.
    Format("snapshot", content="none", values="none", predicted=True),
    Format("state dict in memory", content="none"),
)
_BY_NAME = {row.name: row for row in FORMATS}
_UNKNOWN = Format("", content="none")


def format_named(name: str) -> Format:
    """The row of `torch-zip`, `sharded safetensors` or whatever else a Checkpoint's format says."""
    row = _BY_NAME.get(name)
    if row is not None:
        return row
    made_of = (row for row in FORMATS if row.content in ("shards", "members") and name.startswith(f"{row.name} "))
    return next(made_of, _UNKNOWN)


def reader_of(head: bytes) -> Read | None:
    """What reads a file that begins with these bytes."""
    return next((row.read for row in FORMATS if row.recognise is not None and row.recognise(head)), None)
