"""A command's work where it may run the model's code: in a process of its own. A snapshot runs none, and stays here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptdiff.cli.status_line import shown_in_place, shown_status
from ckptdiff.cli.streams import positive
from ckptdiff.requests import ModelRequest


def answered(
    work: Callable[..., Any],
    model: ModelRequest | None,
    *arguments: Any,
    timeout: str,
    about: str | None = None,
    **options: Any,
) -> Any:
    """What `work(model, *arguments, **options)` returns, and raises. `timeout` is the option's text; `about` names
    other code of the user's that runs, a loader's say."""
    seconds = positive("--timeout", timeout)
    if about is None and (model is None or not model.runs_code):
        with shown_in_place():
            return work(model, *arguments, **options)
    from ckptdiff.running.apart import run_apart

    name = about or (model.shown if model is not None else "")
    with shown_status():
        return run_apart(work, model, *arguments, about=name, timeout=seconds, **options)
