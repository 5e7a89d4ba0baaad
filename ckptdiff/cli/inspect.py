"""`ckptdiff inspect`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, cast

import typer

from ckptdiff.choices import one_of
from ckptdiff.cli import options
from ckptdiff.cli.streams import chosen_format, emit, tell, view_of
from ckptdiff.render import render_checkpoint
from ckptdiff.render.view import Sort

EXAMPLES = """\
  ckptdiff inspect model.safetensors
  ckptdiff inspect run.ckpt --key ema
  ckptdiff inspect model.pth --tensors '*.bias' --sort size
  ckptdiff inspect model.pth --hash
  ckptdiff inspect model.pth --format json"""


def command(
    checkpoint: options.Checkpoint,
    key: options.Key = None,
    tensors: Annotated[
        str | None, typer.Option("--tensors", metavar="GLOB", help="Only these, one by one; * matches dots too.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="size|name|file", help="One by one, in this order.")
    ] = None,
    with_hash: Annotated[
        bool, typer.Option("--hash", help="The digest of all values and of each tensor; reads the whole file.")
    ] = False,
    strip_prefix: options.StripPrefix = None,
    add_prefix: options.AddPrefix = "",
    rename: options.Rename = None,
    rules: options.Rules = None,
    reverse: options.Reverse = False,
    format: options.Format = "auto",  # noqa: A002 - the option's own name
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
) -> int:
    """What is in a checkpoint?

    Reads headers alone (with --hash the values too), imports no torch and runs nothing the file names.
    """
    chosen = chosen_format(format)
    view = view_of(chosen, color, all=show_all)
    if sort is not None:
        view = replace(view, sort=cast("Sort", one_of("sort", sort, ("size", "name", "file"))))
    view = replace(view, tensors=tensors)

    from ckptdiff.requests import renames_of
    from ckptdiff.verbs.inspect import inspect

    file = inspect(checkpoint, key=key)
    renames = renames_of(strip_prefix, add_prefix, rename, rules, reverse=reverse)
    if renames:
        from ckptdiff.renaming.applied import renamed

        file, idle = renamed(file, renames)
        for sentence in idle:
            tell(f"warning: {sentence}")
    if with_hash:
        from ckptdiff.cli.progress import shown_progress
        from ckptdiff.contents.digests import digests_of

        with shown_progress() as progress:
            view = replace(view, digests=digests_of(file, progress=progress))
    emit(render_checkpoint(chosen, file, view))
    return 0
