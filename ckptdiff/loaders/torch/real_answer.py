"""torch's own answer, on the model itself and the values themselves: to be asked for in a process of its own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.loaders.outcome import Filled, Outcome
from ckptdiff.loaders.torch.answer import error_messages
from ckptdiff.loaders.torch.forked import Lost
from ckptdiff.loaders.torch.given_values import Values
from ckptdiff.loaders.torch.meta_warnings import no_meta_warning
from ckptdiff.loaders.torch.texts import Texts
from ckptdiff.model.tree import ModuleTree
from ckptdiff.torch_private import lists_of_failed_call, set_metadata

_OTHERWISE = (
    "Code of the model does otherwise on the model itself than on a copy of it. What is said of loading is what "
    "torch's own loader did, in a process apart; what it puts into which tensor is not known."
)
_TORCHS_OWN = "Error(s) in loading state_dict for "


@dataclass(frozen=True, slots=True)
class Told:
    """What torch collected."""

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


def corrected(outcome: Outcome, told: Told) -> Outcome:
    """An outcome found on copies, as torch has it on the model itself."""
    if told.raised is not None and outcome.raised is not None and told.raised.startswith("RecursionError"):
        return outcome  # where in the depths torch gives up is a matter of who called it
    errors = tuple(error_messages(outcome))
    ours = Told(outcome.problem_keys("missing"), outcome.problem_keys("unexpected"), errors, outcome.raised)
    if ours == told:
        return outcome
    said = {problem.text: problem for problem in outcome.problems if problem.text}
    texts = Texts(outcome.model, outcome.checkpoint, said)
    problems = texts.problems(told.missing_keys, told.unexpected_keys, told.error_msgs)
    filled, unused = dict(outcome.filled), dict(outcome.unused)
    for problem in problems:
        if problem.key in filled and problem.kind in ("missing", "mismatched"):
            unused.update(dict.fromkeys((key for _, key in filled[problem.key].sources), problem.kind))
            filled[problem.key] = Filled(problem.key, "initial", filled[problem.key].slot)
    used = {key for item in filled.values() for _, key in item.sources}
    return replace(
        outcome,
        problems=problems,
        raised=told.raised,
        filled=filled,
        unused={key: why for key, why in unused.items() if key not in used},
        doubts=outcome.doubts if told.raised is not None else (*outcome.doubts, _OTHERWISE),
    )


def _state_dict(checkpoint: Checkpoint) -> Any:
    if checkpoint.kind.values == "none":
        raise Lost("a snapshot has no values")
    values = Values(checkpoint, real=True)
    live = checkpoint.live
    state_dict: object = OrderedDict(
        (key, values.of(key, entry) if live is None else live[key]) for key, entry in checkpoint.entries.items()
    )
    if values.unknown:
        raise Lost(f"{next(iter(values.unknown))}: {next(iter(values.unknown.values()))}")
    if checkpoint.metadata is not None:
        set_metadata(state_dict, checkpoint.metadata)
    return state_dict
