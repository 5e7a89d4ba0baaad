"""What every format for people says of a Checkpoint, before it is laid out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.garbage import uncollected
from ckptdiff.keys import fold, glob
from ckptdiff.render import key_tree as tree
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import chosen_state_dict, count, number, shape, size
from ckptdiff.render.view import Sort, View
from ckptdiff.spelling import option
from ckptdiff.tensors import ObjectInfo, TensorInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ckptdiff.contents.digests import Digests

LIMIT = 40
"""Lines of tensors shown unless all are asked for."""
_FEW = 10
_FOLDED = 100_000
"""Keys of one storage that are folded; of more, the rest is only counted."""


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One line of the listing: an escaped name at its depth in the tree, and its columns."""

    depth: int
    name: str
    dtype: str
    shape: str
    nbytes: int
    note: str = ""
    """How many siblings it stands for, and how many tensors that are not shown."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A Checkpoint in words. `more` says what of the listing is not shown, "" when everything is."""

    title: str
    facts: tuple[tuple[str, str], ...]
    dtypes: tuple[tuple[str, str], ...]
    rows: tuple[TensorRow, ...]
    more: str
    sections: tuple[tuple[str, tuple[str, ...]], ...]
    """Further lists, each under its heading."""


@uncollected()
def contents(checkpoint: Checkpoint, view: View) -> Contents:
    """The words on a checkpoint: its tensors as a folded tree, or one by one when a glob or an order is given."""
    tensors, sort, limit = view.tensors, view.sort, None if view.all else LIMIT
    chosen = matching(checkpoint, tensors)
    if tensors is None and sort is None and view.digests is None:
        rows, more = _as_tree(chosen, limit)
    else:
        rows, more = _one_by_one(chosen, sort or "file", limit, view.digests)
    return Contents(
        title=plain(checkpoint.path) or "a state dict in memory",
        facts=(*_facts(checkpoint, chosen, tensors), *([("digest", view.digests.whole)] if view.digests else ())),
        dtypes=tuple(_dtypes(chosen)),
        rows=tuple(rows),
        more=more,
        sections=tuple(_sections(checkpoint, None if limit is None else _FEW)),
    )


def matching(checkpoint: Checkpoint, pattern: str | None) -> dict[str, TensorInfo]:
    """The tensors whose keys match a glob; all of them without one."""
    if pattern is None:
        return checkpoint.tensors
    matches = glob(pattern)
    return {key: tensor for key, tensor in checkpoint.tensors.items() if matches(key)}


def in_order(tensors: Mapping[str, TensorInfo], sort: Sort) -> list[tuple[str, TensorInfo]]:
    """Tensors as they lie in the file, by name, or the largest first."""
    if sort == "name":
        return sorted(tensors.items(), key=lambda item: item[0])
    return sorted(tensors.items(), key=lambda item: -item[1].nbytes) if sort == "size" else list(tensors.items())


def _facts(checkpoint: Checkpoint, chosen: Mapping[str, TensorInfo], pattern: str | None) -> list[tuple[str, str]]:
    tensors = checkpoint.tensors
    elements = sum(tensor.numel for tensor in tensors.values())
    facts = [
        ("format", f"{checkpoint.format}, {size(checkpoint.nbytes)}" if checkpoint.nbytes else checkpoint.format),
        ("state dict", chosen_state_dict(checkpoint)),
    ]
    facts.append(("holds", f"{count(len(tensors), 'tensor')}, {count(elements, 'element')}"))
    objects = len(checkpoint.entries) - len(tensors)
    if objects:
        facts[-1] = (
            "holds",
            f"{facts[-1][1]}, {count(objects, 'value that is no tensor', 'values that are no tensors')}",
        )
    if pattern is not None:
        facts.append(("shown", f"{count(len(chosen), 'tensor')} matching {plain(pattern)}"))
    if checkpoint.saved_on:
        facts.append(("saved on", _devices(checkpoint)))
    empty = sum(tensor.is_meta for tensor in tensors.values())
    if empty:
        facts.append(("no values", f"{count(empty, 'tensor')} on the meta device, of which the file has no bytes"))
    versions = len(checkpoint.metadata or {})
    facts.append(("_metadata", count(versions, "module version") if checkpoint.metadata is not None else "none"))
    return facts


def _devices(checkpoint: Checkpoint) -> str:
    """The devices of the state dict's tensors, those with the most first, and what else was elsewhere in the file."""
    totals = Counter(tensor.device for tensor in checkpoint.tensors.values())
    listed = [f"{plain(device)} ({count(number, 'tensor')})" for device, number in totals.most_common()]
    beside = [plain(device) for device, _ in checkpoint.saved_on if device not in totals]
    listed += [f"{device} (beside the state dict)" for device in dict.fromkeys(beside)]
    return ", ".join(listed)


def _dtypes(tensors: Mapping[str, TensorInfo]) -> list[tuple[str, str]]:
    totals: dict[str, list[int]] = {}
    for tensor in tensors.values():
        total = totals.setdefault(tensor.dtype, [0, 0, 0])
        total[0] += 1
        total[1] += tensor.numel
        total[2] += tensor.nbytes
    by_size = sorted(totals.items(), key=lambda item: -item[1][2])
    return [
        (dtype, f"{count(tensors, 'tensor')}, {count(elements, 'element')}, {size(nbytes)}")
        for dtype, (tensors, elements, nbytes) in by_size
    ]


def _as_tree(tensors: Mapping[str, TensorInfo], limit: int | None) -> tuple[list[TensorRow], str]:
    lines = tree.lines(tree.tree(tensors), limit)
    shown = lines if limit is None else lines[:limit]
    rows = []
    for line in shown:
        node = line.node
        notes = [f"x{node.count:,}"] if node.count > 1 else []
        if line.cut:
            notes.append(count(node.tensors, "tensor"))
        rows.append(
            TensorRow(
                line.depth,
                plain(node.name),
                node.tensor.dtype if node.tensor else "",
                _shape(node.tensor) if node.tensor else "",
                node.nbytes,
                ", ".join(notes),
            )
        )
    more = ""
    if len(lines) > len(shown):
        more = f"... and {count(len(lines) - len(shown), 'more line')} ({option('all')} shows them)"
    elif any(line.cut for line in lines):
        more = f"deeper levels are not shown ({option('all')} shows them)"
    return rows, more


def _one_by_one(
    tensors: Mapping[str, TensorInfo], sort: Sort, limit: int | None, digests: Digests | None = None
) -> tuple[list[TensorRow], str]:
    items = in_order(tensors, sort)
    shown = items if limit is None else items[:limit]
    known = {} if digests is None else digests.tensors
    rows = [
        TensorRow(0, plain(key), tensor.dtype, _shape(tensor), tensor.nbytes, known.get(key, ""))
        for key, tensor in shown
    ]
    hidden = items[len(shown) :]
    more = ""
    if hidden:
        more = f"... and {count(len(hidden), 'more tensor')}, {size(sum(tensor.nbytes for _, tensor in hidden))}"
        more += f" ({option('all')} shows them)"
    return rows, more


def _shape(tensor: TensorInfo) -> str:
    return shape(tensor.shape) + ("" if tensor.layout == "strided" else f" {tensor.layout}")


def _sections(checkpoint: Checkpoint, limit: int | None) -> list[tuple[str, tuple[str, ...]]]:
    tensors = checkpoint.tensors
    objects = [(key, entry) for key, entry in checkpoint.entries.items() if isinstance(entry, ObjectInfo)]
    sections = [
        ("worth knowing", [plain(warning, 1000) for warning in checkpoint.warnings]),
        (
            "globals beyond the ordinary: torch.load(weights_only=True) refuses them, ckptdiff runs nothing",
            [plain(name) for name in checkpoint.unsafe_globals],
        ),
        (
            "torch.load(weights_only=True) refuses the file",
            [
                *([plain(checkpoint.weights_only)] if checkpoint.weights_only else []),
                *(f"for {plain(name)}" for name in checkpoint.plain_globals),
            ],
        ),
        ("tensors sharing memory", _shared(tensors)),
        ("views smaller than the memory the file holds for them", _views(tensors)),
        ("values that are no tensors", [f"{plain(key)}  {_object(value)}" for key, value in objects]),
        (
            "also in the container",
            [f"{plain(key)}  {plain(what)}" for key, what in checkpoint.container.items()],
        ),
        ("metadata", [f"{plain(key)}  {plain(value)}" for key, value in checkpoint.file_metadata.items()]),
    ]
    chapters = []
    for title, entries in sections:
        shown = entries if limit is None else entries[:limit]
        rest = len(entries) - len(shown)
        if entries:
            chapters.append(
                (title, (*shown, *([f"... and {number(rest)} more ({option('all')} shows them)"] if rest else [])))
            )
    return chapters


def _object(entry: ObjectInfo) -> str:
    return plain(f"{entry.type_name} {entry.summary}".rstrip())


def _shared(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Storages that several tensors use, with their keys folded."""
    users: dict[tuple[str, str], list[str]] = {}
    nbytes: dict[tuple[str, str], int] = {}
    for key, tensor in tensors.items():
        if tensor.storage is not None and tensor.numel:
            where = (tensor.storage.file, tensor.storage.id)
            users.setdefault(where, []).append(key)
            nbytes[where] = tensor.storage.nbytes
    shared = []
    for where, keys in users.items():
        if len(keys) > 1:
            folds = fold(keys[:_FOLDED])
            rest = len(folds[_FEW:]) if len(keys) <= _FOLDED else len(keys) - sum(f.count for f in folds[:_FEW])
            listed = ", ".join(plain(item.pattern) for item in folds[:_FEW])
            listed += f" and {rest} more" if rest else ""
            shared.append(f"{listed}: {count(len(keys), 'tensor')} in {size(nbytes[where])}")
    return shared


def _views(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Storages of which the tensors of the state dict use only a part, the most wasteful first."""
    used: dict[tuple[str, str], int] = {}
    total: dict[tuple[str, str], int] = {}
    first: dict[tuple[str, str], str] = {}
    for key, tensor in tensors.items():
        if tensor.storage is not None:
            where = (tensor.storage.file, tensor.storage.id)
            used[where] = used.get(where, 0) + tensor.nbytes
            total[where] = tensor.storage.nbytes
            first.setdefault(where, key)
    waste = sorted(((total[where] - used[where], where) for where in used if used[where] < total[where]), reverse=True)
    return [f"{plain(first[where])}: {size(used[where])} of {size(total[where])}" for _, where in waste]
