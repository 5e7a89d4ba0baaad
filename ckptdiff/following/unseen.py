"""Tensors that no operation has made: `torch.FloatTensor(numbers)` goes past torch's dispatcher.

It matters once code has looked at values, for the numbers may be these. What was there before is gathered then, and
from then on what operations make; anything else was made unseen.
"""

from __future__ import annotations

import gc

import torch

from ckptdiff.following.log.memory import is_flat
from ckptdiff.following.origins.labels import Source


class Looked(dict[Source, None]):
    """The tensors of files whose values code looked at, in order, and what there was when it first did."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[int] | None = None

    def __setitem__(self, source: Source, value: None) -> None:
        self._begin()
        super().__setitem__(source, value)

    def update(self, sources: dict[Source, None]) -> None:  # type: ignore[override]
        """As a dictionary's."""
        for source in sources:
            self[source] = None

    def _begin(self) -> None:
        if self._seen is None:
            self._seen = {0}
            for value in gc.get_objects():
                if issubclass(type(value), torch.Tensor):  # without asking it: some objects answer for others
                    self.made(value)

    def made(self, value: object) -> None:
        """Note what an operation returned."""
        if self._seen is not None and type(value) in (list, tuple):
            for item in value:  # type: ignore[attr-defined]
                self.made(item)
        elif self._seen is not None and isinstance(value, torch.Tensor):
            self._seen.add(_address(value))

    def is_unseen(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor was made since by no operation."""
        return self._seen is not None and _address(tensor) not in self._seen


def _address(tensor: torch.Tensor) -> int:
    """Where a tensor's memory is, 0 where it has none of its own."""
    if not is_flat(tensor) or hasattr(type(tensor), "__tensor_flatten__"):
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except Exception:  # of a class that has none
        return 0
