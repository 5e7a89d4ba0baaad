"""What is wrong with a checkpoint, as text and as JSON."""

from __future__ import annotations

from ckptdiff.difference.verification import Verification
from ckptdiff.printable import json_text
from ckptdiff.render.escape import plain
from ckptdiff.render.json import SCHEMA_VERSION
from ckptdiff.render.phrases import count, number
from ckptdiff.spelling import option

LIMIT = 40
"""Faults shown unless all are asked for."""
_FEW = 5


def text(found: Verification, *, show_all: bool = False) -> str:
    """One sentence a fault, ending with a newline."""
    name = plain(found.path) or "the state dict"
    against = f"looked at: {', '.join(found.checked)}"
    if found.ok:
        lines = [f"{name} is whole and sane ({against})."]
    else:
        lines = [f"{name} has {count(len(found.faults), 'fault')} ({against}).", ""]
    shown = found.faults if show_all else found.faults[:LIMIT]
    lines += [f"  {fault.kind}: {plain(fault.text, 1000)}" for fault in shown]
    if len(shown) < len(found.faults):
        lines.append(f"  ... and {number(len(found.faults) - len(shown))} more ({option('all')} shows them)")
    notes = found.notes if show_all else found.notes[:_FEW]
    if notes:
        lines += ["", "to know", *(f"  {plain(note, 1000)}" for note in notes)]
        if len(notes) < len(found.notes):
            lines.append(f"  ... and {number(len(found.notes) - len(notes))} more ({option('all')} shows them)")
    return "\n".join(lines) + "\n"


def json(found: Verification) -> str:
    """The same for programs, complete."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "path": found.path,
        "outcome": "pass" if found.ok else "fail",
        "checked": list(found.checked),
        "faults": [{"kind": fault.kind, "key": fault.key, "text": fault.text} for fault in found.faults],
        "notes": list(found.notes),
    }
    return json_text(value, indent=2) + "\n"
