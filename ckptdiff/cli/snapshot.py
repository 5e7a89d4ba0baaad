"""`ckptdiff snapshot`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer

from ckptdiff.cli import options
from ckptdiff.cli.streams import emit, tell
from ckptdiff.errors import OutputError, UsageError

EXAMPLES = """\
  ckptdiff snapshot model.py:Net -o model.ckptdiff.json
  ckptdiff snapshot model.py:Net --check model.ckptdiff.json
  ckptdiff compare model.ckptdiff.json weights.pth
  ckptdiff compare model.py:Net model.ckptdiff.json"""


def command(
    model: options.Model,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write it; - to print.")] = None,
    check: Annotated[
        str | None, typer.Option("--check", metavar="FILE", help="Exit 1 if the model differs from this snapshot.")
    ] = None,
    arg: options.Args = None,
) -> int:
    """Write down the model's state-dict schema.

    The file says every key, shape and dtype, one line a tensor, so that a change of the model shows in review. It stands
    in for MODEL where there is no torch, and for CHECKPOINT where the weights are not at hand.
    """
    if (out is None) == (check is None):
        raise UsageError("`ckptdiff snapshot` takes either -o FILE or --check FILE.", "Write it first with -o.")
    from ckptdiff import api
    from ckptdiff.model.reference import parse_args

    text = api.snapshot(model, args=parse_args(arg or []))
    if check is not None:
        return _check(model, text, check)
    assert out is not None
    if out == "-":
        emit(text)
        return 0
    try:
        Path(out).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"{out} could not be written: {error.strerror}.", "Choose another place with -o.") from None
    tell(f"wrote {out}")
    return 0


def _check(model: str, text: str, path: str) -> int:
    from ckptdiff.model.snapshot import loads

    try:
        old = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} could not be read: {error}.", f"Write it with `ckptdiff snapshot {model} -o`.") from None
    loads(old, path)  # a file that is no snapshot gets a sentence, not a difference
    before, after = old.splitlines(), text.splitlines()
    # Which torch wrote it says nothing of the model.
    difference = list(difflib.unified_diff(before[1:], after[1:], path, model, lineterm="", n=0))
    if not difference:
        emit(f"{model} is as {path} says.\n")
        return 0
    shown = [line for line in difference if not line.startswith("@@")]
    emit("\n".join([f"{model} differs from {path}:", *shown]) + "\n")
    tell(f"hint: `ckptdiff compare {model} {path}` says what that means for saved weights; write it again with -o.")
    return 1
