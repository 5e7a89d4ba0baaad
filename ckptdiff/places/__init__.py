"""Where checkpoints lie: a path, a folder or a URL, each a Place that is listed and opened alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from ckptdiff.places.local import FileSource, LocalPlace, ensure_same, identity_of
from ckptdiff.places.source import ByteSource, Identity, Place, RemoteFile, changed, is_url, shown, truncated

__all__ = [
    "ByteSource",
    "FileSource",
    "Identity",
    "LocalPlace",
    "Place",
    "RemoteFile",
    "changed",
    "ensure_same",
    "for_each",
    "identity_of",
    "is_url",
    "open_again",
    "open_source",
    "open_values",
    "place_of",
    "shown",
    "truncated",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ckptdiff.places.remote_values import RemoteValues

_R = TypeVar("_R")


def place_of(path: str) -> Place:
    """The place that a path or a URL leads to. Nothing is asked of it yet."""
    if not is_url(path):
        return LocalPlace(path)
    from ckptdiff.places import remote

    return LocalPlace(remote.local_path(path)) if path.startswith("file://") else remote.RemotePlace(path)


def open_source(path: str) -> ByteSource:
    """The source for a path or URL; the caller closes it."""
    return place_of(path).open()


def open_again(path: str, identity: Identity | None) -> ByteSource:
    """The source for a file that was read before. Raises CheckpointError where it is no longer the same."""
    source = open_source(path)
    if identity is not None and source.identity != identity:
        source.close()
        raise changed(path)
    return source


def open_values(file: RemoteFile) -> RemoteValues:
    """The values of a remote file whose headers were read. Raises CheckpointError where it is no longer the same."""
    from ckptdiff.places import remote_values

    return remote_values.RemoteValues(file)


def for_each(function: Callable[[Place], _R], places: Iterable[Place]) -> list[_R]:
    """`function` of each place, in order: a few at a time where they are remote. The first error ends it."""
    places = list(places)
    if all(place.local for place in places):
        return list(map(function, places))
    from ckptdiff.places.remote import in_parallel

    return in_parallel(function, places)
