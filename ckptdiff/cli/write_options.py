"""What the commands that write share: their options, the progress bar, and what they print."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ckptdiff.cli.progress import shown_progress
from ckptdiff.cli.streams import tell
from ckptdiff.spelling import given

if TYPE_CHECKING:
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.render.view import View
    from ckptdiff.writing.execute import Job, Progress, Written

_T = TypeVar("_T")

Out = Annotated[
    str,
    typer.Option("--out", "-o", metavar="OUT", help="OUT.safetensors, OUT.pth (.pt, .bin, .ckpt), or a directory."),
]
DropGlobs = Annotated[
    list[str] | None, typer.Option("--drop", metavar="GLOB", help="Leave these keys out; repeatable.")
]
KeepGlobs = Annotated[
    list[str] | None, typer.Option("--keep", metavar="GLOB", help="Leave all other keys out; repeatable.")
]
DropPrefix = Annotated[
    list[str] | None, typer.Option("--drop-prefix", metavar="A.", help="Leave out keys below this; repeatable.")
]
Dtype = Annotated[str, typer.Option("--dtype", metavar="DTYPE", help="Convert floating-point tensors, e.g. bfloat16.")]
KeepContainer = Annotated[
    bool, typer.Option("--keep-container", help="Keep epoch, optimizer and the like around it (.pth only).")
]
DropEntry = Annotated[
    list[str] | None,
    typer.Option("--drop-entry", metavar="NAME", help="Keep all but this of what is around it; repeatable."),
]
SharedChoice = Annotated[
    str | None,
    typer.Option(
        "--shared", metavar="drop|copy", help="Tied tensors in safetensors: once, or each for itself (filter)."
    ),
]
MaxShardSize = Annotated[
    str | None, typer.Option("--max-shard-size", metavar="SIZE", help="Shards of at most this, e.g. 5GB.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be written, and write nothing.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
ForceDamaged = Annotated[
    bool, typer.Option("--force-damaged", help="Copy what does not have its checksum, too, to save what is left.")
]
VerifyBytes = Annotated[bool, typer.Option("--verify-bytes", help="Read everything back and compare checksums.")]
NoFsync = Annotated[bool, typer.Option("--no-fsync", help="Do not wait for the disk; a power cut may lose the file.")]


def written(
    run: Callable[[Progress | None], Job | Written],
    *,
    chosen: str,
    view: View,
) -> str:
    """Run it with a progress bar where there is someone to see it; the text on what came of it."""
    from ckptdiff.render import render_written

    return render_written(chosen, with_progress(run), view)


def with_progress(run: Callable[[Progress | None], _T]) -> _T:
    """Run what copies with a progress bar where there is someone to see it."""
    from ckptdiff.running.apart import alive

    with shown_progress() as bar:

        def progress(done: int, total: int) -> None:
            alive()  # copying takes as long as it takes
            if bar is not None:
                bar(done, total)

        return run(progress)


def save(renames: Renames, file: str | None) -> None:
    """Write the rules that are proposed to a file, if one is named, and say so."""
    if file is None:
        return
    if not renames:
        tell(f"{file} is not written, since there are no rules to save")
        return
    from ckptdiff.renaming.rules_file import write_rules

    write_rules(file, renames.rules, renames.operations)
    stripped = " ".join(given("strip_prefix", prefix) for prefix in renames.strip_prefix)
    tell(f"wrote {file}{f', to be used with {stripped}' if stripped else ''}")
