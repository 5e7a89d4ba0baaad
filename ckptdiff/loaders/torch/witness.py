"""The witness: torch's own `load_state_dict`, really run on a copy of the model, for anyone who doubts the walk.

The copy is on the meta device and is given meta tensors, so that nothing is read, as far as these can tell; real values
take their place where code of the model's own looks at them or a tensor is of an unusual kind.
"""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from ckptdiff.checkpoint.from_memory import unusual_keys
from ckptdiff.errors import CkptdiffError, UsageError
from ckptdiff.generators import generators_kept
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch.answer import error_message
from ckptdiff.loaders.torch.given_values import Values
from ckptdiff.loaders.torch.meta_warnings import no_meta_warning
from ckptdiff.loaders.torch.rereading import disagreement
from ckptdiff.loaders.torch.shadows import Shadows
from ckptdiff.model.meta_building import MetaWatch
from ckptdiff.spelling import option
from ckptdiff.torch_private import set_metadata

_TORCHS_OWN = "Error(s) in loading state_dict for "
_FAILED_COPY = re.compile(
    r"\n\tWhile \w+ the parameter named .*? an exception occurred : \(.*?\)\.(?=\n\t|\Z)", re.DOTALL
)


class Disagreement(CkptdiffError):  # noqa: N818 - it is torch that errs, or the walk
    """torch's loader gives another answer than the walk; the detail holds both."""

    kind = "disagreement"


@dataclass(frozen=True, slots=True)
class _Answer:
    """`missing` and `unexpected` are None where torch raised and returned nothing."""

    error: str | None
    missing: tuple[object, ...] | None = None
    unexpected: tuple[object, ...] | None = None

    def __str__(self) -> str:
        lists = (
            "" if self.missing is None else f"; missing {list(self.missing)}, unexpected {list(self.unexpected or ())}"
        )
        return (self.error or "loads") + lists


def confirm(outcome: Outcome) -> str:
    """Ask torch's own loader, strictly and not, and return what that has shown, in a sentence, if its answers are the
    outcome's.

    A model that was built without memory stays so. On the meta device every tensor can be copied into every other of
    its shape, so what the walk says of copies that fail is not put to the test there. Raises Disagreement with both
    answers, UsageError where there is no model to ask.
    """
    if outcome.model.root.live is None:
        raise UsageError(
            f"{option('verify')} asks the model itself, and a snapshot has none.", "Name the model's code instead."
        )
    differs = disagreement(outcome.checkpoint)
    if differs:
        raise Disagreement(
            f"torch itself reads {outcome.checkpoint.path} otherwise: {differs}.",
            "This is a defect, please report it.",
        )
    valueless = False
    with generators_kept():
        for strict in (True, False):
            ours = _Answer(
                error_message(outcome, strict), outcome.problem_keys("missing"), outcome.problem_keys("unexpected")
            )
            theirs, on_meta = _torch_says(outcome, strict)
            valueless = valueless or on_meta
            if _same(ours, theirs, on_meta):
                continue
            raise Disagreement(
                f"torch's own loader disagrees with strict={strict}.",
                "This is a defect, please report it.",
                detail=f"torch:    {theirs}\nckptdiff: {ours}",
            )
    where = "on the meta device, where no value is copied" if valueless else "with its values"
    read_too = "" if not outcome.checkpoint.path else _READ_NOT if differs is None else _READ_TOO
    return f"torch's own loader gives the same answer on a copy of the model {where}{read_too}."


_READ_TOO = ", and the file's own library reads the same keys, dtypes and shapes in it"
_READ_NOT = "; the file itself was not read a second time, since torch would not without running what is in it"


def _torch_says(outcome: Outcome, strict: bool) -> tuple[_Answer, bool]:
    """torch's answer, and whether the model was on the meta device."""
    valueless = outcome.model.built in ("meta", "uninitialized")
    checkpoint = outcome.checkpoint
    plain = not (unusual_keys(checkpoint) or checkpoint.without_values()) and all(
        slot.ordinary for _, node in outcome.model.walk() for slot in node.local.values()
    )
    if plain or valueless:
        with MetaWatch() as watch:
            answer = _load(outcome, strict, real_values=False, real_model=False)
        if not watch.doubts:
            return answer, True
    return _load(outcome, strict, real_values=True, real_model=not valueless), valueless


def _load(outcome: Outcome, strict: bool, *, real_values: bool, real_model: bool) -> _Answer:
    tree, checkpoint = outcome.model, outcome.checkpoint
    model = Shadows(tree, lambda *_: None, real=real_model).of(tree.root.live)
    values = Values(checkpoint, real=real_values)
    state_dict = OrderedDict((key, values.of(key, entry)) for key, entry in checkpoint.entries.items())
    if checkpoint.metadata is not None:
        set_metadata(state_dict, copy.deepcopy(checkpoint.metadata))
    try:
        with no_meta_warning():
            result = nn.Module.load_state_dict(model, state_dict, strict=strict, assign=outcome.assign)
    except (Exception, SystemExit) as error:
        text = str(error)
        plain = type(error) is RuntimeError and text.startswith(_TORCHS_OWN)
        return _Answer(text if plain else f"{type(error).__name__}: {text}")
    return _Answer(None, tuple(result.missing_keys), tuple(result.unexpected_keys))


def _same(ours: _Answer, theirs: _Answer, on_meta: bool) -> bool:
    """Whether two answers are the same, as far as the second one goes."""
    told = [answer.error for answer in (ours, theirs)]
    if on_meta:
        told = [_without_failed_copies(error) for error in told]
    if all((error or "").startswith("RecursionError") for error in told):
        return True  # where in the depths torch gives up is a matter of who called it
    lists = theirs.missing is None or (ours.missing, ours.unexpected) == (theirs.missing, theirs.unexpected)
    return told[0] == told[1] and lists


def _without_failed_copies(error: str | None) -> str | None:
    if error is None or not error.startswith(_TORCHS_OWN):
        return error
    error = _FAILED_COPY.sub("", error)
    return error if "\n\t" in error else None
