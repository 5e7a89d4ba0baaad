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


def text(verification: Verification, *, show_all: bool = False) -> str:
    """One sentence a fault, ending with a newline."""
    name = plain(verification.path) or "the state dict"
    against = f"looked at: {', '.join(verification.checked)}"
    if verification.ok:
        lines = [f"{name} is whole and sane ({against})."]
    else:
        lines = [f"{name} has {count(len(verification.faults), 'fault')} ({against}).", ""]
    shown = verification.faults if show_all else verification.faults[:LIMIT]
    lines += [f"  {fault.kind}: {plain(fault.text, 1000)}" for fault in shown]
    if len(shown) < len(verification.faults):
        lines.append(f"  ... and {number(len(verification.faults) - len(shown))} more ({option('all')} shows them)")
    notes = verification.notes if show_all else verification.notes[:_FEW]
    if notes:
        lines += ["", "to know", *(f"  {plain(note, 1000)}" for note in notes)]
        if len(notes) < len(verification.notes):
            lines.append(f"  ... and {number(len(verification.notes) - len(notes))} more ({option('all')} shows them)")
    return "\n".join(lines) + "\n"


def json(verification: Verification) -> str:
    """The same for programs, complete."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "path": verification.path,
        "outcome": "pass" if verification.ok else "fail",
        "checked": list(verification.checked),
        "faults": [{"kind": fault.kind, "key": fault.key, "text": fault.text} for fault in verification.faults],
        "notes": list(verification.notes),
    }
    return json_text(value, indent=2) + "\n"
