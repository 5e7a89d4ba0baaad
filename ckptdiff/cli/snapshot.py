"""`ckptdiff snapshot`."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptdiff.cli import options
from ckptdiff.cli.own_process import answered
from ckptdiff.cli.streams import emit, tell
from ckptdiff.errors import UsageError
from ckptdiff.render.escape import plain
from ckptdiff.replacing import write_whole
from ckptdiff.small_files import text_of

EXAMPLES = """\
  ckptdiff snapshot model.py:Net -o model.ckptdiff.json
  ckptdiff snapshot model.py:Net --check model.ckptdiff.json
  ckptdiff compare model.ckptdiff.json weights.pth
  ckptdiff compare model.py:Net model.ckptdiff.json
  ckptdiff snapshot model.py:Net weights.pth --loader load.py:load -o loaded.ckptdiff.json"""

_SHOWN = 200
"""Lines of a difference that are shown; who wants all of it writes the snapshot again and asks git."""


def command(
    model: options.Model,
    checkpoint: Annotated[
        str | None,
        typer.Argument(metavar="[CHECKPOINT]", help="What the loader is given; alone where it makes the model."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write it; - to print.")
    ] = None,
    check: Annotated[
        str | None, typer.Option("--check", metavar="FILE", help="Exit 1 if the model differs from this snapshot.")
    ] = None,
    loader: options.Loader = None,
    loader_arg: options.LoaderArgs = None,
    arg: options.Args = None,
    device: options.Device = None,
    trust_checkpoint: options.TrustCheckpoint = False,
    trust_remote_code: options.TrustRemoteCode = False,
    timeout: options.Timeout = "600",
) -> int:
    """Write down the model's state-dict schema.

    The file says every key, shape and dtype, one line a tensor, so that a change of the model shows in review. It
    stands in for MODEL where there is no torch, and for CHECKPOINT where the weights are not at hand.
    With --loader, the schema of the model as that leaves it.
    """
    if (out is None) == (check is None):
        raise UsageError("`ckptdiff snapshot` takes either -o FILE or --check FILE.", "Write it first with -o.")
    from ckptdiff.model.reference import parse_args
    from ckptdiff.requests import LoaderRequest, ModelRequest
    from ckptdiff.verbs.snapshot import snapshot_of

    loader_args, model_args = parse_args(loader_arg or [], "loader_args"), parse_args(arg or [])
    loads = LoaderRequest.of(loader, loader_args, trust_checkpoint, trust_remote_code, model_args)
    asked: ModelRequest | None = None
    if loads is not None and checkpoint is None and not model.startswith("hf:"):
        checkpoint = model  # the loader makes the model
    else:
        asked = ModelRequest.of(model, model_args, device)
    text = answered(snapshot_of, asked, checkpoint, loads, about=loader, timeout=timeout)
    if check is not None:
        return _check(model, text, check)
    assert out is not None
    if out == "-":
        emit(text)
        return 0
    write_whole(out, text)
    tell(f"wrote {out}")
    return 0


def _check(model: str, text: str, path: str) -> int:
    from ckptdiff.model.snapshot_drift import drift

    old = text_of(path, f"Write it with `ckptdiff snapshot {model} -o`.")
    difference = drift(old, text, path)
    if not difference:
        emit(f"{plain(model)} is as {plain(path)} says.\n")
        return 0
    shown = [plain(line, 400) for line in difference]
    rest = [f"... ({len(shown) - _SHOWN:,} more lines)"] if len(shown) > _SHOWN else []
    emit("\n".join([f"{plain(model)} differs from {plain(path)}:", *shown[:_SHOWN], *rest]) + "\n")
    tell(f"hint: `ckptdiff compare {model} {path}` says what that means for saved weights; write it again with -o.")
    return 1
