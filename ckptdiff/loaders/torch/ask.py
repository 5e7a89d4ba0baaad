"""What torch's `load_state_dict` would do with a model and a checkpoint."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import UsageError
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch.restarts import ModelValuesNeeded
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.given import GivenModel


def ask(model: GivenModel, checkpoint: Checkpoint, *, assign: bool = False) -> Outcome:
    """The walk. Where code of the model's own looks at its weights, it is built with them first.

    Raises UsageError where it does and the model that is there has none.
    """
    outcome = _walked(model, checkpoint, assign)
    doubts = (*model.doubts(), *_elsewhere(model))
    return replace(outcome, doubts=(*outcome.doubts, *doubts)) if doubts else outcome


def _elsewhere(model: GivenModel) -> tuple[str, ...]:
    """A doubt where code of the model's own runs while loading, and the model was built as on another machine."""
    if model.built is None or model.built.host.here or not any(node.custom for _, node in model.tree.walk()):
        return ()
    machine = model.built.host.shown
    return (f"Code of the model's own runs while loading: as on this machine, not as on {machine}, if it asks.",)


def _walked(model: GivenModel, checkpoint: Checkpoint, assign: bool) -> Outcome:
    with model.running():
        try:
            return compare(model.tree, checkpoint, assign=assign)
        except ModelValuesNeeded as needed:
            valued = valued_for(model, needed)
            with valued.running():
                return compare(valued.tree, checkpoint, assign=assign)


def valued_for(model: GivenModel, needed: ModelValuesNeeded) -> GivenModel:
    """The model with its values. Raises UsageError where there is none that has them."""
    valued = model.with_values()
    if valued is model:
        raise UsageError(
            f"Code of {needed} needs the model's own values, which this model does not have.",
            "Pass a reference such as model.py:Net, or the module with its values.",
        ) from None
    return valued
