"""A model as the user gave it → one that is there: live, described, read from a snapshot, or built from a reference."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptdiff.model.reference import Reference
from ckptdiff.model.tree import ModuleTree
from ckptdiff.stages import doing

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
    others: tuple[GivenModel, ...] = ()
    """What it is on other machines, where its code goes by the machine."""

    @property
    def device(self) -> str:
        """The kind of device of the machine that it was built on; `cpu` for none."""
        return "cpu" if self.built is None else self.built.host.kind

    @property
    def shown(self) -> str:
        """What the user called it, "" for a live one."""
        return "" if self.reference is None else self.reference.text

    def doubts(self) -> tuple[str, ...]:
        """Sentences on what its keys may hang on that is not known."""
        if self.built is None:
            return ()
        from ckptdiff.model.kernels import doubts_of

        return doubts_of(self.built.module)

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Room for more of the model's code, its hooks say, where ckptdiff has built it; a live model's is trusted."""
        return contextlib.nullcontext() if self.built is None else self.built.running()

    def with_values(self) -> GivenModel:
        """The same model with its initial values; itself where it was not built here."""
        if self.built is None or self.reference is None:
            return self
        return _built(self.reference, self.args, self.built.host.kind, with_values=True)


def describe(
    model: Reference | ModuleTree | nn.Module, args: Mapping[str, object], device: str | None = None
) -> GivenModel:
    """The model, built with `args` where it is a reference, as on a machine with `device`. Raises CkptdiffError where
    it does not build."""
    if isinstance(model, ModuleTree):
        return GivenModel(model)
    if not isinstance(model, Reference):
        from ckptdiff.model.extract import extract

        return GivenModel(extract(model))
    if model.kind == "snapshot":
        from ckptdiff.model.snapshot import read_snapshot

        doing("reading the snapshot")
        return GivenModel(read_snapshot(model.target), model)
    return _built(model, args, device)


def _built(
    reference: Reference, args: Mapping[str, object], device: str | None, *, with_values: bool = False
) -> GivenModel:
    doing("importing torch")
    from ckptdiff.model.machines import built_on

    doing("building the model")
    built, others = built_on(reference, args, device, with_values=with_values)
    given = _given(reference, args, built)
    different = (other for other in (_given(reference, args, other) for other in others) if _differ(given, other))
    return replace(given, others=tuple(different))


def _given(reference: Reference, args: Mapping[str, object], built: Built) -> GivenModel:
    from ckptdiff.model.extract import extract

    tree = replace(extract(built.module, built.reference, built.how), remarks=built.remarks)
    return GivenModel(tree, reference, built.notes, args, built)


def _differ(here: GivenModel, there: GivenModel) -> bool:
    """Whether two models load differently, as far as their keys, shapes and dtypes tell."""
    ours, theirs = here.tree.keys(), there.tree.keys()
    return ours.keys() != theirs.keys() or any(
        (slot.tensor.shape, slot.tensor.dtype) != (theirs[key].tensor.shape, theirs[key].tensor.dtype)
        for key, slot in ours.items()
    )
