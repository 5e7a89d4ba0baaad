"""torch's own answer, on the model itself and the values themselves: to be asked for in a process of its own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.loaders.outcome import Comparison, mismatches
from ckptdiff.loaders.torch.forked import Lost
from ckptdiff.loaders.torch.given_values import Values
from ckptdiff.loaders.torch.meta_warnings import no_meta_warning
from ckptdiff.model.tree import ModuleTree
from ckptdiff.torch_private import lists_of_failed_call, set_metadata

_OTHERWISE = (
    "Code of the model does otherwise on the model itself than on a copy of it. What is said of loading is what "
    "torch's own loader did, in a process apart; what it puts into which tensor is not known."
)
_TORCHS_OWN = "Error(s) in loading state_dict for "


@dataclass(frozen=True, slots=True)
class Told:
    """What torch collected, as in Comparison."""

    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    error_msgs: tuple[str, ...]
    raised: str | None


def ask_torch(tree: ModuleTree, checkpoint: Checkpoint, *, assign: bool) -> Told:
    """Load a checkpoint into a model by torch's own loader, and say what came of it; the model is changed.

    Raises Lost where the values of the checkpoint are not to be had.
    """
    state_dict = _state_dict(checkpoint)
    try:
        with no_meta_warning():
            result = nn.Module.load_state_dict(tree.root.live, state_dict, strict=False, assign=assign)
    except (Exception, SystemExit) as error:
        missing, unexpected, errors = lists_of_failed_call(error)
        text = str(error)
        if type(error) is RuntimeError and text.startswith(_TORCHS_OWN):
            return Told(tuple(missing), tuple(unexpected), tuple(errors), None)
        return Told(tuple(missing), tuple(unexpected), tuple(errors), f"{type(error).__name__}: {text}")
    return Told(tuple(result.missing_keys), tuple(result.unexpected_keys), (), None)


def corrected(comparison: Comparison, told: Told) -> Comparison:
    """A comparison made on copies, as torch has it on the model itself."""
    if told.raised is not None and comparison.raised is not None and told.raised.startswith("RecursionError"):
        return comparison  # where in the depths torch gives up is a matter of who called it
    ours = Told(comparison.missing_keys, comparison.unexpected_keys, comparison.error_msgs, comparison.raised)
    if ours == told:
        return comparison
    mismatched = tuple(mismatches(told.error_msgs))
    doubts = comparison.uncertain
    if told.raised is None:
        doubts = (*doubts, _OTHERWISE)
    gone = {*told.missing_keys, *(mismatch.key for mismatch in mismatched)}
    return replace(
        comparison,
        missing_keys=told.missing_keys,
        unexpected_keys=told.unexpected_keys,
        error_msgs=told.error_msgs,
        raised=told.raised,
        mismatched=mismatched,
        matched={key: match for key, match in comparison.matched.items() if key not in gone},
        uncertain=doubts,
    )


def _state_dict(checkpoint: Checkpoint) -> Any:
    if checkpoint.kind.values == "none":
        raise Lost("a snapshot has no values")
    values = Values(checkpoint, real=True)
    live = checkpoint.live
    state_dict: Any = OrderedDict(
        (key, values.of(key, entry) if live is None else live[key]) for key, entry in checkpoint.entries.items()
    )
    if values.unknown:
        raise Lost(f"{next(iter(values.unknown))}: {next(iter(values.unknown.values()))}")
    if checkpoint.metadata is not None:
        set_metadata(state_dict, checkpoint.metadata)
    return state_dict
