"""What changed between two snapshots, told as the lines of the files."""

from __future__ import annotations

import difflib
import json

from ckptdiff.model.snapshot import dumps, loads
from ckptdiff.printable import json_text


def drift(old: str, new: str, path: str) -> list[str]:
    """The lines of `old`, the text of the snapshot file at `path`, that are gone (`-`) and those of `new` (`+`).

    Empty when both say the same of the model, however they are formatted and whichever torch wrote them. Raises
    ModelError when `old` is no snapshot.
    """
    before, after = _lines(dumps(loads(old, path))), _lines(new)
    difference = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
    return [line for line in difference if not line.startswith("@@")]


def _lines(text: str) -> list[str]:
    """The lines of a snapshot without what says nothing of the model: which torch wrote it, and commas between rows."""
    head, *rows = text.splitlines()
    about = json.loads(head.removesuffix(",") + "}")
    for name in ("torch", "vector_into_scalar"):
        about.pop(name, None)
    return [json_text(about, readable=True), *(row.removesuffix(",") for row in rows)]
