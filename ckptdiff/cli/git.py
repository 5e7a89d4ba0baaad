"""`ckptdiff git`: checkpoints in `git diff` and `git log -p`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from ckptdiff.choices import one_of
from ckptdiff.cli.streams import emit, tell
from ckptdiff.errors import UsageError
from ckptdiff.replacing import write_whole

EXAMPLES = """\
  ckptdiff git install
  ckptdiff git install --print
  git diff HEAD~1 -- weights.safetensors"""

DRIVER = "ckptdiff"
PATTERNS = ("*.safetensors", "*.pth", "*.pt", "*.ckpt")


def command(
    what: Annotated[str, typer.Argument(metavar="install|textconv", help="What is to be done.")],
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="For textconv: what git hands over.")] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Show what would be set, and set nothing.")] = False,
    everywhere: Annotated[
        bool, typer.Option("--global", help="Set the driver for all repositories of the user.")
    ] = False,
) -> int:
    """Have git show what changed in checkpoints, values included.

    `install` sets `diff.ckptdiff.textconv` in the repository's configuration and the lines of its .gitattributes.
    `textconv FILE` is what git then runs.
    """
    one_of("what", what, ("install", "textconv"))
    if what == "textconv":
        if file is None:
            raise UsageError("textconv takes the file that git hands over.", "git runs it: see `ckptdiff git install`.")
        from ckptdiff.verbs.textconv import textconv

        emit(textconv(file))
        return 0
    if file is not None:
        raise UsageError("install takes no file: it is for a repository.", "Leave it out.")
    driver = f"{shlex.quote(sys.executable)} -m ckptdiff git textconv"
    if print_only:
        scope = " --global" if everywhere else ""
        emit(
            f"git config{scope} diff.{DRIVER}.textconv {shlex.quote(driver)}\n"
            f"git config{scope} diff.{DRIVER}.cachetextconv true\n"
            "\n# .gitattributes\n" + "".join(f"{line}\n" for line in _lines())
        )
        return 0
    root = Path(_git("rev-parse", "--show-toplevel").rstrip("\n"))
    scope = "--global" if everywhere else "--local"
    _git("config", scope, f"diff.{DRIVER}.textconv", driver)
    _git("config", scope, f"diff.{DRIVER}.cachetextconv", "true")
    tell(f"set diff.{DRIVER}.textconv")
    attributes = root / ".gitattributes"
    try:
        text = attributes.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{attributes} could not be read: {error}.", "Add the lines of --print to it.") from None
    missing = [line for line in _lines() if not _has(text, line)]
    if missing:
        if text and not text.endswith("\n"):
            text += "\n"
        write_whole(attributes, text + "".join(f"{line}\n" for line in missing))
        tell(f"added {len(missing)} lines to {attributes}")
    return 0


def _lines() -> list[str]:
    return [f"{pattern} diff={DRIVER}" for pattern in PATTERNS]


def _has(text: str, line: str) -> bool:
    """Whether a line for this pattern names the driver already, among other attributes."""
    pattern, attribute = line.split()
    rows = (row.split() for row in text.splitlines())
    return any(row[:1] == [pattern] and attribute in row for row in rows)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise UsageError(f"git cannot be run: {error.strerror}.", "Install it.") from None
    if done.returncode:
        said = (done.stderr.strip() or "it failed").splitlines()[0]
        raise UsageError(f"git {arguments[0]} says: {said}", "Run it in a repository.")
    return done.stdout
