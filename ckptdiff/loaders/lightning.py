"""Lightning: `load_from_checkpoint`, which makes the module from the hyper-parameters in the file and then loads it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from ckptdiff.errors import ModelError, UsageError
from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.left import Left
from ckptdiff.loaders.library_call import Seen, called, release, spelled, told_by_state_loads
from ckptdiff.loaders.outcome import Loader
from ckptdiff.model import user_code
from ckptdiff.model.build import home_of
from ckptdiff.model.reference import Reference
from ckptdiff.model.sandbox import contained

_OPTIONS = ("map_location", "hparams_file", "strict", "weights_only")


def ask(asked: Asked) -> Left:
    """What `load_from_checkpoint` of the model's class leaves; the model's arguments override the hyper-parameters."""
    asked.refuse_unknown_options("lightning", _OPTIONS)
    with _class_of(asked) as cls:
        package = _package(cls)
        given = f"load_from_checkpoint(path{spelled({**asked.options, **asked.args})})"
        live = not isinstance(asked.model, Reference)
        line = f"model = {'type(model)' if live else '{class}'}.{given}"
        text = f"{cls.__name__}.{given}"
        loader = Loader("lightning", release(package), text, "followed", (line,), takes_model=live)

        def load(seen: Seen) -> None:
            with told_by_state_loads(seen, cls):
                seen.module = cls.load_from_checkpoint(asked.path, **asked.options, **asked.args)

        return called(asked, loader, lambda _: load, package)[0]


@contextlib.contextmanager
def _class_of(asked: Asked) -> Iterator[Any]:
    """The LightningModule class that was named, with room for its code to run.

    Raises UsageError for what is none, ModelError where there is no such file or name.
    """
    model = asked.model
    if isinstance(model, nn.Module):
        yield _checked(type(model), type(model).__name__)
        return
    home = home_of(model) if isinstance(model, Reference) else None
    if home is None or not isinstance(model, Reference):
        raise UsageError("The lightning loader needs a LightningModule's class.", "Write for example model.py:Net.")
    with contained(model.target), user_code.importing(home):
        module = sys.modules.get(home.name) or home.load()
        if model.attr:
            yield _checked(user_code.take(module, model.attr, model.target), model.text)
            return
        own = [item for item in vars(module).values() if _is_lightning(item) and item.__module__ == module.__name__]
        if len(own) != 1:
            names = ", ".join(item.__name__ for item in own) or "none"
            raise ModelError(
                f"{model.text} has not one LightningModule but {names}.", f"Write for example `{model.text}:Net`."
            )
        yield own[0]


def _checked(loaded: object, name: str) -> object:
    if not _is_lightning(loaded):
        raise UsageError(
            f"{name} is no LightningModule's class, and only that has load_from_checkpoint.",
            "Name the class, or another loader.",
        )
    return loaded


def _is_lightning(item: object) -> bool:
    return isinstance(item, type) and bool(_package(item, ""))


def _package(cls: type, default: str = "lightning") -> str:
    """The package that a LightningModule is of: Lightning is published under two names."""
    for base in cls.__mro__:
        if base.__name__ == "LightningModule" and base.__module__.split(".")[0] in ("lightning", "pytorch_lightning"):
            return base.__module__.split(".")[0] if base is not cls else ""
    return default
