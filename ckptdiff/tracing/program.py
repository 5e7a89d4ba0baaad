"""What a command line starts: a script or a module, with its arguments, also inside a launcher."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptdiff.choices import path_meant
from ckptdiff.errors import UsageError

_USAGE = "Write for example `ckptdiff trace sample.py`, or `ckptdiff trace -m package.module`."


@dataclass(frozen=True, slots=True)
class Program:
    """A program: `target` is the file of a script, or the name of a module; `arguments` are its own."""

    target: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False
    launched: bool = False
    """Whether a launcher starts it, which tells it its rank in the environment."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.target

    def run(self) -> None:
        """Run it as Python would, in this process. Raises whatever it raises."""
        if self.is_module:
            sys.argv = [self.target, *self.arguments]
            sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as Python puts it there
            runpy.run_module(self.target, run_name="__main__", alter_sys=True)
        else:
            sys.argv = [self.target, *self.arguments]
            sys.path.insert(0, str(Path(self.target).resolve().parent))
            runpy.run_path(self.target, run_name="__main__")


def parse_program(words: Sequence[str]) -> Program:
    """The program that a command line starts, `python`, `torchrun` or `accelerate launch` before it or not.

    Raises UsageError where it names none, or a script that is not there.
    """
    words = list(words)
    launched = False
    while words:
        name = Path(words[0]).name
        if name.startswith("python") and not name.endswith(".py"):
            words = _past_interpreter(words[1:])
        elif name == "torchrun" or words[:2] == ["-m", "torch.distributed.run"]:
            words, launched = _torchrun(words[1 if name == "torchrun" else 2 :]), True
        elif words[:2] == ["-m", "torch.distributed.launch"]:
            words, launched = _torchrun(words[2:]), True
        elif words[:2] == ["accelerate", "launch"] or words[:2] == ["-m", "accelerate.commands.launch"]:
            words, launched = _accelerate(words[2:]), True
        else:
            break
    if words[:1] == ["-m"]:
        if len(words) < 2:
            raise UsageError("-m names no module.", _USAGE)
        return Program(words[1], tuple(words[2:]), is_module=True, launched=launched)
    if not words or words[0].startswith("-"):
        raise UsageError("There is no program to trace.", _USAGE)
    if not Path(words[0]).exists():
        raise UsageError(f"{words[0]} does not exist.", path_meant(words[0]) or _USAGE)
    return Program(words[0], tuple(words[1:]), launched=launched)


_WITH_VALUE = ("-W", "-X")


def _past_interpreter(words: list[str]) -> list[str]:
    """What follows the options of Python itself."""
    while words and words[0].startswith("-") and words[0] != "-m":
        if words[0] == "-c":
            raise UsageError("Code given with -c cannot be traced.", "Write it into a file.")
        words = words[2 if words[0] in _WITH_VALUE else 1 :]
    return words


def _torchrun(words: list[str]) -> list[str]:
    from torch.distributed.run import get_args_parser

    return _launched(get_args_parser(), words)


def _accelerate(words: list[str]) -> list[str]:
    try:
        from accelerate.commands.launch import launch_command_parser
    except ImportError:
        raise UsageError(
            "accelerate is not installed, so its options are not known.", "Name the script itself."
        ) from None
    return _launched(launch_command_parser(), words)


def _launched(parser: object, words: list[str]) -> list[str]:
    """The script that a launcher's own parser finds, and its arguments."""
    try:
        parsed, _ = parser.parse_known_args(words)  # type: ignore[attr-defined]
    except SystemExit:
        raise UsageError("The launcher does not take these options.", _USAGE) from None
    module = ["-m"] if getattr(parsed, "module", False) else []
    return [*module, parsed.training_script, *parsed.training_script_args]
