"""A place to what lies there, whole and inert: the format is told by content, and nothing is chosen yet."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.formats import signatures
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.table import reader_of
from ckptdiff.places import Place
from ckptdiff.suffixes import INDEX


def open_checkpoint(place: Place, key: str | None = None) -> Opened:
    """The checkpoint at a place. Raises CheckpointError for whatever is not a sound one.

    Of several files in one only that which `key` leads to is opened, where a key is given.
    """
    if place.is_folder():
        from ckptdiff.formats import directories

        return directories.read(place, key)
    if place.ends_with(INDEX):
        from ckptdiff.formats import sharded

        return sharded.read(place)
    return open_file(place, key)


def open_file(place: Place, key: str | None = None) -> Opened:
    """The same of one file."""
    source = place.open()
    try:
        head = source.read(0, min(source.size, signatures.HEAD))
        read = reader_of(head)
        if read is None:
            from ckptdiff.formats import refused

            raise refused.unknown(source, head)
        opened = read(source, key)
        same = source.identity
        if not source.local:
            opened = replace(opened, remote=getattr(source, "file", None))
        return opened if same is None else replace(opened, identities={source.name: same})
    finally:
        source.close()
