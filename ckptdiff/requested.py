"""What a verb was asked, to be asked again otherwise, and what is left of it: values out of requests and reports."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.how_saved import saved_as
from ckptdiff.judging.question import Left, Question
from ckptdiff.model.reference import Reference, parse_reference
from ckptdiff.renaming.applied import Renames

if TYPE_CHECKING:
    from ckptdiff.checkpoint.checkpoint import Checkpoint
    from ckptdiff.judging.report import Report
    from ckptdiff.model.build import Built
    from ckptdiff.model.tree import ModuleNode
    from ckptdiff.model.user_code import Home
    from ckptdiff.requests import CheckpointRequest, LoaderRequest, ModelRequest


def question_of(
    model: ModelRequest | None,
    checkpoint: CheckpointRequest,
    file: Checkpoint,
    built: Built | None = None,
    *,
    loader: LoaderRequest | None = None,
    assign: bool = False,
    made: ModuleNode | None = None,
) -> Question:
    """What was asked, to be asked again otherwise. `made` is the model that a loader was given or has made."""
    given = checkpoint.checkpoint
    named = isinstance(given, (str, os.PathLike))
    loads = "" if loader is None else loader.loader
    attr = built.reference.rpartition(":")[2] if built is not None and built.home is not None else ""
    home = _home(built.home, model.shown) if built and built.home and model else ("", "")
    ready: bool | None = built is not None and built.ready
    reference = None if model is None else model.model
    if built is None and made is not None and made.class_name and isinstance(reference, Reference):
        attr, home = _name_of(reference, made.class_name)
        ready = False if attr == made.class_name else None
    return Question(
        model="" if model is None else model.shown,
        checkpoint=os.fspath(given) if named else "",  # type: ignore[arg-type]
        args=model.args if model is not None else loader.model_args if loader is not None else {},
        key=checkpoint.key,
        renames=checkpoint.renames or Renames(),
        loader=loads if isinstance(loads, str) else getattr(loads, "name", "function"),
        loading={} if loader is None else loader.given(),
        assign=assign,
        loader_home=_home_of_loader(loads),
        ready=ready,
        attr=attr,
        home=home,
        saved=saved_as(file),
    )


def _name_of(reference: Reference, class_name: str) -> tuple[str, tuple[str, str]]:
    """The name that was meant, where a reference leaves it open that of the class if its file has it, and its home."""
    from ckptdiff.model.build import home_of

    home = home_of(reference)
    if home is None:
        return "", ("", "")
    text = "" if home.file is None else home.file.read_text("utf-8", "replace")
    there = re.search(rf"^class {re.escape(class_name)}\b", text, re.MULTILINE)
    return reference.attr or (class_name if there else ""), _home(home, reference.target)


def _home_of_loader(loader: object) -> tuple[str, str]:
    if not isinstance(loader, str) or ":" not in loader:
        return "", ""
    return _name_of(parse_reference(loader), "")[1]


def _home(home: Home, reference: str) -> tuple[str, str]:
    """The folder, as short as it can be said from here, and the name, of what is imported from it."""
    absolute = os.path.isabs(reference) and not home.directory.is_relative_to(Path.cwd())  # noqa: PTH117 - text
    try:
        folder = str(home.directory) if absolute else os.path.relpath(home.directory)
    except ValueError:  # on another drive
        folder = str(home.directory)
    name = home.name if home.file is None else home.file.stem
    importable = all(part.isidentifier() for part in name.split(".")) and name not in sys.stdlib_module_names
    return "" if folder == "." else folder, name if importable else ""


def left_of(renames: Renames, repaired: Report) -> Left:
    """What stands in the way after renaming, by the report on that."""
    kinds = {problem.kind for problem in repaired.outcome.problems}
    return Left(
        renames,
        sum(1 for _ in repaired.outcome.loaded()),
        tuple(repaired.missing_keys),
        tuple(repaired.unexpected_keys),
        tuple(key for key, _, _ in repaired.mismatched_keys),
        bool(repaired.outcome.raised or kinds - {"missing", "unexpected", "mismatched"}),
    )
