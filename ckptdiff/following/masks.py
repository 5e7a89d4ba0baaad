"""Elements that a mask multiplies by nothing: what is added to them is what is left."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.following.labels import Labels
from ckptdiff.following.origins import Piece, combined, decoded, distinct_labels, encoded

if TYPE_CHECKING:
    import numpy as np

Size = tuple[int, ...]


def multiplied(labels: Labels, product: list[Piece], size: Size, factors: Iterable[np.ndarray]) -> list[Piece]:
    """Where the elements of a product of that size come from, by where factors of no file are nothing."""
    if not product:
        return product
    for nothing in factors:
        if nothing.any():
            numbers = decoded(product, prod(size))
            spread = _spread(nothing, size)
            numbers[spread] = _renumbered(numbers[spread], labels)
            product = encoded(numbers)
    return product


def added(labels: Labels, total: list[Piece], size: Size, summands: Iterable[np.ndarray]) -> list[Piece]:
    """Where the elements of a sum of that size come from, by where summands of no file are nothing: from no file where
    these are something, and all of a file is multiplied by nothing."""
    gone = [label for label in distinct_labels(total) if labels.origins[label].nothing]
    if gone:
        import numpy as np

        numbers = decoded(total, prod(size))
        of_mask = np.isin(numbers, gone)
        for nothing in summands:
            numbers[of_mask & ~_spread(nothing, size)] = 0
        total = encoded(numbers)
    return total


def blended(labels: Labels, start: list[Piece], end: list[Piece], size: Size, weight: np.ndarray) -> list[Piece]:
    """Where elements come from that lie between those of two tensors, by how far a weight of no file goes."""
    import numpy as np

    count, spread = prod(size), _spread(weight, size)
    both = decoded(combined([start, end], count, labels), count)
    return encoded(np.where(spread == 0, decoded(start, count), np.where(spread == 1, decoded(end, count), both)))


def _spread(values: np.ndarray, size: Size) -> np.ndarray:
    import numpy as np

    return np.broadcast_to(values, size).reshape(-1)


def _renumbered(numbers: np.ndarray, labels: Labels) -> np.ndarray:
    import numpy as np

    distinct, places = np.unique(numbers, return_inverse=True)
    return np.array([labels.nothing(int(label)) for label in distinct], dtype=np.int32)[places.reshape(-1)]
