"""A model as the user gave it → one that is there: live, described, read from a snapshot, or built from a reference."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptdiff.model.reference import Reference
from ckptdiff.model.tree import ModuleTree

if TYPE_CHECKING:
    from torch import nn

    from ckptdiff.model.build import Built


@dataclass(frozen=True, slots=True)
class GivenModel:
    """A model that is there. `notes` says how it was built; `reference` is None for one that the caller had."""

    tree: ModuleTree
    reference: Reference | None = None
    notes: tuple[str, ...] = ()
    args: Mapping[str, object] = field(default_factory=dict)
    built: Built | None = None

    @property
    def shown(self) -> str:
        """What the user called it, "" for a live one."""
        return "" if self.reference is None else self.reference.text

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Room for more of the model's code, its hooks say, where ckptdiff has built it; a live model's is trusted."""
        return contextlib.nullcontext() if self.built is None else self.built.running()

    def with_values(self) -> GivenModel:
        """The same model with its initial values; itself where it was not built here."""
        if self.built is None or self.reference is None:
            return self
        return _built(self.reference, self.args, with_values=True)


def describe(model: Reference | ModuleTree | nn.Module, args: Mapping[str, object]) -> GivenModel:
    """The model, built with `args` where it is a reference. Raises CkptdiffError where it does not build."""
    if isinstance(model, ModuleTree):
        return GivenModel(model)
    if not isinstance(model, Reference):
        from ckptdiff.model.extract import extract

        return GivenModel(extract(model))
    if model.kind == "snapshot":
        from ckptdiff.model.snapshot import read_snapshot

        return GivenModel(read_snapshot(model.target), model)
    return _built(model, args)


def _built(reference: Reference, args: Mapping[str, object], *, with_values: bool = False) -> GivenModel:
    from ckptdiff.model.build import build
    from ckptdiff.model.extract import extract

    built = build(reference, args, with_values=with_values)
    tree = replace(extract(built.module, built.reference, built.how), remarks=built.remarks)
    return GivenModel(tree, reference, built.notes, args, built)
