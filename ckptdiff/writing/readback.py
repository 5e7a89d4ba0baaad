"""What was written, read again and held against what was to be written, before anything is renamed."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from ckptdiff.checkpoint import read
from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.errors import CheckpointError, OutputError
from ckptdiff.writing.byte_copying import BUFFER, Buffer
from ckptdiff.writing.layout import INDEX, Block, Layout

Starts = Mapping[str, int]
"""Key → the byte of its file where the storage it lies in begins."""


def verify(layout: Layout, out: Path, path: Path, starts: Mapping[str, Starts], key: str | None) -> Checkpoint:
    """Read every file of what is to become `out` and compare keys, shapes, dtypes and offsets with the layout.

    `starts` is by file name; `key` says where in its file the state dict is. Returns the output as a Checkpoint. Raises
    OutputError where they differ.
    """
    result: Checkpoint | None = None
    for file in layout.files:
        place = path / file.name if file.name else path
        result = _read(out, place, key)
        if result.format == "safetensors":
            _ask_the_library(out, place)
        tensors = result.tensors
        expected = {member.keep.key: (block, member) for block in file.blocks for member in block.members}
        keys = {*expected, *(item.key for item in layout.plan.objects)}
        if result.entries.keys() != keys:
            raise _differs(out, f"the keys {sorted(result.entries.keys() ^ keys)[:3]}")
        if result.metadata != layout.plan.metadata:
            raise _differs(out, "_metadata")
        for name, (block, member) in expected.items():
            info = tensors[name]
            if (info.dtype, info.shape) != (member.keep.dtype, member.keep.shape):
                raise _differs(out, f"dtype or shape of {name!r}")
            if not info.numel:
                continue
            start = starts[file.name][name]
            if info.storage is None or (info.storage.start, info.storage.nbytes) != (start, block.nbytes):
                raise _differs(out, f"the bytes of {name!r}")
            if (info.offset, info.stride) != (member.offset, member.stride):
                raise _differs(out, f"the place of {name!r}")
    if layout.directory and len(layout.files) > 1:
        listed = json.loads((path / INDEX).read_bytes())["weight_map"]
        places = {
            member.keep.key: file.name for file in layout.files for block in file.blocks for member in block.members
        }
        if listed != places:
            raise _differs(out, "the index")
        result = _read(out, path / INDEX, None)
    assert result is not None
    return result


def _ask_the_library(out: Path, place: Path) -> None:
    from ckptdiff.writing.second_witness import refusal

    why = refusal(place)
    if why:
        raise OutputError(
            f"{out} was not written, since the safetensors library does not take it: {why}",
            "Update safetensors, or write a .pth.",
        )


def _read(out: Path, path: Path, key: str | None) -> Checkpoint:
    try:
        return read(path, key=key)
    except CheckpointError as error:
        raise _differs(out, error.message) from None


def verify_bytes(
    layout: Layout,
    out: Path,
    path: Path,
    starts: Mapping[str, Starts],
    files: Files,
    crcs: Mapping[str, int],
    told: Callable[[int], None],
) -> None:
    """Compare every byte of the output's tensors, off the disk, with the input's; what was computed, by its checksum.

    Raises OutputError where they differ.
    """
    for file in layout.files:
        place = path / file.name if file.name else path
        with Files() as written:
            descriptor = written.local(str(place)).fileno()
            if hasattr(os, "posix_fadvise"):
                # Forget what was just written, so that it is the disk that is asked.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for block in file.blocks:
                key = block.members[0].keep.key
                if not _same(block, str(place), starts[file.name][key], written, files, crcs.get(key), told):
                    raise _differs(out, f"the bytes of {key!r}")


def _same(
    block: Block,
    path: str,
    start: int,
    written: Files,
    files: Files,
    crc: int | None,
    told: Callable[[int], None],
) -> bool:
    ours, theirs = Buffer(), Buffer()
    if block.ranges is None:
        checksum = 0
        for place in range(0, block.nbytes, BUFFER):
            piece = ours.for_bytes(min(BUFFER, block.nbytes - place), start + place)
            written.read(path, start + place, piece)
            checksum = zlib.crc32(piece, checksum)
            told(len(piece))
        return checksum == crc
    for span in block.ranges:
        for place in range(0, span.nbytes, BUFFER):
            count = min(BUFFER, span.nbytes - place)
            here = ours.for_bytes(count, start + place)
            there = theirs.for_bytes(count, span.start + place)
            written.read(path, start + place, here)
            files.read(span.file, span.start + place, there)
            # As bytes, which are compared at once; views are compared element by element.
            if here.tobytes() != there.tobytes():
                return False
            told(count)
        start += span.nbytes
    return True


def _differs(out: Path, what: str) -> OutputError:
    return OutputError(
        f"{out} read back is not what was written: {what}",
        "The disk or file system is at fault; nothing was changed.",
    )
