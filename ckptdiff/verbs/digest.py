"""Which weights are these? A digest that is the same in every format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.digests import Digests, digests_of
from ckptdiff.difference.locks import Lock
from ckptdiff.errors import CheckpointError
from ckptdiff.requests import CheckpointRequest
from ckptdiff.verbs.diff import side, weights

if TYPE_CHECKING:
    from ckptdiff.contents.spreading import Progress
    from ckptdiff.requests import Weights


def digest(checkpoint: Weights, *, key: str | None = None, progress: Progress | None = None) -> Digests:
    """The digest of a checkpoint's tensors, `.whole`, and of each, `.tensors`: hexadecimal SHA-256.

    It is the same for the same keys, dtypes, shapes and values, whatever holds them: a .pth, safetensors, shards, a
    folder of torch.distributed.checkpoint, a state dict in memory or a live module. docs/digest.md says how it is made.
    `key` is the dotted path of the state dict inside its file; `progress` is called with the bytes done and all bytes.

    Raises CkptdiffError for what cannot be read, or has no values.
    """
    return digested(CheckpointRequest(weights(checkpoint), key), progress)[1]


def digested(request: CheckpointRequest, progress: Progress | None = None) -> tuple[Checkpoint | Lock, Digests]:
    """`digest`, as it was asked, and what it is of."""
    read = side(request)
    if isinstance(read, Lock):
        return read, Digests(read.whole, read.digests)
    if not read.tensors:
        raise CheckpointError(f"{read.path or 'The state dict'} holds no tensors, so there is nothing to name.", "")
    return read, digests_of(read, progress=progress)
