"""`ckptdiff browse`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from ckptdiff.cli import options
from ckptdiff.errors import UsageError

EXAMPLES = """\
  ckptdiff browse weights.pth
  ckptdiff browse old.pth new.pth
  ckptdiff browse run.ckpt --key ema"""


def command(
    checkpoint: options.Checkpoint,
    other: Annotated[str | None, typer.Argument(metavar="OTHER", help="Another one, beside it.")] = None,
    key: options.Key = None,
) -> int:
    """Walk through what is in a checkpoint, or two side by side.

    A tree of the names, with / to search, s to sort by name or size, and q to leave. Reads headers alone and runs
    nothing in the file. Needs `pip install 'ckptdiff[browse]'`.
    """
    if find_spec("textual") is None:
        raise UsageError(
            "browse needs textual, which is not installed.", "Install it: `pip install 'ckptdiff[browse]'`."
        )
    from ckptdiff.verbs.inspect import inspect

    checkpoints = [inspect(path, key=key) for path in (checkpoint, other) if path is not None]
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("browse needs a terminal.", "`ckptdiff inspect` prints what is in the file.")
    from ckptdiff.browsing.browser import browse

    browse(checkpoints)
    return 0
