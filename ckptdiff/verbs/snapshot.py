"""What does this model's state dict look like, in a file that reviews well?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.model.snapshot import dumps
from ckptdiff.requests import LoaderRequest, ModelRequest

if TYPE_CHECKING:
    from ckptdiff.requests import Model


def snapshot(
    model: Model | None,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    loader: str | Callable[..., object] | None = None,
    loader_args: Mapping[str, object] | None = None,
    trust_checkpoint: bool = False,
    trust_remote_code: bool = False,
    args: Mapping[str, object] | None = None,
    device: str | None = None,
) -> str:
    """The model's state-dict schema as the text of a snapshot file; `device` as in `compare`.

    `loader`, a name or a function as for `compare` (then `model` may be None), is run with `checkpoint` first, and the
    schema is that of the model as it leaves it.

    Raises CkptdiffError where the model does not build, or the loader raises.
    """
    loads = LoaderRequest.of(loader, loader_args, trust_checkpoint, trust_remote_code, args)
    asked = None if model is None else ModelRequest.of(model, args, device)
    return snapshot_of(asked, None if checkpoint is None else os.fspath(checkpoint), loads)


def snapshot_of(model: ModelRequest | None, checkpoint: str | None = None, loader: LoaderRequest | None = None) -> str:
    """`snapshot`, as it was asked."""
    if loader is None:
        if model is None or checkpoint is not None:
            raise UsageError("Only a loader takes a checkpoint to a snapshot.", "Name the model alone, or the loader.")
        return dumps(model.describe().tree)
    if checkpoint is None:
        from ckptdiff.verbs.compare import own_checkpoint

        checkpoint = cast("str | None", own_checkpoint(model))
    if checkpoint is None:
        raise UsageError("A loader needs a checkpoint.", "Name the file that it is to read.")
    outcome = loader.left(model, checkpoint, None if model is None else model.device).outcome
    if outcome.raised is not None:
        raise CheckpointError(
            f"{outcome.loader.call} raises {outcome.raised}", f"`{loader.comparing(model, checkpoint)}` says more."
        )
    return dumps(outcome.model)
