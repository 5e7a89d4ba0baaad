"""A repair and what came of it: what loads, what stays at its initial value, the rules, and what was written."""

from __future__ import annotations

from ckptdiff.keys import fold
from ckptdiff.printable import json_text
from ckptdiff.render import suggested, written
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import count
from ckptdiff.render.sections import Answer, Block
from ckptdiff.render.view import View
from ckptdiff.spelling import option
from ckptdiff.writing.execute import Written
from ckptdiff.writing.fixed import Fixed

_MOST = 20


def answer(fixed: Fixed, view: View) -> Answer:
    """The verdict, the repair, and what was written."""
    most = None if view.all else _MOST
    done = written.answer(fixed.done, show_all=view.all)
    blocks = []
    if fixed.stays:
        rows = [plain(item.pattern) for item in fold(fixed.stays)]
        more = [f"... and {len(rows) - most} more ({option('all')})"] if most is not None and len(rows) > most else []
        blocks.append(Block(f"initial values in the model ({len(fixed.stays)}):", (*rows[:most], *more)))
    if fixed.why:
        blocks.insert(0, Block("to know:", (plain(fixed.why, 1000),)))
    if fixed.suggestion.adaptations:
        blocks.append(suggested.adaptations(fixed.suggestion))
    if fixed.suggestion.arguments is not None:
        blocks.append(suggested.arguments(fixed.suggestion.arguments))
    blocks += suggested.repairs(fixed.suggestion, most, ("rules:", "tensor operations:"))
    facts = (("file", done.verdict), *done.facts)
    good = True if fixed.whole and not fixed.stays else None if fixed.whole else False
    return Answer(_verdict(fixed), good, facts, (*blocks, *done.blocks))


def json(fixed: Fixed) -> str:
    """The same for programs: complete, ending with a newline."""
    value = {
        "schema_version": 1,
        "outcome": "pass" if fixed.whole else "fail",
        **({"beyond_repair": fixed.why} if fixed.why else {}),
        "initial_values": list(fixed.stays),
        "suggestion": suggested.document(fixed.suggestion, None),
        "written": written.document(fixed.done),
    }
    return json_text(value) + "\n"


def _verdict(fixed: Fixed) -> str:
    loads = "It loads" if isinstance(fixed.done, Written) else "It would load"
    order = suggested.undecided(fixed.suggestion, "; ")
    if fixed.report is not None:
        call, raised = fixed.report.outcome.loader.call, fixed.report.outcome.raised
        loads = f"{loads} by {call}" if raised is None else f"{call} raises {raised.partition(':')[0]}"
        stays = f", and {count(len(fixed.stays), 'key')} keep initial values" if fixed.stays else ""
        return f"{loads}{stays}{order}."
    if not fixed.stays:
        return f"{loads}{order}."
    new = "a head of another size" if fixed.whole else "not all of the model is in the file"
    return f"{loads} with strict=False, and {count(len(fixed.stays), 'key')} keep initial values: {new}{order}."
