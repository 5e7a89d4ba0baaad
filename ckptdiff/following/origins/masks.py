"""Elements of which a mask of the code's own leaves nothing, or that it takes from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.following.origins.intervals import Piece, combined, decoded, distinct_labels, encoded
from ckptdiff.following.origins.labels import Labels

if TYPE_CHECKING:
    import numpy as np

Size = tuple[int, ...]


def multiplied(
    labels: Labels, product: list[Piece], size: Size, factors: Iterable[np.ndarray], *, told: bool = False
) -> list[Piece]:
    """Where the elements of a product of that size come from, by where factors of no file are nothing; `told`: these
    are of files."""
    if not product:
        return product
    for nothing in factors:
        if nothing.any():
            numbers = decoded(product, prod(size))
            spread = _spread(nothing, size)
            numbers[spread] = _renumbered(numbers[spread], labels, told=told)
            product = encoded(numbers)
    return product


def nothing_of(labels: Labels, given: list[Piece], size: Size, *, told: bool) -> Iterator[np.ndarray]:
    """Where a factor was multiplied by nothing before, because files said so or not."""
    gone = [label for label in labels.of_nothing(distinct_labels(given)) if labels.origins[label].told == told]
    if gone:
        import numpy as np

        yield np.isin(decoded(given, prod(size)), gone).reshape(size)


def of_files(labels: Labels, given: list[Piece], count: int) -> np.ndarray:
    """Which elements come from files, and were not multiplied by nothing."""
    import numpy as np

    numbers = decoded(given, count)
    ours: np.ndarray = (numbers != 0) & ~np.isin(numbers, labels.of_nothing(distinct_labels(given)))
    return ours


def added(labels: Labels, total: list[Piece], size: Size, summands: Iterable[np.ndarray]) -> list[Piece]:
    """Where the elements of a sum of that size come from, by where summands of no file are nothing: from no file where
    these are something, and all of a file is multiplied by nothing. Where files said so, `left` looks at the values."""
    gone = [label for label in labels.of_nothing(distinct_labels(total)) if not labels.origins[label].told]
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


def kept_constant(product: list[Piece], size: Size, places: Iterable[np.ndarray]) -> list[Piece]:
    """The same but for places at which a result is the same whatever a file holds, as a power of nothing is."""
    for constant in places:
        if product and constant.any():
            numbers = decoded(product, prod(size))
            numbers[_spread(constant, size)] = 0
            product = encoded(numbers)
    return product


def left(labels: Labels, result: list[Piece], values: np.ndarray) -> tuple[list[Piece], bool]:
    """Where the elements of a result come from, by what they are: what is something though all of a file that is in it
    was multiplied by nothing is of no file. And whether that is all: not where it was files that said so."""
    gone = labels.of_nothing(distinct_labels(result))
    if not gone:
        return result, True
    import numpy as np

    flat = values.reshape(-1)
    numbers = decoded(result, len(flat))
    ours = np.isin(numbers, gone) & (flat != 0) & (flat == flat)
    sure = not any(labels.origins[label].told for label in np.unique(numbers[ours]).tolist())
    numbers[ours] = 0
    return encoded(numbers), sure


def told(labels: Labels, placed: np.ndarray, chosen: np.ndarray, values: np.ndarray) -> tuple[list[Piece], bool]:
    """Where elements come from that are the code's own or a file's, as a condition says that was made of files, and
    whether that is all: nothing that is put there is the file multiplied by nothing, anything else cannot be told."""
    own = (placed == 0) & (chosen != 0)
    nothing = own & (values.reshape(-1) == 0)
    placed[nothing] = _renumbered(chosen[nothing], labels, told=True)
    return encoded(placed), not bool((own & ~nothing).any())


def picked(labels: Labels, given: Sequence[tuple[list[Piece], np.ndarray]], result: np.ndarray) -> list[Piece]:
    """Where the elements of a result come from, each of which is one of those at its place in what is given: the
    largest of them, say. A single number is a bound, and leaves what it bounds the file's."""
    import numpy as np

    ours = np.zeros(result.size, dtype=bool)
    of_file, parts = ours.copy(), []
    for pieces, values in given:
        spread = encoded(_spread(decoded(pieces, values.size).reshape(values.shape), result.shape)) if pieces else []
        parts.append(spread)
        if values.size > 1 or result.size == 1:
            theirs, flat = _spread(values, result.shape), result.reshape(-1)
            same = (theirs == flat) | ((theirs != theirs) & (flat != flat))
            held = decoded(spread, result.size) != 0
            of_file |= same & held
            ours |= same & ~held
    return kept_constant(combined(parts, result.size, labels), result.shape, [(ours & ~of_file).reshape(result.shape)])


def _spread(values: np.ndarray, size: Size) -> np.ndarray:
    import numpy as np

    return np.broadcast_to(values, size).reshape(-1)


def _renumbered(numbers: np.ndarray, labels: Labels, *, told: bool = False) -> np.ndarray:
    import numpy as np

    distinct, places = np.unique(numbers, return_inverse=True)
    return np.array([labels.nothing(int(label), told=told) for label in distinct], dtype=np.int32)[places.reshape(-1)]
