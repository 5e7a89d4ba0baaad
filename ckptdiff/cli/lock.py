"""`ckptdiff lock`."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptdiff.cli import options
from ckptdiff.cli.streams import emit, tell

EXAMPLES = """\
  ckptdiff lock weights.safetensors -o weights.lock
  ckptdiff verify weights.safetensors --lock weights.lock
  ckptdiff diff weights.lock new.pth"""


def command(
    checkpoint: options.Checkpoint,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Where it goes; printed without.")
    ] = None,
    key: options.Key = None,
) -> int:
    """Write down the digests of a checkpoint's tensors, as text that can be reviewed.

    A lock stands for its checkpoint as A or B of `diff`, and `verify` holds a checkpoint against it.
    """
    from ckptdiff.cli.progress import shown_progress
    from ckptdiff.replacing import write_whole
    from ckptdiff.requests import CheckpointRequest
    from ckptdiff.verbs.lock import locked

    with shown_progress() as progress:
        whole, text = locked(CheckpointRequest(checkpoint, key), progress)
    if out is None:
        emit(text)
    else:
        write_whole(out, text)
        tell(f"wrote {out}, of {whole}")
    return 0
