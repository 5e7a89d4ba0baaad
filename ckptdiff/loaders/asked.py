"""What a loader is asked, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptdiff.errors import UsageError
from ckptdiff.model.reference import Reference
from ckptdiff.model.tree import ModuleTree
from ckptdiff.spelling import given, option

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Asked:
    """A model as the user named it, with the arguments to build it, a checkpoint, and what the loader is to be told.

    `model` is None where the loader makes it. `options` are those of `loader_args`. `trust_checkpoint` lets objects
    that the file names be made, `trust_remote_code` lets code run that lies beside the weights.
    """

    model: Reference | ModuleTree | nn.Module | None
    path: str
    args: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    trust_checkpoint: bool = False
    trust_remote_code: bool = False

    @property
    def shown(self) -> str:
        """What the user called the model, "" for one that is there."""
        return self.model.text if isinstance(self.model, Reference) else ""

    def refuse_arguments(self) -> None:
        """Raise UsageError for arguments of a model that the loader makes without any."""
        if self.args:
            raise UsageError(
                f"{option('args')} is for a model that ckptdiff builds, and here the loader makes it.",
                "Leave it out.",
            )

    def refuse_unknown_options(self, loader: str, known: tuple[str, ...]) -> None:
        """Raise UsageError for an option that a loader of so many words does not take."""
        for name in self.options:
            if name not in known:
                takes = f"It takes {', '.join(known)}." if known else "It takes none."
                raise UsageError(
                    f"{given('loader_args', name)}: the loader {loader} takes no such argument.",
                    f"{takes} {option('args')} is for the model.",
                )
