"""A zip of several checkpoints, such as Stable-Baselines3 writes: each read where it lies, without unpacking.

A member is a file like any other, told by its content. `--key policy.pth` names it, and what follows its name leads on
inside it: `--key policy.pth.model`.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Callable
from dataclasses import replace

from ckptdiff.checkpoint.checkpoint import Alternative, Checkpoint
from ckptdiff.checkpoint.no_state_dict import EXISTS
from ckptdiff.checkpoint.survey import is_other
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.compressed import LEGACY_MAGIC
from ckptdiff.formats.pickles.entries import printable
from ckptdiff.formats.reach import many
from ckptdiff.formats.signatures import HEAD, is_pickle
from ckptdiff.formats.zip_archive import Record, ZipArchive, is_stored
from ckptdiff.places import ByteSource, Identity, truncated
from ckptdiff.tensors import Entry, Storage, TensorInfo

MAX_MEMBERS = 1000
MAX_READ = 20
"""Members that are read where none is named."""
MAX_LISTED = 20
PREFIX = "zip of "
"""Before the format of the member, in `Checkpoint.format`."""

ReadMember = Callable[[ByteSource, str | None], Checkpoint]


class Slice:
    """A part of another source, as one of its own. Positions count from its beginning."""

    __slots__ = ("_outer", "name", "size", "start")

    def __init__(self, outer: ByteSource, name: str, start: int, size: int) -> None:
        self._outer = outer
        self.name = name
        self.start = start
        self.size = size

    @property
    def identity(self) -> Identity | None:
        """That of the whole."""
        return self._outer.identity

    @property
    def local(self) -> bool:
        """As the whole is."""
        return self._outer.local

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes of the part."""
        if count < 0 or offset < 0 or offset + count > self.size:
            raise truncated(self.name, f"{count} bytes are expected at byte {offset} of {self.size}")
        return self._outer.read(self.start + offset, count)

    def whole(self) -> bytes | mmap.mmap:
        """All of the part, copied: what is too large to copy is too large for a pickle."""
        return self.read(0, self.size)

    def close(self) -> None:
        """Nothing: the whole is closed by who opened it."""


def read(
    source: ByteSource, archive: ZipArchive, key: str | None, readers: Callable[[bytes], ReadMember | None]
) -> Checkpoint | None:
    """The checkpoint of the member that `key` names, or of the only one that is a model's. None if none is one.

    `readers` gives what reads a file that begins with some bytes. Raises CheckpointError, listing the members, where
    none is named and several could be meant.
    """
    if isinstance(source, Slice):
        return None  # a zip in a zip in a zip has no end
    members: dict[str, ReadMember] = {}
    for record in archive.records.values():
        head = _head(archive, record) if record.size and len(members) < MAX_MEMBERS else b""
        reader = readers(head)
        # A bare pickle is a part of something; whole files have a format.
        if reader is not None and (not is_pickle(head) or LEGACY_MAGIC in head[:64]):
            members[record.name] = reader
    if not members:
        return None
    if key:
        name, inner = _named(source, archive, key, list(members))
        try:
            checkpoint = members[name](member(source, archive, name), inner)
        except CheckpointError as error:
            if error.hint.startswith(EXISTS):
                raise CheckpointError(
                    error.message, f"{error.hint[:-1]}, each after {name[:200]!r} and a dot."
                ) from None
            raise
        return _placed(source, archive, name, checkpoint, ())
    found: dict[str, Checkpoint] = {}
    problems: dict[str, str] = {}
    for number, (name, reader) in enumerate(members.items()):
        if number == MAX_READ:
            problems.update(dict.fromkeys(list(members)[number:], "not looked at"))
            break
        try:
            found[name] = reader(member(source, archive, name), None)
        except CheckpointError as error:
            problems[name] = error.message.removeprefix(f"{_called(source, name)} ")
    held = {name: checkpoint for name, checkpoint in found.items() if checkpoint.tensors}
    likely = [name for name in held if not any(is_other(part) for part in name.replace("/", ".").split("."))]
    if not found and len(members) == 1:
        ((name, only),) = members.items()
        only(member(source, archive, name), None)  # says why it cannot be read
    if len(likely) != 1:
        raise _several(source, held, problems)
    (name,) = likely
    others = tuple(Alternative(other, len(held[other].tensors)) for other in held if other != name)
    beside = {other: problems[other] for other in members if other in problems}
    return _placed(source, archive, name, found[name], others, beside)


def member(source: ByteSource, archive: ZipArchive, name: str) -> ByteSource:
    """The source of a member's own bytes. Raises CheckpointError where they are compressed."""
    record = archive.records[name]
    if not is_stored(record):
        raise CheckpointError(
            f"{_called(source, name)} is compressed in its zip archive, and its parts cannot be read by themselves",
            "Unpack it first.",
        )
    return Slice(source, _called(source, name), archive.start(record), record.size)


def split(archive: ZipArchive, key: str) -> tuple[str, str]:
    """A key as the name of a member, the longest that fits, and what follows it; "" for no member."""
    fits = [name for name in archive.records if key == name or key.startswith(f"{name}.")]
    name = max(fits, key=len, default="")
    return name, key[len(name) + 1 :]


def _named(source: ByteSource, archive: ZipArchive, key: str, members: list[str]) -> tuple[str, str | None]:
    name, inner = split(archive, key)
    if name not in members:
        listed = ", ".join(repr(member[:200]) for member in members[:MAX_LISTED])
        what = f"{source.name} has no checkpoint at the key {key[:200]!r}"
        raise CheckpointError(what, f"Checkpoints in it, for --key: {listed}.")
    return name, inner or None


def _called(source: ByteSource, name: str) -> str:
    return f"{source.name}: {printable(name)}"


def _head(archive: ZipArchive, record: Record) -> bytes:
    """The first bytes of a record's content."""
    start = archive.start(record)
    data = archive.source.read(start, min(record.compressed, HEAD))
    if is_stored(record):
        return data
    try:
        return zlib.decompressobj(-15).decompress(data, HEAD)
    except zlib.error:
        return b""


def _placed(
    source: ByteSource,
    archive: ZipArchive,
    name: str,
    checkpoint: Checkpoint,
    others: tuple[Alternative, ...],
    beside: dict[str, str] | None = None,
) -> Checkpoint:
    """A member's checkpoint as one of the whole file: where bytes lie, what `--key` would name."""
    base = archive.start(archive.records[name])
    moved: dict[int, Storage] = {}
    entries: dict[str, Entry] = {}
    for key, entry in checkpoint.entries.items():
        if isinstance(entry, TensorInfo) and entry.storage is not None:
            storage = moved.get(id(entry.storage))
            if storage is None:
                start = None if entry.storage.start is None else base + entry.storage.start
                storage = replace(entry.storage, id=f"{name}:{entry.storage.id}", file=source.name, start=start)
                moved[id(entry.storage)] = storage
            entry = replace(entry, storage=storage)
        entries[key] = entry
    inside = tuple(Alternative(f"{name}.{other.key}", other.tensors) for other in checkpoint.alternatives if other.key)
    return replace(
        checkpoint,
        path=source.name,
        format=f"{PREFIX}{checkpoint.format}",
        entries=entries,
        state_dict_key=f"{name}.{checkpoint.state_dict_key}".rstrip("."),
        alternatives=(*inside, *others),
        container={**checkpoint.container, **(beside or {})},
        nbytes=source.size,
    )


def _several(source: ByteSource, held: dict[str, Checkpoint], problems: dict[str, str]) -> CheckpointError:
    listed = [f"{name[:200]!r} ({many(len(checkpoint.tensors), 'tensor')})" for name, checkpoint in held.items()]
    listed += [f"{name[:200]!r} ({problem[:200]})" for name, problem in problems.items()]
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return CheckpointError(
        f"{source.name} is a zip archive of {many(len(listed), 'checkpoint')}",
        f"Choose one with --key: {', '.join(listed[:MAX_LISTED])}{more}.",
    )
