"""The loaders that have a name: what each needs, how it is recognised, and where its answer comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.errors import ModelError, UsageError
from ckptdiff.model.reference import Reference
from ckptdiff.spelling import given
from ckptdiff.suffixes import is_snapshot

if TYPE_CHECKING:
    from ckptdiff.loaders.asked import Asked
    from ckptdiff.loaders.left import Left


@dataclass(frozen=True, slots=True)
class Row:
    """One loader. `library` is what it needs beside torch, which is what the extra of that name installs, too.

    `module` has its `ask(asked: Asked) -> Left`, imported only when it answers. `recognised` tells by what the user
    named, a model and the path of a checkpoint, whether this is how people load it; it looks at names and directories,
    and imports nothing.
    """

    name: str
    library: str
    call: str
    module: str
    recognised: Callable[[object, str], bool]

    def ask(self, asked: Asked) -> Left:
        """What it leaves. Raises ModelError where its library is not installed, CkptdiffError without an answer."""
        if find_spec(self.library) is None:
            raise ModelError(
                f"{self.library} is not installed, whose {self.call} is asked.",
                f"Install it: `pip install 'ckptdiff[{self.name}]'`; {given('loader', 'torch')} asks load_state_dict.",
            )
        answer: Callable[[Asked], Left] = import_module(self.module).ask
        return answer(asked)


TORCH = "torch"
"""The name of the walk, which is no row: it is asked with the options that the others do not take."""


def _is_transformers(model: object, path: str) -> bool:
    return isinstance(model, Reference) and model.kind == "hf" and Path(path).exists() and not is_snapshot(path)


LOADERS: tuple[Row, ...] = (
    # The more particular ones first: the first that recognises what was named is the default.
    Row(
        "transformers",
        "transformers",
        "from_pretrained",
        "ckptdiff.loaders.transformers.from_pretrained",
        _is_transformers,
    ),
)

NAMES = (TORCH, *(row.name for row in LOADERS))


def named(name: str) -> Row | None:
    """The row of a name, None for torch. Raises UsageError for a name that there is not."""
    if name == TORCH:
        return None
    for row in LOADERS:
        if row.name == name:
            return row
    raise UsageError(
        f"{given('loader', name)}: there is no such loader.",
        f"Write {', '.join(NAMES)}, or a function such as load.py:load_weights.",
    )


def recognised(model: object, path: str) -> Row | None:
    """The loader that people call for what was named, None where that is torch's own."""
    return next((row for row in LOADERS if row.recognised(model, path)), None)
