"""The digests of a checkpoint, as text to keep and review."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptdiff.difference.locks import text_of
from ckptdiff.replacing import write_whole
from ckptdiff.requests import CheckpointRequest
from ckptdiff.verbs.diff import weights
from ckptdiff.verbs.digest import digested

if TYPE_CHECKING:
    from ckptdiff.contents.spreading import Progress
    from ckptdiff.requests import Weights


def lock(
    checkpoint: Weights,
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    progress: Progress | None = None,
) -> str:
    """Write the digests of a checkpoint's tensors to `out`, and give that of all.

    A lock is text, a line a tensor. It stands for its checkpoint as A or B of `diff`, and `verify` holds a checkpoint
    against it. Raises CkptdiffError where it cannot be read, or the lock not written.
    """
    whole, text = locked(CheckpointRequest(weights(checkpoint), key), progress)
    write_whole(os.fspath(out), text)
    return whole


def locked(request: CheckpointRequest, progress: Progress | None = None) -> tuple[str, str]:
    """The digest of all, and the lock's text."""
    read, digests = digested(request, progress)
    return digests.whole, text_of(read.tensors, digests)
