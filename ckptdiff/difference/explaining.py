"""What happened to tensors that differ, where it can be proved: found by hash or norm, then compared byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.flat_bytes import Blocks
from ckptdiff.difference.arithmetic import low_rank, scaled
from ckptdiff.difference.difference import Change, Difference
from ckptdiff.difference.partners import is_constant
from ckptdiff.difference.rows import Matrix, columns_are, hashes, is_transposed, order_of, rows_are
from ckptdiff.tensors import DTYPES, TensorInfo

_MOST_ROWS = 4_000_000
"""Rows of all tensors that are looked for elsewhere."""


def explained(difference: Difference, a: Checkpoint, b: Checkpoint) -> Difference:
    """The same, with what was proved."""
    if difference.same and not difference.changed:
        return difference
    with Blocks(a) as here, Blocks(b) as there:
        changed = {key: _changed(change, here, there) for key, change in difference.changed.items()}
        said: dict[str, str] = {}
        for key, _, _ in difference.other_shape:
            other = dict(difference.renamed).get(key, key)
            before, after = (
                _matrix(here, key, difference.tensors_a[key]),
                _matrix(there, other, difference.tensors_b[other]),
            )
            text = _reshaped(before, after) if before is not None and after is not None else None
            if text is not None:
                said[key] = text
            here.let_go()
            there.let_go()
        mine = _matrices(here, difference.only_in_a, difference.tensors_a)
        theirs = _matrices(there, difference.only_in_b, difference.tensors_b)
        said.update(_fused(mine, theirs, "fused from A's", "fused into B's"))
        said.update(_fused(theirs, mine, "split off from A's", "split into B's", of_sources=False))
        said.update(_transposed_among(mine, theirs, said))
        said.update(_ties(difference))
    return replace(difference, changed=changed, explained=said)


def _matrix(blocks: Blocks, key: str, tensor: TensorInfo) -> Matrix | None:
    """None where elements are no whole bytes, or lie in several parts."""
    if tensor.layout != "strided" or tensor.parts or DTYPES[tensor.dtype].bits % 8 or not tensor.numel:
        return None
    return Matrix(key, tensor, blocks.of(key, tensor))


def _matrices(blocks: Blocks, keys: tuple[str, ...], tensors: Mapping[str, TensorInfo]) -> list[Matrix]:
    left, chosen = _MOST_ROWS, []
    for key in keys:
        rows = tensors[key].shape[0] if tensors[key].shape else 1
        if left >= rows and tensors[key].numel > 1 and DTYPES[tensors[key].dtype].bits <= 64:
            matrix = _matrix(blocks, key, tensors[key])
            if matrix is not None:
                chosen.append(matrix)
                left -= rows
    return chosen


# One tensor against itself


def _changed(change: Change, here: Blocks, there: Blocks) -> Change:
    if (
        change.explained is not None
        or change.cast is not None
        or not change.count
        or change.before.dtype != change.after.dtype
    ):
        return change
    a, b = _matrix(here, change.key, change.before), _matrix(there, change.other, change.after)
    if a is None or b is None or a.width > 8 or change.numel < 2:
        return change
    text, many = None, change.count * 2 > change.numel
    if change.count * 2 > change.numel and is_constant(there, change.other, change.after):
        value = change.values[1] if change.values is not None else ""
        text = (
            f"constant: every element is {value:.6g}"
            if isinstance(value, float)
            else f"constant: every element is {value}"
        )
    if text is None and _may_be_permuted(change):
        text = _permuted(a, b)
    if text is None and change.cosine is not None and abs(change.cosine) > 0.99999 and many:
        text = scaled(a, b)
    if text is None and len(change.before.shape) >= 2 and change.count * 2 > change.numel:
        text = low_rank(a, b)
    if text is None and a.columns > 1 and change.count * 10 < change.numel:
        text = _few_rows(a, b)
    here.let_go()
    there.let_go()
    return change if text is None else replace(change, explained=text)


def _may_be_permuted(change: Change) -> bool:
    """Whether both sides have the same norm, as far as numbers tell."""
    if change.norms is None:
        return False
    a, b = change.norms
    return abs(a - b) <= 1e-12 * a


def _permuted(a: Matrix, b: Matrix) -> str | None:
    rows, columns = hashes(a, columns=True)
    new_rows, new_columns = hashes(b, columns=True)
    order = order_of(rows, new_rows)
    noun = "rows" if a.columns > 1 else "elements"
    if order is not None and rows_are(b, [a], np.zeros(a.rows, np.int64), order):
        return _moved(noun, order)
    if a.columns > 1:
        order = order_of(columns, new_columns)
        if order is not None and columns_are(a, b, order):
            return _moved("columns", order)
        square = a.rows == a.columns and len(a.info.shape) == 2
        if square and np.array_equal(columns, new_rows) and is_transposed(a, b):
            return "transposed"
    return None


def _moved(noun: str, order: np.ndarray) -> str:
    moved = int((order != np.arange(len(order))).sum())
    if np.array_equal(order, np.arange(len(order))[::-1]):
        return f"{noun} in reverse order"
    return f"{noun} permuted: {moved:,} of {len(order):,} moved"


def _few_rows(a: Matrix, b: Matrix) -> str | None:
    """Which rows alone changed."""
    differing: list[int] = []
    for first, last in a.parts():
        odd = (a.read(first, last) != b.read(first, last)).any(axis=1)
        differing += (np.flatnonzero(odd) + first).tolist()
        if len(differing) > a.rows // 10 + 1:
            return None
    shown = ", ".join(map(str, differing[:8])) + (", …" if len(differing) > 8 else "")
    return f"only in {len(differing):,} of {a.rows:,} rows ({shown})" if a.rows > len(differing) else None


# Another shape


def _reshaped(a: Matrix, b: Matrix) -> str | None:
    """Of two tensors of one dtype."""
    if a.info.dtype != b.info.dtype or a.width > 8:
        return None
    shape, new = a.info.shape, b.info.shape
    if len(shape) == len(new) == 2 and shape == new[::-1] and is_transposed(a, b):
        return "transposed"
    if a.info.numel == b.info.numel:
        same = Matrix(a.key, a.info._replace(shape=new), a.fill)
        if all(np.array_equal(same.read(*part), b.read(*part)) for part in same.parts()):
            return "the same elements in another shape"
    if len(shape) == len(new) and shape[1:] == new[1:] and shape:
        return _resized(a, b)
    if len(shape) == len(new) > 1 and shape[0] == new[0] and shape[2:] == new[2:]:
        return _widened(a, b)
    return None


def _resized(a: Matrix, b: Matrix) -> str | None:
    """Rows were cut off, or added."""
    longer, shorter = (a, b) if a.rows > b.rows else (b, a)
    start = 0
    if longer is a:
        first = shorter.read(0, 1)
        places = [row for part in longer.parts() for row in _rows_like(longer, part, first)]
        if len(places) != 1 or places[0] + shorter.rows > longer.rows:
            return None
        start = places[0]
    every = np.arange(shorter.rows)
    if not rows_are(shorter, [longer], np.zeros_like(every), every + start):
        return None
    if longer is a:
        said = f"the first {shorter.rows:,}" if not start else f"rows {start:,} to {start + shorter.rows - 1:,}"
        return f"sliced: {said} of A's {longer.rows:,} rows"
    added = longer.rows - shorter.rows
    zero = not longer.read(shorter.rows, longer.rows).any()
    return f"padded: A's {shorter.rows:,} rows, then {added:,} {'of zeros' if zero else 'new ones'}"


def _rows_like(matrix: Matrix, part: tuple[int, int], row: np.ndarray) -> list[int]:
    return (np.flatnonzero((matrix.read(*part) == row).all(axis=1)) + part[0]).tolist()


def _widened(a: Matrix, b: Matrix) -> str | None:
    """Columns were cut off, or added behind."""
    fewer = min(a.columns, b.columns)
    for part in a.parts():
        if not np.array_equal(a.read(*part)[:, :fewer], b.read(*part)[:, :fewer]):
            return None
    before, after = a.info.shape[1], b.info.shape[1]
    if after < before:
        return f"sliced: the first {after:,} of A's {before:,} columns"
    return f"padded: A's {before:,} columns, then {after - before:,} new ones"


# Among several tensors


def _fused(
    sources: list[Matrix], targets: list[Matrix], of_target: str, of_source: str, *, of_sources: bool = True
) -> dict[str, str]:
    """Tensors of the one side whose rows make up one of the other; the first text is on the target, the second on them.

    With `of_sources` false the sources are B's: what A has was split.
    """
    if len(sources) < 2 or not targets:
        return {}
    where: dict[tuple[str, int], dict[int, tuple[int, int] | None]] = {}
    for number, matrix in enumerate(sources):
        table = where.setdefault((matrix.info.dtype, matrix.columns), {})
        for row, value in enumerate(hashes(matrix)[0].tolist()):
            table[value] = None if value in table else (number, row)
    said: dict[str, str] = {}
    for target in targets:
        target = _flat(target, where)
        table = where.get((target.info.dtype, target.columns), {})
        hits = [table.get(value) for value in hashes(target)[0].tolist()] if table else [None]
        if any(place is None for place in hits):
            continue
        which = np.array([place[0] for place in hits if place], np.int64)
        places = np.array([place[1] for place in hits if place], np.int64)
        used = list(dict.fromkeys(which.tolist()))
        whole = sum(sources[number].rows for number in used) == target.rows and len(set(hits)) == len(hits)
        if len(used) < 2 or not whole or not rows_are(target, sources, which, places):
            continue
        names = ", ".join(str(sources[number].key) for number in used)
        pattern = _pattern(which, places, len(used))
        if of_sources:
            said[target.key] = f"{of_target} {names}{pattern}"
            said.update({sources[number].key: f"{of_source} {target.key}" for number in used})
        else:
            said[target.key] = f"{of_source} {names}{pattern}"
            said.update({sources[number].key: f"{of_target} {target.key}" for number in used})
    return said


def _flat(target: Matrix, where: Mapping[tuple[str, int], object]) -> Matrix:
    """A stack of matrices as one of all their rows, where it is their rows that are looked for."""
    shape = target.info.shape
    if len(shape) < 3 or (target.info.dtype, target.columns) in where:
        return target
    return Matrix(target.key, target.info._replace(shape=(prod(shape[:-1]), shape[-1])), target.fill)


def _pattern(which: np.ndarray, places: np.ndarray, several: int) -> str:
    """How the rows follow one another: part after part, or a run of each in turn."""
    breaks = np.flatnonzero((np.diff(which) != 0) | (np.diff(places) != 1)) + 1
    runs = np.diff([0, *breaks.tolist(), len(which)])
    if len(runs) == several:
        return ", one after the other"
    turns, rest = divmod(len(runs), several)
    if not rest and len(set(runs.tolist())) == 1:
        return f", {runs[0]:,} rows of each in turn ({turns:,} heads)"
    if not rest and np.array_equal(runs, np.tile(runs[:several], turns)):
        return f", {', '.join(f'{run:,}' for run in runs[:several])} rows of them in turn ({turns:,} groups)"
    return ", their rows mixed"


def _transposed_among(mine: list[Matrix], theirs: list[Matrix], said: Mapping[str, str]) -> dict[str, str]:
    """Tensors under other names that are each other's transpose."""
    transposed: dict[str, str] = {}
    by: dict[tuple[str, int, int], list[tuple[bytes, Matrix]]] = {}
    for matrix in theirs:
        if len(matrix.info.shape) == 2 and matrix.key not in said and matrix.width <= 8:
            key = (matrix.info.dtype, matrix.columns, matrix.rows)
            by.setdefault(key, []).append((hashes(matrix)[0].tobytes(), matrix))
    for matrix in mine:
        rows = by.get((matrix.info.dtype, matrix.rows, matrix.columns)) if len(matrix.info.shape) == 2 else None
        if not rows or matrix.key in said:
            continue
        columns = hashes(matrix, columns=True)[1]
        if len(np.unique(columns)) < 2:
            continue
        alike = [other for hashed, other in rows if hashed == columns.tobytes()]
        if len(alike) == 1 and is_transposed(matrix, alike[0]):
            transposed[matrix.key] = f"transposed, B's {alike[0].key}"
            transposed[alike[0].key] = f"transposed, A's {matrix.key}"
    return transposed


def _ties(difference: Difference) -> dict[str, str]:
    """Keys that share all of their memory with one that both sides have: a file holds it once."""
    said: dict[str, str] = {}
    equal = set(difference.equal)
    for keys, tensors in ((difference.only_in_a, difference.tensors_a), (difference.only_in_b, difference.tensors_b)):
        where = {
            _memory(tensors[key]): key for key in equal if _memory(tensors.get(key)) is not None and key in tensors
        }
        for key in keys:
            place = _memory(tensors[key])
            if place is not None and place in where:
                said[key] = f"tied to {where[place]}, which is equal"
    return said


def _memory(tensor: TensorInfo | None) -> object:
    if tensor is None or tensor.storage is None or not tensor.numel:
        return None
    return tensor.storage.file, tensor.storage.id, tensor.offset, tensor.dtype, tensor.shape, tensor.stride
