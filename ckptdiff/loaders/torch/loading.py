"""Loading into a live module, by its own `load_state_dict`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch.answer import error_message
from ckptdiff.places import open_again


def ensure_accepted(outcome: Outcome, *, ignore_mismatched: bool, strict: bool) -> None:
    """Raise CheckpointError, with torch's words, for a checkpoint that is to be refused."""
    message = error_message(outcome, strict)
    if message and (strict or not ignore_mismatched or outcome.raised is not None):
        raise CheckpointError(
            f"{outcome.checkpoint.path or 'The state dict'} does not load into {outcome.model.root.class_name}",
            "Leave strict out, and mismatched keys ignored, to load what fits; the model is as it was.",
            detail=message,
        )


def load_state(module: nn.Module, state_dict: Mapping[str, object], checkpoint: Checkpoint, *, assign: bool) -> None:
    """Load a state dict, of which tensors are memory maps of the checkpoint's files, read as they are copied.

    Raises CheckpointError where a file was written to meanwhile: the maps show whatever it holds.
    """
    module.load_state_dict(state_dict, strict=False, assign=assign)
    for path, identity in checkpoint.identities.items():
        try:
            open_again(path, identity).close()
        except CheckpointError as error:
            raise CheckpointError(
                error.message, "The model may hold values of both files: load again, or build it anew."
            ) from None
