"""A recorded run that was good, which another one is held against: its JSON document, read as input."""

from __future__ import annotations

from collections.abc import Mapping

from ckptdiff.errors import UsageError
from ckptdiff.small_files import json_of, text_of
from ckptdiff.spelling import option

Good = Mapping[str, frozenset[str]]
"""Every class of model that a checkpoint reached → the keys of it that kept initial values."""


def read_good_run(path: str) -> Good:
    """What `trace --save` has written. Raises UsageError where that is not what the file holds."""
    hint = f"Record it with `ckptdiff trace {option('save')} FILE`."
    try:
        document = json_of(text_of(path, hint))
    except ValueError as error:
        raise UsageError(f"{path} is no recorded trace: {error}.", hint) from None
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, list) or not all(map(_is_model, models)):
        raise UsageError(f"{path} is no recorded trace.", hint)
    return {model["class"]: frozenset((*model["initial"], *model["overwritten"])) for model in models if model["asked"]}


def _is_model(model: object) -> bool:
    return (
        isinstance(model, dict)
        and isinstance(model.get("class"), str)
        and isinstance(model.get("asked"), bool)
        and all(
            isinstance(model.get(name), list) and all(isinstance(key, str) for key in model[name])
            for name in ("initial", "overwritten")
        )
    )
