"""A repair and what came of it: what loads, what stays at its initial value, the rules, and what was written."""

from __future__ import annotations

from ckptdiff.keys import fold
from ckptdiff.printable import json_text
from ckptdiff.render import suggested, written
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import count
from ckptdiff.render.view import View
from ckptdiff.writing.execute import Written
from ckptdiff.writing.fixed import Fixed

_MOST = 20


def text(fixed: Fixed, view: View) -> str:
    """The verdict, the repair, and what was written; ends with a newline."""
    most = None if view.all else _MOST
    lines = [_verdict(fixed), ""]
    if fixed.stays:
        rows = [f"  {plain(item.pattern)}" for item in fold(fixed.stays)]
        lines += [f"initial values in the model ({len(fixed.stays)}):", *rows[:most]]
        lines += [f"  ... and {len(rows) - len(rows[:most])} more"] if rows[most:] and most else []
        lines.append("")
    lines += suggested.repairs(fixed.suggestion, most, ("rules:", "tensor operations:"))
    return "\n".join(lines) + "\n" + written.text(fixed.done, show_all=view.all)


def json(fixed: Fixed) -> str:
    """The same for programs: complete, ending with a newline."""
    value = {
        "schema_version": 1,
        "outcome": "pass" if fixed.whole else "fail",
        "initial_values": list(fixed.stays),
        "suggestion": suggested.document(fixed.suggestion, None),
        "written": written.document(fixed.done),
    }
    return json_text(value) + "\n"


def _verdict(fixed: Fixed) -> str:
    loads = "It loads" if isinstance(fixed.done, Written) else "It would load"
    order = suggested.undecided(fixed.suggestion, "; ")
    if not fixed.stays:
        return f"{loads}{order}."
    new = "a head of another size" if fixed.whole else "not all of the model is in the file"
    return f"{loads} with strict=False, and {count(len(fixed.stays), 'key')} keep initial values: {new}{order}."
