"""One comparison with a live model, by as many attempts as its code asks for.

Code of a model first runs on copies that are on the meta device. Where it fails there or asks for more than they know,
everything starts again with real values. Where it may look at what no copy has, the attempts are made in processes of
their own, and torch's own loader is asked there too, on the model itself.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import ModelError
from ckptdiff.generators import generators_kept
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch import forked as apart
from ckptdiff.loaders.torch.module_code import Runner, needed
from ckptdiff.loaders.torch.real_answer import ask_torch, corrected
from ckptdiff.loaders.torch.restarts import CodeFailed, ModelValuesNeeded, TakeLiterally
from ckptdiff.loaders.torch.trust import Trust, failed_on, replaced_loader, takes_part, trust
from ckptdiff.loaders.torch.walk import Walk
from ckptdiff.model.tree import ModuleTree
from ckptdiff.torch_private import own_buffers, own_parameters

VALUELESS = ("meta", "uninitialized")
"""Ways of building a model that leave it without its values."""
_SMALL = 1 << 30
"""Bytes of a model, and of a checkpoint, that torch's own loader is always asked about where code may tell copies."""
_PATIENCE = 4
"""How many times as long code may take on copies as on the model itself, and seconds on top."""


def compare_live(tree: ModuleTree, checkpoint: Checkpoint, *, assign: bool) -> Outcome:
    """What torch would do on loading `checkpoint` into the live model that `tree` describes.

    Raises ModelValuesNeeded where the model's code asks for values that it was built without.
    """
    try:
        outcome = _compared(tree, checkpoint, assign=assign)
    except apart.Ended as why:  # no doubt about an answer: there would be none
        text = f"Code of {tree.reference or tree.root.qualified_name} that takes part in loading was run apart: {why}."
        raise ModelError(text, "Keep what ends the program out of the model's hooks and overrides.") from None
    if loader := replaced_loader():
        doubt = f"nn.Module.load_state_dict has been replaced, by {loader}; this is what torch's own would do."
        outcome = replace(outcome, doubts=(*outcome.doubts, doubt))
    return outcome


def _compared(tree: ModuleTree, checkpoint: Checkpoint, *, assign: bool) -> Outcome:
    attempts = _Attempts(tree, checkpoint, assign)
    code = needed(tree, assign=assign)
    if not code and not takes_part(tree, assign=assign):
        return attempts.made(_here, code=False)
    level = trust(tree, assign=assign)
    valueless = tree.built in VALUELESS
    if level.full:
        try:
            return attempts.made(_here, code=True, values=valueless)
        except CodeFailed as failed:
            level = failed_on(str(failed))
    if valueless and (level.telling or _small(tree, checkpoint)):
        raise ModelValuesNeeded("", tree.root.qualified_name)
    why_not = apart.hindrance(() if valueless else _tensors(tree, checkpoint), checkpoint.nbytes)
    if why_not:
        return _with_doubts(attempts, level, code, why_not)
    told, lost, seconds = None, "", apart.enough(checkpoint.nbytes)
    if not (valueless or replaced_loader()):
        start = time.monotonic()
        try:
            told = apart.run(lambda: ask_torch(tree, checkpoint, assign=assign), seconds, silent=True)
        except apart.Ended:
            raise
        except apart.Lost as why:
            lost = str(why)
        # On copies it may wait for what only happens to the model itself.
        seconds = _PATIENCE * (1 + time.monotonic() - start)
    try:
        outcome = attempts.made(_apart(seconds), code=code, real=not valueless)
    except apart.Ended:
        raise
    except apart.Lost as why:
        outcome = _doubting(attempts.made(_here, code=False), level, str(why))
    if valueless and told is None and not lost:
        lost = "it is too large to be tried with all of its values"
    if level.elsewhere:
        doubt = f"Code of the model {level.elsewhere[0]}, which is another where it was tried."
        outcome = replace(outcome, doubts=(*outcome.doubts, doubt))
    if told is not None:
        return corrected(outcome, told)
    return _doubting(outcome, level, lost) if lost else outcome


def _small(tree: ModuleTree, checkpoint: Checkpoint) -> bool:
    size = sum(slot.tensor.nbytes for node in tree.modules() for slot in node.local.values())
    return size <= _SMALL and checkpoint.nbytes <= _SMALL


def _with_doubts(attempts: _Attempts, level: Trust, code: bool, why_not: str) -> Outcome:
    """The answer where nothing can be run apart; code that acts for several processes is then not run at all."""
    if level.distributed:
        return _doubting(attempts.made(_here, code=False), level, why_not)
    with generators_kept():
        outcome = attempts.made(_here, code=code, real=attempts.tree.built not in VALUELESS)
    return _doubting(outcome, level, why_not) if level.telling or level.doubtful else outcome


def _doubting(outcome: Outcome, level: Trust, why_not: str) -> Outcome:
    why = (*level.telling, *level.doubtful, *level.unknown, *level.elsewhere)[0]
    doubt = f"Code of the model {why}, which can only be followed by torch's own loader apart from here: {why_not}."
    return replace(outcome, doubts=(*outcome.doubts, doubt))


@dataclass(frozen=True, slots=True)
class _Signal:
    """An attempt that has to be made again in another way."""

    literal: bool
    why: str = ""


_Way = Callable[[Callable[[], object]], Any]


def _here(attempt: Callable[[], object]) -> object:
    return attempt()


def _apart(seconds: float) -> _Way:
    return lambda attempt: apart.run(attempt, seconds)


@dataclass(frozen=True, slots=True)
class _Attempts:
    tree: ModuleTree
    checkpoint: Checkpoint
    assign: bool

    def made(self, way: _Way, *, code: bool, values: bool = True, real: bool = False) -> Outcome:
        """The outcome, by `way` for each attempt. Without `values`, raises CodeFailed where code looks at some."""
        # Values that are on the meta device themselves say nothing there of what the code would do.
        real = real or (code and bool(self.checkpoint.without_values()))
        literal = False
        while True:
            answer = way(functools.partial(self._one, whole=way is _here, code=code, real=real, literal=literal))
            if not isinstance(answer, _Signal):
                return self._whole(answer)
            if answer.why and not values:
                raise CodeFailed(answer.why)
            literal = literal or answer.literal
            real = real or not answer.literal

    def _one(self, *, whole: bool, code: bool, real: bool, literal: bool) -> _Signal | Outcome | dict[str, object]:
        runner = Runner(self.tree, self.checkpoint, real=real, literal=literal) if code else None
        try:
            outcome = Walk(self.tree, self.checkpoint, runner, self.assign, literal=literal).run()
        except TakeLiterally:
            return _Signal(literal=True)
        except CodeFailed as failed:
            return _Signal(literal=False, why=str(failed))
        return outcome if whole else self._parts(outcome)

    def _parts(self, outcome: Outcome) -> dict[str, object]:
        """An outcome without the model and the checkpoint, which are known where it goes to."""
        parts = {field.name: getattr(outcome, field.name) for field in fields(outcome)}
        return {name: value for name, value in parts.items() if name not in ("model", "checkpoint")}

    def _whole(self, outcome: Outcome | dict[str, Any]) -> Outcome:
        if isinstance(outcome, Outcome):
            return outcome
        return Outcome(model=self.tree, checkpoint=self.checkpoint, **outcome)


def _tensors(tree: ModuleTree, checkpoint: Checkpoint) -> Iterator[torch.Tensor]:
    for node in tree.modules():
        for members in (own_parameters(node.live), own_buffers(node.live)):
            yield from (tensor for tensor in members.values() if isinstance(tensor, torch.Tensor))
    yield from (value for value in (checkpoint.live or {}).values() if isinstance(value, torch.Tensor))
