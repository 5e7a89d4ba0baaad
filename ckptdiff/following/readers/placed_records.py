"""Checkpoints of `torch.distributed.checkpoint`: files of many small torch files, whose places are in `.metadata`.

Its reader hands `torch.load` a view of the file for each piece that it needs. The piece is called by the key that
`.metadata` has for its place, and its values are mapped from the file like those of any other.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ckptdiff.following.readers.opened_files import mapping
from ckptdiff.torch_private import part_of_file

if TYPE_CHECKING:
    from ckptdiff.following.readers.named_files import Files


def note_places(files: Files, path: str | os.PathLike[str], metadata: object) -> None:
    """Note what `.metadata` says of which key lies where in which file."""
    places = getattr(metadata, "storage_data", None) if type(metadata).__name__ == "Metadata" else None
    if not isinstance(places, dict):
        return
    folder = Path(os.path.realpath(os.fspath(path))).parent
    for index, place in places.items():
        key = getattr(index, "fqn", None)
        file, offset = getattr(place, "relative_path", None), getattr(place, "offset", None)
        if isinstance(key, str) and isinstance(file, str) and isinstance(offset, int):
            files.places[str(folder / file), offset] = key


def place_of(files: Files, file: object) -> tuple[str, str] | None:
    """The file of which something is a part, and the key that it has there; None for what is no such part."""
    part = part_of_file(file)
    if part is None:
        return None
    path, offset, _ = part
    return path, files.places.get((os.path.realpath(path), offset), "")


class MappedRecords:
    """torch's own reader of a torch file that is a part of another, giving storages that are mapped from there."""

    def __init__(self, reader: Any, path: str, start: int) -> None:
        self._reader = reader
        self._path = path
        self._start = start

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)

    def get_storage_from_record(self, name: str, count: int, dtype: torch.dtype) -> object:
        """The record as bytes of the mapped file; as a tensor, like torch's own."""
        if not count:
            return self._reader.get_storage_from_record(name, count, dtype)
        start = self._start + self._reader.get_record_offset(name)
        with open(self._path, "rb") as file:  # noqa: PTH123 - a path of any kind
            # The pages before the record are a part of the mapping, since it has to begin with a page.
            mapping(file.fileno())
            begin = start - start % mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(file.fileno(), start - begin + count, access=mmap.ACCESS_COPY, offset=begin)
        return torch.frombuffer(mapped, dtype=torch.uint8, count=count, offset=start - begin)
