"""Weight and spectral norms, under the names that torch gave their tensors before and since its parametrizations.

The pairs are those of torch/nn/utils/parametrizations.py (`_weight_norm_compat_hook`), and what `spectral_norm` of
torch/nn/utils/spectral_norm.py and of the former register.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ckptdiff.renaming.rename_rules import RenameRule, escape
from ckptdiff.suggesting.key_patterns import Shape


@dataclass(frozen=True, slots=True)
class _Norm:
    """What one norm keeps of a tensor, by the ends of the older names and the last components of the newer ones."""

    function: str
    older: tuple[str, ...]
    newer: tuple[str, ...]

    def names(self, tensor: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The last components of the keys for a tensor of this name: the older ones, then the newer ones."""
        older = tuple(f"{tensor}{ending}" for ending in self.older)
        return older, tuple(f"parametrizations.{tensor}.{ending}" for ending in self.newer)


_NORMS = (
    _Norm("weight_norm", ("_g", "_v"), ("original0", "original1")),
    _Norm("spectral_norm", ("_orig", "_u", "_v"), ("original", "0._u", "0._v")),
)
_NEWER = re.compile(r"(?:^|\.)parametrizations\.([^.]+)\.original0?\Z")


def respelled_norms(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> list[RenameRule]:
    """Rules for the tensors of norms that one side has under their older names and the other under their newer ones."""
    rules = []
    for tensor in sorted(_tensors(checkpoint) | _tensors(model)):
        for norm in _NORMS:
            older, newer = norm.names(tensor)
            for here, there in ((older, newer), (newer, older)):
                moved = _homes(checkpoint, here)
                if moved and _homes(model, there) and not _homes(model, here) and not _homes(checkpoint, there):
                    reason = f"torch's own names of {norm.function}, {_when(there is newer)} its parametrizations"
                    rules += [
                        RenameRule(f"{{*}}.{escape(old)}", f"{{*}}.{escape(new)}", "certain", len(moved), reason)
                        for old, new in zip(here, there, strict=True)
                    ]
    return rules


def _when(newer: bool) -> str:
    return "since" if newer else "before"


def _tensors(keys: Iterable[str]) -> set[str]:
    """The names of the tensors that have a norm under its newer names."""
    return {match.group(1) for key in keys if (match := _NEWER.search(key))}


def _homes(keys: Mapping[str, Shape], names: tuple[str, ...]) -> list[str]:
    """The modules that hold a tensor of each of these names."""
    first = f".{names[0]}"
    homes = (key.removesuffix(first[1:]) for key in keys if key.endswith(first) or key == names[0])
    return [home for home in homes if all(home + name in keys for name in names)]
