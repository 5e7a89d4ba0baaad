"""`ckptdiff verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptdiff.choices import one_of
from ckptdiff.cli import options
from ckptdiff.cli.streams import emit

EXAMPLES = """\
  ckptdiff verify weights.pth
  ckptdiff verify model.safetensors --lock weights.lock
  ckptdiff verify checkpoint/ --allow '*.mask' --format json"""


def command(
    checkpoint: options.Checkpoint,
    lock: Annotated[
        str | None, typer.Option("--lock", metavar="FILE", help="The digests that `ckptdiff lock` wrote down.")
    ] = None,
    key: options.Key = None,
    headers: Annotated[bool, typer.Option("--headers", help="Leave the values out: no NaN, no digests.")] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="GLOB", help="Keys that may be NaN, zero or without a scale; repeatable."),
    ] = None,
    format: Annotated[str, typer.Option("--format", metavar="text|json", help="What is printed.")] = "text",  # noqa: A002
    show_all: options.ShowAll = False,
) -> int:
    """Is this file whole and sane?

    Exits with 0 when nothing is wrong, 1 with a sentence for each fault, 2 for what cannot be read at all. Checksums,
    index and shards, `.sha256` files and locks are held against the bytes; NaN, zero weights and packed weights without
    their scales are faults.
    """
    from ckptdiff.cli.progress import shown_progress
    from ckptdiff.render import verified as render
    from ckptdiff.verbs.verify import verify

    one_of("format", format, ("text", "json"))
    with shown_progress() as progress:
        verification = verify(checkpoint, lock=lock, key=key, values=not headers, allow=allow or (), progress=progress)
    emit(render.json(verification) if format == "json" else render.text(verification, show_all=show_all))
    return 0 if verification.ok else 1
