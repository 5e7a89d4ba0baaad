"""What the HTML report's script is given of one target: every key of both sides, as compact JSON.

Keys are front-coded (how much is shared with the one before, and the rest) and descriptions of tensors, messages and
class names stand once in tables, so that 50,000 keys take about 3 MB. The counterpart is `assets/model.js`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

from ckptdiff.gate.run import TargetResult
from ckptdiff.judging.rules import RULES
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.model.tree import Slot
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.escape import plain
from ckptdiff.render.messages import message
from ckptdiff.tensors import Entry, TensorInfo

STATUSES = (
    ("loaded", "loaded", "✓"),
    ("warned", "loaded with warning", "!"),
    ("missing", "missing", "−"),
    ("mismatched", "size mismatch", "≠"),
    ("unexpected", "unexpected", "+"),
    ("ignored", "ignored by torch", "∅"),
    ("other", "no tensor", "×"),
    ("unknown", "not known", "?"),
)
"""Id, label and mark of every status a key can have."""
_STATUS = {name: place for place, (name, _, _) in enumerate(STATUSES)}
_LONGEST = 2000


@dataclass(slots=True)
class _Table:
    """Values that occur often, each once."""

    rows: list[Any] = field(default_factory=list)
    places: dict[Any, int] = field(default_factory=dict)

    def add(self, identity: Any, row: Any) -> int:
        if identity not in self.places:
            self.places[identity] = len(self.rows)
            self.rows.append(row)
        return self.places[identity]


def data(target: TargetResult) -> dict[str, Any]:
    """The data of a target that has a report.

    `rows` has five numbers a key: status, kind (0 parameter, 1 buffer, 2 neither), the model's tensor and the
    checkpoint's (places in `tensors`, -1 for none), and 1 where the tensor has been counted under another name.
    `tensors` are [dtype or type, shape or null, bytes]. `findings` has [row, rule, message, reason] of each that is
    about a row; a reason says why a finding was accepted.
    """
    assert target.report is not None
    outcome = target.report.outcome
    model = outcome.model.keys()
    entries = outcome.checkpoint.entries
    statuses = _statuses(outcome, model)
    keys = [*model, *(key for key in statuses if key not in model)]
    place = {key: number for number, key in enumerate(keys)}
    tensors, messages, rules = _Table(), _Table(), _Table()
    findings: list[list[int]] = []
    accepted = [(item.finding, plain(item.reason, 500)) for item in target.ignored]
    for finding, reason in [*((finding, "") for finding in target.report.findings), *accepted]:
        number = place.get(finding.key, -1)
        if number < 0 or RULES[finding.rule].about == "whole":
            continue
        rule = rules.add((finding.rule, finding.level), [finding.rule, finding.level])
        said = "\n".join(lines_of(message(finding), 12))
        findings.append([number, rule, messages.add(said, said), messages.add(reason, reason)])
        if finding.level == "warning" and statuses[finding.key] == "loaded":
            statuses[finding.key] = "warned"
    rows: list[int] = []
    counted: set[int] = set()
    for key in keys:
        slot = model.get(key)
        twice = slot is not None and slot.identity in counted
        if slot is not None:
            counted.add(slot.identity)
        kind = 2 if slot is None else 0 if slot.kind == "parameter" else 1
        rows += [_STATUS[statuses[key]], kind, _slot(slot, tensors), _entry(entries.get(key), tensors), int(twice)]
    modules = [(prefix[:-1], node.class_name) for prefix, node in outcome.model.walk()]
    classes = _Table()
    return {
        "root": plain(outcome.model.root.class_name),
        "keys": _front_coded(map(_key, keys)),
        "rows": rows,
        "tensors": tensors.rows,
        "rules": rules.rows,
        "messages": messages.rows,
        "findings": findings,
        "modules": _front_coded(_key(path) for path, _ in modules),
        "moduleClasses": [classes.add(name, plain(name)) for _, name in modules],
        "classes": classes.rows,
    }


_OF_PROBLEM: dict[str, str] = {
    "missing": "missing",
    "unexpected": "unexpected",
    "mismatched": "mismatched",
    "not-a-tensor": "other",
}


def _statuses(outcome: Outcome, model: dict[str, Slot]) -> dict[str, str]:
    """What becomes of each key. Where torch would leave early, the rest of the model's keys stay unknown."""
    statuses = {
        key: "loaded" if item.entry is not None or item.by == "rule" else "unknown"
        for key, item in outcome.filled.items()
        if item.entry is not None or key in model
    }
    statuses |= {p.key: _OF_PROBLEM[p.kind] for p in outcome.problems if p.kind in _OF_PROBLEM}
    ignored = {key for key, why in outcome.unused.items() if why == "ignored"}
    if ignored:
        given = outcome.checkpoint
        names = [key for key in given.entries if ignored.issuperset(name for _, name in given.origin(key).sources)]
        statuses |= dict.fromkeys(names, "ignored")
    return statuses


def _slot(slot: Slot | None, tensors: _Table) -> int:
    if slot is None:
        return -1
    if slot.lazy:
        return tensors.add(("lazy", slot.tensor.dtype), [f"{slot.tensor.dtype}, uninitialized", None, 0])
    return _entry(slot.tensor, tensors)


def _entry(entry: Entry | None, tensors: _Table) -> int:
    if entry is None:
        return -1
    if isinstance(entry, TensorInfo):
        return tensors.add((entry.dtype, entry.shape), [entry.dtype, list(entry.shape), entry.nbytes])
    return tensors.add(entry.type_name, [plain(entry.type_name), None, 0])


def _key(key: str) -> str:
    """A key, escaped. Its dots stay what they were, and a cut adds none."""
    if len(key) <= _LONGEST:
        return plain(key, _LONGEST)
    cut = len(key) - _LONGEST
    return f"{plain(key[: _LONGEST // 2], _LONGEST)}…({cut:,} more characters)…{plain(key[-_LONGEST // 2 :], _LONGEST)}"


def _front_coded(keys: Iterable[str]) -> list[int | str]:
    """[shared, rest, shared, rest, …]; what is shared with the key before is counted in UTF-16 units, as scripts do."""
    coded: list[int | str] = []
    before = ""
    for key in keys:
        shared = commonprefix((before, key))  # noqa: RUF071 - characters are meant
        coded += [len(shared) if shared.isascii() else len(shared.encode("utf-16-le")) // 2, key[len(shared) :]]
        before = key
    return coded
