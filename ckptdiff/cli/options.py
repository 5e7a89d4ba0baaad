"""The arguments and options that several commands share, each said once."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="model.py, model.py:Net, package.module:factory, torchvision:NAME, timm:NAME, hf:DIRECTORY or a snapshot.",
    ),
]
CHECKPOINT_HELP = (
    "A .safetensors, .pth, .pt, .bin or .ckpt file of any torch, a directory of shards, a snapshot or a URL."
)
Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help=CHECKPOINT_HELP)]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="A.B",
        help="Where in the file the state dict is (model, policy.encoder, 0); looked for without.",
    ),
]
Args = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="NAME=VALUE", help="Argument for the model, a Python literal; repeatable."),
]
Format = Annotated[
    str, typer.Option("--format", metavar="auto|rich|text|json", help="auto: rich on a terminal, else text.")
]
RunFormat = Annotated[
    str,
    typer.Option(
        "--format", metavar="FORMAT", help="text, rich, json, markdown, github, junit, sarif, html; auto: rich or text."
    ),
]
Color = Annotated[
    str, typer.Option("--color", metavar="auto|always|never", help="auto: NO_COLOR, FORCE_COLOR, terminal.")
]
ShowAll = Annotated[bool, typer.Option("--all", help="Show every row, however many.")]
Timeout = Annotated[
    str, typer.Option("--timeout", metavar="SECONDS", help="How long the model's code and the comparison may take.")
]
FailOn = Annotated[
    str,
    typer.Option("--fail-on", metavar="error|warning|note", help="Exit 1 for findings of this level and graver."),
]
StripPrefix = Annotated[
    list[str] | None,
    typer.Option(
        "--strip-prefix", metavar="A.", help="Leading components to take off the checkpoint's keys; repeatable."
    ),
]
AddPrefix = Annotated[
    str, typer.Option("--add-prefix", metavar="A.", help="Components to put before every key of the checkpoint.")
]
Rename = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="'A -> B'", help="A rename rule such as 'encoder.{*} -> {*}'; repeatable."),
]
Rules = Annotated[
    str | None, typer.Option("--rules", metavar="FILE", help="A file of rename rules, as `ckptdiff suggest` saves it.")
]
Reverse = Annotated[bool, typer.Option("--reverse", help="Apply the rules the other way round.")]
Report = Annotated[
    list[str] | None,
    typer.Option(
        "--report",
        metavar="[FORMAT=]PATH",
        help="Write a report in one of the formats as well, without FORMAT by the path's ending; repeatable.",
    ),
]
Loader = Annotated[
    str | None,
    typer.Option(
        "--loader",
        metavar="NAME|FILE.py:FUNC",
        help="Who loads: torch, transformers, diffusers, timm, peft, lightning, dcp, accelerate, or a function of "
        "model and path or of the path alone. Without it, who usually does: transformers for hf:DIRECTORY.",
    ),
]
LoaderOrTorch = Annotated[
    str | None,
    typer.Option(
        "--loader",
        metavar="NAME|FILE.py:FUNC",
        help="Who loads, as for compare; load_state_dict without it.",
    ),
]
LoaderArgs = Annotated[
    list[str] | None,
    typer.Option("--loader-arg", metavar="NAME=VALUE", help="Argument for a loader of a name; repeatable."),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the loader run the code that lies beside the weights.")
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="cuda|cpu", help="As on which machine; this one, or what the code asks for."),
]
TrustCheckpoint = Annotated[
    bool, typer.Option("--trust-checkpoint", help="Let the loader make the objects that the file names, by their code.")
]
Include = Annotated[
    str | None, typer.Option("--include", metavar="likely", help="Propose what is probable but not proven, too.")
]
Heads = Annotated[
    str | None,
    typer.Option(
        "--heads",
        metavar="N[,KV]",
        help="Attention heads, and those of keys, to reorder rotary rows; a config.json beside the file says them.",
    ),
]
Adapt = Annotated[
    list[str] | None,
    typer.Option(
        "--adapt",
        metavar="GLOB=HOW",
        help="Fit shapes: slice, pad, repeat-channels, interpolate, squeeze, transpose, dequantize; repeatable.",
    ),
]
FillMissing = Annotated[bool, typer.Option("--fill-missing", help="Complete it with the model's own initial values.")]
Seed = Annotated[str, typer.Option("--seed", metavar="N", help="The seed of those values.")]


def is_likely(include: str | None) -> bool:
    """Whether what is likely is asked for. Raises UsageError for anything else that is."""
    if include is not None:
        from ckptdiff.choices import one_of

        one_of("include", include, ("likely",))
    return include is not None


def heads_in(text: str | None) -> tuple[int, int] | None:
    """`32` or `32,8` as the heads of queries and of keys. Raises UsageError for what is neither."""
    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) > 2 or not all(number.isdecimal() and int(number[:9]) > 0 for number in numbers):
        from ckptdiff.errors import UsageError
        from ckptdiff.spelling import given

        raise UsageError(f"{given('heads', text)} is not one or two numbers of heads.", "Write 32, or 32,8.")
    return int(numbers[0]), int(numbers[-1])
