"""What every format for people says of a Difference: the verdict, then keys by class, folded, with their figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ckptdiff.difference.difference import Beside, Change, Difference, Number, Side
from ckptdiff.judging.rules import Level
from ckptdiff.keys import expand, fold
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import count, number, percent, shape, size
from ckptdiff.render.sections import Outline, Row, Section
from ckptdiff.render.view import View
from ckptdiff.spelling import option

_LEVELS: dict[str, Level] = dict.fromkeys(("changed", "other shape", "only in A", "only in B"), "error")
_LEVELS["lossy cast"] = "warning"
"""How grave a class is, by which it is coloured."""
LIMIT = 20
"""Rows shown of each class unless all are asked for."""


def outline(diff: Difference, view: View) -> Outline:
    """The words on what differs."""
    limit = None if view.all else LIMIT
    return Outline(
        verdict=verdict(diff),
        good=(None if diff.basis in ("checksums", "headers") else True) if diff.same else False,
        facts=tuple(_facts(diff)),
        sections=tuple(_sections(diff, view, limit)),
    )


def verdict(diff: Difference) -> str:
    """One sentence."""
    if diff.verdict == "same file":
        return "The same file: every byte is the same."
    if diff.verdict == "same structure":
        return "The same structure: names and shapes are the same; no values were looked at."
    if diff.verdict == "same values":
        under = _under(diff)
        return f"The same values{under}." if diff.basis != "checksums" else f"The same checksums{under}."
    if diff.verdict == "different values":
        differing = len(diff.differing)
        of = len(diff.equal) + len(diff.changed) + len(diff.close) + _plainly_renamed(diff)
        return f"{number(differing)} of {count(of, 'tensor')} {'differs' if differing == 1 else 'differ'}."
    said = [
        f"{count(len(keys), noun)} {what}" if place == 0 else f"{number(len(keys))} {what}"
        for place, (keys, noun, what) in enumerate(
            (keys, noun, what)
            for keys, noun, what in (
                (diff.only_in_a, "tensor", "only in A"),
                (diff.only_in_b, "tensor", "only in B"),
                (diff.other_shape, "tensor", "of another shape"),
            )
            if keys
        )
    ]
    more = f"; of the others {number(len(diff.differing))} differ" if diff.differing else ""
    return f"Other structure: {', '.join(said)}{more}."


def _plainly_renamed(diff: Difference) -> int:
    return sum(key not in diff.changed and key not in diff.close for key, _ in diff.renamed)


def _under(diff: Difference) -> str:
    """Under which other circumstances the values are the same."""
    said = []
    if diff.renamed:
        said.append("names")
    if diff.a.format != diff.b.format and "memory" not in diff.a.format + diff.b.format:
        said.append("containers")
    if any(change.cast == "exact" for change in diff.changed.values()):
        said.append("dtypes")
    under = f", under other {' and '.join(said)}" if said else ""
    if diff.close:
        under += f", within the tolerance in {count(len(diff.close), 'tensor')}"
    return under


def _facts(diff: Difference) -> Iterable[tuple[str, str]]:
    for name, side in (("A", diff.a), ("B", diff.b)):
        yield name, _side(side)
    alike = len(diff.equal) + _plainly_renamed(diff)
    total = max(diff.a.tensors, diff.b.tensors)
    if diff.basis != "headers":
        yield "equal", f"{number(alike)} of {count(total, 'tensor')}"
    whole = _whole(diff)
    if whole:
        yield "in all", whole
    payloads = sum(diff.nan.values())
    if payloads:
        yield "NaN", f"{count(payloads, 'NaN has', 'NaN have')} other bits on the two sides, and count as equal"
    for doubt in (*diff.notes, *diff.doubts):
        yield "beware", plain(doubt, 1000)


def _side(side: Side) -> str:
    where = plain(side.name)
    if side.format and side.format != side.name:
        where += f", {side.format}"
    if side.state_dict_key:
        where += f", {plain(side.state_dict_key)}"
    return f"{where}, {count(side.tensors, 'tensor')}, {size(side.nbytes)}"


def _whole(diff: Difference) -> str:
    """The figures of all changed tensors together."""
    changes = [change for change in diff.differing.values() if change.count is not None]
    if not changes:
        return ""
    elements = sum(change.count or 0 for change in changes)
    total = sum(tensor.numel for tensor in diff.tensors_a.values() if min(tensor.shape, default=0) >= 0)
    said = [f"{number(elements)} of {count(total, 'element')} changed ({percent(elements, total)})"]
    largest = max(changes, key=lambda change: float(change.max_abs or 0))
    if largest.max_abs:
        said.append(f"max |Δ| {_figure(largest.max_abs)} in {plain(largest.key)}")
    norm = sum((change.norm or 0.0) ** 2 for change in changes) ** 0.5
    if norm:
        said.append(f"‖Δ‖ {_figure(norm)}")
    return "; ".join(said)


# Classes


def _sections(diff: Difference, view: View, limit: int | None) -> Iterable[Section]:
    order = _order(view)
    real = {key: change for key, change in diff.changed.items() if change.cast is None}
    yield from _changes(diff, "changed", "the values are others", real, order, limit)
    for cast, name, summary in (
        ("lossy", "lossy cast", "rounded to another dtype"),
        ("exact", "exact cast", "another dtype, in which every value survives"),
    ):
        casts = {key: change for key, change in diff.changed.items() if change.cast == cast}
        yield from _changes(diff, name, summary, casts, order, limit)
    yield from _changes(diff, "close", "changed by no more than is allowed", diff.close, order, limit)
    shapes = {
        key: f"{shape(before)} in A, {shape(after)} in B{_explained(diff, key)}{_digests(diff, key)}"
        for key, before, after in diff.other_shape
    }
    yield from _listed("other shape", "the same name, another size", shapes, limit)
    for name, keys, tensors in (
        ("only in A", diff.only_in_a, diff.tensors_a),
        ("only in B", diff.only_in_b, diff.tensors_b),
    ):
        rows = {
            key: f"{tensors[key].dtype} {shape(tensors[key].shape)}{_explained(diff, key)}{_digests(diff, key)}"
            for key in keys
        }
        yield from _listed(name, "no partner on the other side", rows, limit)
    yield from _renamed(diff, limit)
    yield from _beside(diff.beside, limit)


def _explained(diff: Difference, key: str) -> str:
    return f": {diff.explained[key]}" if key in diff.explained else ""


def _digests(diff: Difference, key: str) -> str:
    """The beginnings of both digests, where they were asked for."""
    both = [digest[:16] for digest in diff.digests.get(key, ()) if digest is not None]
    return f", digest {' → '.join(both)}" if both else ""


def _order(view: View) -> Callable[[Change], object] | None:
    if view.sort == "change":
        return lambda change: -change.relative
    if view.sort == "size":
        return lambda change: -change.before.nbytes
    return (lambda change: str(change.key)) if view.sort == "name" else None


def _changes(
    diff: Difference,
    name: str,
    summary: str,
    changes: Mapping[str, Change],
    order: Callable[[Change], object] | None,
    limit: int | None,
) -> Iterable[Section]:
    chosen = list(changes.values())
    if not chosen:
        return
    rows: list[Row] = []
    if order is not None or diff.digests:
        ordered = chosen if order is None else sorted(chosen, key=order)  # type: ignore[arg-type]
        rows = [Row(plain(str(moved.key)), 1, told([moved]) + _digests(diff, moved.key)) for moved in ordered]
    else:
        groups: dict[object, list[Change]] = {}
        for change in chosen:
            groups.setdefault(_class(change), []).append(change)
        for group in groups.values():
            by_key = {str(change.key): change for change in group}
            for item in fold(by_key):
                keys = expand(item.pattern) if item.count > 1 else (item.first,)
                rows.append(Row(plain(item.pattern), item.count, told([by_key[key] for key in keys])))
    yield _section(name, summary, len(chosen), rows, limit)


def _class(change: Change) -> object:
    """Equal for changes whose keys may be folded; what differs is then said as the most of all."""
    return (
        change.before.dtype,
        change.after.dtype,
        change.before.shape,
        change.explained,
        bool(change.new_nan),
        bool(change.count == change.numel),
    )


def told(changes: Sequence[Change]) -> str:
    """The figures of one tensor, or the largest of several alike."""
    first = changes[0]
    dtype = first.before.dtype
    if first.after.dtype != dtype:
        dtype += f" → {first.after.dtype}"
    said = [f"{dtype} {shape(first.before.shape)}"]
    if first.explained and len({change.explained for change in changes}) == 1:
        said.append(plain(first.explained, 400))
    counted = [change for change in changes if change.count is not None]
    if first.cast == "exact":
        return ", ".join(said)
    if counted:
        said.append(_amount(counted))
        new = sum(change.new_nan for change in counted)
        if new:
            said.append(f"{number(new)} newly NaN")
        infinite = sum(change.new_inf for change in counted)
        if infinite:
            said.append(f"{number(infinite)} newly infinite")
        zeros = sum(change.signed_zeros for change in counted)
        if zeros:
            said.append(f"{count(zeros, 'zero')} of the other sign")
        said += _sizes(counted)
    return ", ".join(said)


def _amount(changes: Sequence[Change]) -> str:
    if len(changes) == 1:
        (change,) = changes
        elements = change.count or 0
        if elements == change.numel:
            return "all elements" if elements > 1 else "its element"
        return f"{number(elements)} of {count(change.numel, 'element')}"
    elements, total = sum(change.count or 0 for change in changes), sum(change.numel for change in changes)
    return f"{percent(elements, total)} of the elements" if elements < total else "all elements"


def _sizes(changes: Sequence[Change]) -> list[str]:
    said = []
    largest = max(changes, key=lambda change: float(change.max_abs or 0))
    many = len(changes) > 1
    if largest.max_abs:
        at = f" at {list(largest.index)}" if largest.index else ""
        values = ""
        if largest.values is not None and not many:
            values = f" ({_value(largest.values[0])} → {_value(largest.values[1])})"
        where = f" in {plain(str(largest.key))}" if many else ""
        said.append(f"max |Δ| {_figure(largest.max_abs)}{where}{at}{values}")
    elif changes[0].index is not None and changes[0].values is not None and not many:
        before, after = changes[0].values
        said.append(f"first at {list(changes[0].index)} ({_value(before)} → {_value(after)})")
    steps = max((change.max_ulp or 0 for change in changes), default=0)
    if steps:
        said.append(f"{number(steps)} ulp")
    relative = [change.rel_l2 for change in changes if change.rel_l2]
    if relative:
        said.append(f"rel. L2 {_figure(max(relative))}")
    cosine = [change.cosine for change in changes if change.cosine is not None]
    if cosine and min(cosine) < 0.999999:
        said.append(f"cosine {min(cosine):.6f}")
    return said


def _figure(value: Number) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return number(value) if isinstance(value, int) else str(value)


def _value(value: Number) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _renamed(diff: Difference, limit: int | None) -> Iterable[Section]:
    """By what the new names are made of, so that a rule's worth of keys is a row."""
    rows = []
    by: dict[str, list[tuple[str, str]]] = {}
    for key, other in diff.renamed:
        by.setdefault(diff.evidence.get(key, "rule"), []).append((str(key), str(other)))
    said = {"content": "by its content", "rule": "by your rules", "names": "by the names"}
    for why, pairs in by.items():
        # Keys and their new names fold alike, or are listed one by one.
        whole = {f"{key} -> {other}": None for key, other in pairs}
        rows += [Row(plain(item.pattern, 400), item.count, said.get(why, why)) for item in fold(whole)]
    if rows:
        yield _section("renamed", "the same tensor under another name", len(diff.renamed), rows, limit)


def _beside(entries: Sequence[Beside], limit: int | None) -> Iterable[Section]:
    titles = {
        "container": ("container", "what the files hold beside the weights"),
        "_metadata": ("_metadata", "versions of modules"),
        "file metadata": ("metadata", "what the files say of themselves"),
        "no tensor": ("no tensor", "values of the state dict that are no tensors"),
    }
    for where, (name, summary) in titles.items():
        chosen = {entry.key: _told(entry) for entry in entries if entry.where == where}
        yield from _listed(name, summary, chosen, limit)


def _told(entry: Beside) -> str:
    if entry.before is None or entry.after is None:
        side, said = ("B", entry.after) if entry.before is None else ("A", entry.before)
        return f"only in {side}: {plain(said or '')}"
    return f"{plain(entry.before)} → {plain(entry.after)}"


def _listed(name: str, summary: str, messages: dict[str, str], limit: int | None) -> Iterable[Section]:
    if not messages:
        return
    groups: dict[str, list[str]] = {}
    for key, message in messages.items():
        groups.setdefault(message, []).append(str(key))
    rows = [Row(plain(item.pattern), item.count, message) for message, keys in groups.items() for item in fold(keys)]
    yield _section(name, summary, len(messages), rows, limit)


def _section(name: str, summary: str, total: int, rows: list[Row], limit: int | None) -> Section:
    shown = rows if limit is None else rows[:limit]
    hidden = sum(row.count for row in rows[len(shown) :])
    more = ""
    if hidden:
        more = f"... and {number(hidden)} more in {count(len(rows) - len(shown), 'row')} ({option('all')} shows them)"
    return Section(name, _LEVELS.get(name, "note"), summary, total, tuple(shown), more, is_class=True)
