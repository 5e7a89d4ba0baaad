"""A command's work where it may run the model's code: in a process of its own. A snapshot runs none, and stays here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptdiff.cli.streams import positive
from ckptdiff.requests import ModelRequest


def answered(work: Callable[..., Any], model: ModelRequest, *arguments: Any, timeout: str, **options: Any) -> Any:
    """What `work(model, *arguments, **options)` returns, and raises. `timeout` is the option's text."""
    seconds = positive("--timeout", timeout)
    if not model.runs_code:
        return work(model, *arguments, **options)
    from ckptdiff.running.apart import run_apart

    return run_apart(work, model, *arguments, about=model.shown, timeout=seconds, **options)
