"""The Typer program: its commands, each imported when it is used, and how it ends."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import ckptdiff
from ckptdiff.cli.streams import emit, show
from ckptdiff.errors import UsageError
from ckptdiff.places import is_url

COMMANDS = (
    "compare", "diff", "verify", "trace", "fix", "filter", "rewrite", "convert", "inspect", "browse", "digest", "lock",
    "suggest", "snapshot", "check", "init", "rules", "git",
)  # fmt: skip
"""Each is a module of this package with a `command` function and an `EXAMPLES` text."""

_HELP = {"help_option_names": ["--help", "-h"]}
_COMPLETE = "_CKPTDIFF_COMPLETE"
"""The variable by which a shell asks for completions."""


def _click_exception() -> Any:
    """The class of all errors on arguments. Typer's own Click is private in recent releases, a package in older ones;
    should it get another name, it is the widest class that can say what is wrong."""
    kinds = typer.BadParameter.__mro__
    able = [kind for kind in kinds if hasattr(kind, "format_message")]
    return next((kind for kind in kinds if kind.__name__ == "ClickException"), able[-1])


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. Raises UsageError for arguments that do not parse."""
    if arguments:  # a shell that asks for completions gives none; with some, a command is meant
        os.environ.pop(_COMPLETE, None)
    if arguments[:1] == ["--show-completion"] and len(arguments) == 2:
        os.environ[_COMPLETE] = f"source_{arguments[1]}"  # Typer's own option takes no shell, but this way does
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if _is_pair(arguments):
        arguments = ["diff", *arguments]
    try:
        code = get_command(app).main(arguments, prog_name="ckptdiff", standalone_mode=False)
    except _click_exception() as error:
        raise _usage_error(error) from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as error:
        # Typer leaves so after completion, before any command runs; from a command it is no answer.
        if os.environ.get(_COMPLETE) or arguments[:1] in (["--show-completion"], ["--install-completion"]):
            return int(error.code or 0)
        raise
    if code == 130:  # Typer's answer to KeyboardInterrupt, told by the cause alone in a command that returns codes
        raise KeyboardInterrupt
    return int(code or 0)


def _is_pair(arguments: list[str]) -> bool:
    """Whether two checkpoints are given and no command."""
    if len(arguments) < 2 or arguments[0] in COMMANDS or arguments[0].startswith("-"):
        return False
    return os.path.exists(arguments[0]) or is_url(arguments[0])  # noqa: PTH110


def _usage_error(error: Any) -> UsageError:
    """A Click error in our own style."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "ckptdiff"
    parameter = getattr(error, "param", None)
    if parameter is not None and type(error).__name__ == "MissingParameter":
        message = f"{parameter.name.upper()} is missing."  # Typer releases differ in what they call it
    else:
        message = error.format_message()
    return UsageError(message, f"`{where} --help` shows how it is used.")


class _AsGiven:
    """Takes the text of an option as it is."""

    def coerce(self, value: Any, param: Any, **_: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        return value


def _spare_pydantic(command: Any, ctx: Any) -> None:
    """Typer 0.29 imports pydantic to convert the value of each option that is no flag, which more than doubles the time
    the program takes to start. All ours are text and need no conversion. On releases that have not these names, which
    are private, nothing happens but that slower start."""
    if not hasattr(getattr(typer.core, "RuntimeParam", None), "coerce"):
        return
    for parameter in command.get_params(ctx):
        if getattr(parameter, "_runtime_param", parameter) is None:
            parameter._runtime_param = _AsGiven()


class _Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _spare_pydantic(self, ctx)
        return super().parse_args(ctx, args)


class _BeforeProgram(_Command):
    """A command that takes a whole command line as its last argument, which begins where its own options end."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        flags = import_module(f"ckptdiff.cli.{self.name}").FLAGS
        position = 0
        while position < len(args) and args[position].startswith("-") and args[position] not in ("-m", "--"):
            position += 1 if args[position] in flags or "=" in args[position] else 2
        if args[position : position + 1] == ["-m"]:
            args = [*args[:position], "--", *args[position:]]
        return super().parse_args(ctx, args)


class _Commands(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _spare_pydantic(self, ctx)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name in COMMANDS:
            return _load(cmd_name)
        self.commands = {name: _load(name) for name in COMMANDS}  # for Typer's "Did you mean"
        return None


def _load(name: str) -> Any:
    module = import_module(f"ckptdiff.cli.{name}")
    program = typer.Typer(add_completion=False, rich_markup_mode=None)
    before = hasattr(module, "FLAGS")
    settings = {**_HELP, **({"allow_interspersed_args": False} if before else {})}
    kind = _BeforeProgram if before else _Command
    program.command(name, cls=kind, context_settings=settings, epilog=f"\b\nExamples:\n{module.EXAMPLES}")(
        module.command
    )
    return get_command(program)


app = typer.Typer(
    cls=_Commands,
    context_settings=_HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    epilog="\b\nExamples:\n"
    "  ckptdiff compare model.py:Net weights.pth\n"
    "  ckptdiff compare torchvision:resnet50 resnet50.safetensors\n"
    "  ckptdiff diff old.pth new.safetensors\n"
    "  ckptdiff inspect checkpoint.ckpt\n"
    "\n\b\nExit codes: 0 yes, 1 no, 2 no answer, 130 interrupted.",
)


@app.callback(help=ckptdiff.__doc__)
def _program(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        emit(f"ckptdiff {ckptdiff.__version__}\n")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        show(context.get_help())
        raise typer.Exit(2)
