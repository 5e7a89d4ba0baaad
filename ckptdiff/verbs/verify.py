"""Is this checkpoint whole and sane?"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.difference.locks import Lock, is_lock, read_lock
from ckptdiff.difference.verification import Fault, Verification
from ckptdiff.difference.verifying import VerifyOptions
from ckptdiff.difference.verifying import verified as held
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.places import place_of
from ckptdiff.requests import CheckpointRequest, several
from ckptdiff.verbs.diff import chosen

if TYPE_CHECKING:
    from ckptdiff.contents.spreading import Progress

_DAMAGE = re.compile(
    r"truncated|damaged|are not there|does not exist, and|lacks a part|no file holds|changed while|another part than"
    r"|different byte orders|asks for more than|says, and"
)
"""What the messages say where a file is what it claims to be, and broken."""


def verify(
    path: str | os.PathLike[str],
    *,
    lock: str | os.PathLike[str] | None = None,
    key: str | None = None,
    values: bool = True,
    allow: str | Sequence[str] = (),
    progress: Progress | None = None,
) -> Verification:
    """Whether a checkpoint is whole and sane: `.ok`, and `.faults`, one sentence each.

    Held against each other are the file and its checksums, an index and its shards, the SHA-256 in a `.sha256` file or
    `SHA256SUMS` beside it, and the digests of a `lock`; `PATH.lock`, or `weights.lock` in a folder, is found by itself.
    Faults are NaN, infinities and weights that are zero, unless `values` is False, and packed weights without their
    scales. `allow` are globs of keys that may be so. `key` is the dotted path of the state dict inside its file.

    Raises CkptdiffError for what cannot be read: absent, forbidden, or no checkpoint at all.
    """
    locked = _lock(os.fspath(path), None if lock is None else os.fspath(lock))
    options = VerifyOptions(locked, values, chosen(several("allow", allow)), progress)
    return verified(CheckpointRequest(path, key), options)


def verified(request: CheckpointRequest, options: VerifyOptions) -> Verification:
    """`verify`, as it was asked."""
    path = os.fspath(request.checkpoint)  # type: ignore[arg-type]  # a path
    place = place_of(path)
    if not place.local:
        raise UsageError(f"{place.name} is remote, and verify reads every byte.", "Download it first.")
    if not place.is_folder():
        place.open().close()  # absent or forbidden is no answer
    try:
        checkpoint = request.read()
    except CheckpointError as error:
        said = error.message.replace(path, "").replace(os.path.dirname(path) or path, "")  # noqa: PTH120 - any name
        if not _DAMAGE.search(said):
            raise
        return Verification(path, (Fault("unreadable", error.message),), ("headers",))
    if checkpoint.kind.values == "none":
        raise UsageError(f"{path} is a snapshot, which holds no values.", "Give the checkpoint itself.")
    verification = held(checkpoint, options)
    if options.allowed is not None:
        idle = options.allowed.idle("allow", checkpoint.tensors)
        verification = replace(verification, notes=(*idle, *verification.notes))
    return verification


def _lock(path: str, given: str | None) -> Lock | None:
    if given is not None:
        return read_lock(given)
    beside = (f"{path}.lock", os.path.join(path, "weights.lock"))  # noqa: PTH118
    return next((read_lock(name) for name in beside if is_lock(name)), None)
