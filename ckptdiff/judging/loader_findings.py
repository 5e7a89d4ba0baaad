"""Findings on a loader that was followed: what it leaves in the model, whatever it says of itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptdiff.loaders.outcome import Filled, Outcome, sources_named
from ckptdiff.tensors import TensorInfo

if TYPE_CHECKING:
    from ckptdiff.checkpoint.checkpoint import Checkpoint
    from ckptdiff.judging.findings import Value

Found = tuple[str, str, "dict[str, Value]"]
"""A rule, a key, and the facts."""
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_PATTERNS = 4
"""Patterns of source keys that a sentence lists."""


def found_of(outcome: Outcome) -> Iterator[Found]:
    """What a followed loader leaves as it was, fills in part, or writes over; and what of the file fills nothing."""
    named = not outcome.loader.is_users
    for key, item in outcome.filled.items():
        if item.by in ("initial", "meta", "code"):
            slot = item.slot
            facts: dict[str, Value] = {"kind": "on the meta device" if item.by == "meta" else "initial"}
            if slot is not None:
                facts |= {"kind": slot.kind, "dtype": slot.tensor.dtype, "shape": slot.tensor.shape}
            yield ("initial-value", key, facts)
        elif named and (change := _change(item, outcome.checkpoint)):
            yield "converted", key, {"change": change}
    for problem in outcome.problems:
        if problem.kind == "part":
            yield "filled-in-part", problem.key, {"text": problem.text}
    for key, line in outcome.overwritten.items():
        yield "overwritten", key, {"text": f"by {line}"}
    if named:
        yield from _said(outcome)
    for key, why in outcome.unused.items():
        if why == "unused":
            yield "unused-key", key, {}


def _said(outcome: Outcome) -> Iterator[Found]:
    """What the loader itself says. Unexpected keys are ignored by design, or the reason that it raises."""
    for key, given, wanted in outcome.mismatches():
        yield "size-mismatch", key, {"checkpoint_shape": given, "model_shape": wanted}
    taken = {source for item in outcome.filled.values() for _, source in item.sources}
    for problem in outcome.problems:
        if problem.kind == "unexpected":
            if problem.key in taken and outcome.raised is None:
                continue  # by other means than the load that lists it, as PEFT takes prompts
            entry = outcome.checkpoint.entries.get(problem.key)
            facts: dict[str, Value] = {}
            if isinstance(entry, TensorInfo):
                facts = {"dtype": entry.dtype, "shape": entry.shape}
            ignored = outcome.unused.get(problem.key) == "ignored"
            yield "ignored-key" if ignored else "unexpected-key", problem.key, facts
        elif problem.kind == "conversion":
            yield "conversion-error", problem.key, {"text": problem.text}


def _change(item: Filled, checkpoint: Checkpoint) -> str:
    """What was done on the way to a key, with the keys it was made of told from where they part from its own."""
    sources = list(sources_named(item, checkpoint))
    if item.by != "file" or not sources or (sources == [item.key] and not item.steps):
        return ""  # without a source there is nothing to fill: a tensor of no elements
    steps = f"{', '.join(item.steps)} of " if item.steps else ""
    if sources == [item.key]:
        return f"{', '.join(item.steps)}"
    if len(sources) == 1:
        return f"{steps or 'named '}{_relative(sources[0], item.key)} in the file"
    shared = _shared(sources[0], item.key)
    # thousands of experts: each number a star, which tells as much as the numbers themselves
    counted = Counter(_NUMBER.sub("*", source[shared:]) for source in sources)
    patterns = [f"{pattern} (x{number})" if number > 1 else pattern for pattern, number in counted.items()]
    more = f" and {len(patterns) - _PATTERNS} more" if len(patterns) > _PATTERNS else ""
    return f"{steps or 'made of '}{', '.join(patterns[:_PATTERNS])}{more}"


def _shared(source: str, key: str) -> int:
    """How many characters of whole components two keys begin with alike."""
    count = 0
    for component, other in zip(source.split("."), key.split("."), strict=False):
        if component != other:
            break
        count += len(component) + 1
    return min(count, source.rfind(".") + 1)


def _relative(source: str, key: str) -> str:
    """What a source is called, so that keys of equal layers read alike: a prefix, or from where the two part."""
    if key.endswith(f".{source}"):
        return f"without {key[: -len(source)]}"
    if source.endswith(f".{key}"):
        return f"{source[: -len(key)]}*"
    return source[_shared(source, key) :]
