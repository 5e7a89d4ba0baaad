"""What torch's `load_state_dict` would do with a model and a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import UsageError
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch.restarts import ModelValuesNeeded
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.given import GivenModel

_T = TypeVar("_T")


def ask(model: GivenModel, checkpoint: Checkpoint, *, assign: bool = False) -> Outcome:
    """The walk. Where code of the model's own looks at its weights, it is built with them first.

    Raises UsageError where it does and the model that is there has none.
    """
    outcome = with_values_if_needed(model, lambda given: compare(given.tree, checkpoint, assign=assign))
    doubts = (*model.doubts(), *_elsewhere(model))
    return replace(outcome, doubts=(*outcome.doubts, *doubts)) if doubts else outcome


def _elsewhere(model: GivenModel) -> tuple[str, ...]:
    """A doubt where code of the model's own runs while loading, and the model was built as on another machine."""
    if model.built is None or model.built.host.here or not any(node.custom for _, node in model.tree.walk()):
        return ()
    machine = model.built.host.shown
    return (f"Code of the model's own runs while loading: as on this machine, not as on {machine}, if it asks.",)


def with_values_if_needed(model: GivenModel, work: Callable[[GivenModel], _T]) -> _T:
    """What is made of a model, with room for its code to run; of it with its values, where that code looks at them.

    Raises UsageError where it does and the model that is there has none.
    """
    try:
        with model.running():
            return work(model)
    except ModelValuesNeeded as needed:
        valued = model.with_values()
        if valued is model:
            raise UsageError(
                f"Code of {needed} needs the model's own values, which this model does not have.",
                "Pass a reference such as model.py:Net, or the module with its values.",
            ) from None
    with valued.running():
        return work(valued)
