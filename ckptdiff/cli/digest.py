"""`ckptdiff digest`."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptdiff.choices import one_of
from ckptdiff.cli import options
from ckptdiff.cli.streams import emit

EXAMPLES = """\
  ckptdiff digest weights.pth
  ckptdiff digest model.safetensors --tensors"""


def command(
    checkpoint: options.Checkpoint,
    key: options.Key = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="That of each tensor as well, as a lock.")] = False,
    format: Annotated[str, typer.Option("--format", metavar="text|json", help="What is printed.")] = "text",  # noqa: A002
) -> int:
    """A name for the weights in a checkpoint: the same in every format.

    SHA-256 of dtypes, shapes, values and keys; `docs/digest.md` says of what exactly.
    """
    from ckptdiff.cli.progress import shown_progress
    from ckptdiff.difference.locks import text_of
    from ckptdiff.printable import json_text
    from ckptdiff.render.escape import plain
    from ckptdiff.requests import CheckpointRequest
    from ckptdiff.verbs.digest import digested

    one_of("format", format, ("text", "json"))
    with shown_progress() as progress:
        read, digests = digested(CheckpointRequest(checkpoint, key), progress)
    if format == "json":
        answer = {"schema_version": 1, "path": checkpoint, "whole": digests.whole, "tensors": dict(digests.tensors)}
        emit(json_text(answer, indent=2) + "\n")
    elif tensors:
        emit(text_of(read.tensors, digests))
    else:
        emit(f"{digests.whole}  {plain(checkpoint)}\n")
    return 0
