"""`ckptdiff diff`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, cast

import typer

from ckptdiff.choices import one_of
from ckptdiff.cli import options
from ckptdiff.cli.streams import chosen_format, emit, tell, view_of
from ckptdiff.errors import UsageError
from ckptdiff.render.view import Sort

EXAMPLES = """\
  ckptdiff diff old.pth new.safetensors
  ckptdiff diff run1.ckpt run2.ckpt --key-a ema --key-b model
  ckptdiff diff base/ tuned/ --sort change --all
  ckptdiff diff a.pth b.pth --quick
  ckptdiff diff model.pth weights.lock"""

SIDE = "A checkpoint: a file, a folder of shards, a URL or a lock."


def command(
    a: Annotated[str, typer.Argument(metavar="A", help=SIDE)],
    b: Annotated[str, typer.Argument(metavar="B", help=SIDE)],
    structure: Annotated[bool, typer.Option("--structure", help="Names, dtypes and shapes alone, no values.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="By the checksums in torch's files, of 32 bits, without reading values.")
    ] = False,
    atol: Annotated[str, typer.Option("--atol", metavar="X", help="Allow |a - b| <= atol + rtol * |b|.")] = "0",
    rtol: Annotated[str, typer.Option("--rtol", metavar="X", help="The other half of it.")] = "0",
    key_a: Annotated[str | None, typer.Option("--key-a", metavar="A.B", help="Where in A its state dict is.")] = None,
    key_b: Annotated[str | None, typer.Option("--key-b", metavar="A.B", help="Where in B its state dict is.")] = None,
    keys: Annotated[list[str] | None, typer.Option("--keys", metavar="GLOB", help="Only these; repeatable.")] = None,
    strip_prefix: options.StripPrefix = None,
    add_prefix: options.AddPrefix = "",
    rename: options.Rename = None,
    rules: options.Rules = None,
    reverse: options.Reverse = False,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="change|size|name", help="Changed ones one by one, in this order.")
    ] = None,
    stat: Annotated[bool, typer.Option("--stat", help="A line for each module.")] = False,
    name_only: Annotated[bool, typer.Option("--name-only", help="The names of what differs.")] = False,
    with_hash: Annotated[bool, typer.Option("--hash", help="Show the digests of what differs as well.")] = False,
    fail_on: Annotated[
        str, typer.Option("--fail-on", metavar="values|structure", help="Exit 1 for any difference, or of structure.")
    ] = "values",
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Have the workers of a Dask scheduler read.")
    ] = None,
    format: Annotated[  # noqa: A002 - the option's own name
        str, typer.Option("--format", metavar="FORMAT", help="text, rich, json, markdown, html; auto: rich or text.")
    ] = "auto",
    report: options.Report = None,
    show_all: options.ShowAll = False,
    color: options.Color = "auto",
) -> int:
    """What differs between two checkpoints, down to the values?

    Exits with 0 when they are the same weights, 1 when they differ, 2 when there is no answer. Names, containers and
    dtypes may differ as long as every value survives. No torch is imported.
    """
    from ckptdiff.cli.progress import shown_progress
    from ckptdiff.cli.report_files import parse_reports
    from ckptdiff.cli.streams import tolerance
    from ckptdiff.difference.differing import DiffOptions
    from ckptdiff.render import DIFFERENCES, OWN, render_difference
    from ckptdiff.replacing import write_whole
    from ckptdiff.requests import CheckpointRequest, renames_of
    from ckptdiff.verbs.diff import chosen, diffed

    form = chosen_format(format, ("auto", *DIFFERENCES))
    reports = parse_reports(report or [], tuple(DIFFERENCES))
    one_of("fail_on", fail_on, ("values", "structure"))
    if sort is not None:
        one_of("sort", sort, ("change", "size", "name"))
    if stat and name_only:
        raise UsageError("--stat and --name-only are two ways of showing the same.", "Choose one of them.")
    if structure and quick:
        raise UsageError("--structure looks at no values, and --quick at their checksums.", "Choose one of them.")
    view = replace(
        view_of(form, color, all=show_all),
        sort=cast("Sort | None", sort),
        listing="stat" if stat else "names" if name_only else "",
    )
    how = DiffOptions(
        values=not structure,
        quick=quick,
        atol=tolerance("--atol", atol),
        rtol=tolerance("--rtol", rtol),
        keys=chosen(tuple(keys or ())),
        scheduler=scheduler,
        histograms="html" in (form, *(name for name, _ in reports)),
    )
    request = CheckpointRequest(a, key_a, renames_of(strip_prefix, add_prefix, rename, rules, reverse=reverse))
    other = CheckpointRequest(b, key_b)
    with shown_progress() as progress:
        # Whoever sees a progress bar sees at once what is known before it.
        how = replace(how, progress=progress, tell=None if progress is None else tell)
        difference = diffed(request, other, how, hashed=with_hash)
    emit(render_difference(form, difference, view), own=form in OWN)
    for name, path in reports:
        write_whole(path, render_difference(name, difference, view))
        tell(f"wrote {path}")
    return 1 if difference.fails("structure" if fail_on == "structure" else "values") else 0
