"""Findings on a loader that was followed: what it leaves in the model, whatever it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptdiff.loaders.outcome import Outcome

if TYPE_CHECKING:
    from ckptdiff.judging.findings import Value

Found = tuple[str, str, "dict[str, Value]"]
"""A rule, a key, and the facts."""


def found_of(outcome: Outcome) -> Iterator[Found]:
    """What a followed loader leaves as it was, fills in part, or writes over; and what of the file fills nothing."""
    for key, item in outcome.filled.items():
        if item.by in ("initial", "meta", "code"):
            slot = item.slot
            facts: dict[str, Value] = {"kind": "on the meta device" if item.by == "meta" else "initial"}
            if slot is not None:
                facts |= {"kind": slot.kind, "dtype": slot.tensor.dtype, "shape": slot.tensor.shape}
            yield ("initial-value", key, facts)
    for problem in outcome.problems:
        if problem.kind == "part":
            yield "filled-in-part", problem.key, {"text": problem.text}
    for key, line in outcome.overwritten.items():
        yield "overwritten", key, {"text": f"by {line}"}
    for key in outcome.unused:
        yield "unused-key", key, {}
