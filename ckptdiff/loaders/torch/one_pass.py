"""The walk where names, shapes and dtypes decide on everything: most models and most files, in one pass over them.

The pass gives up, before anything is said, where more may decide: code of a module's own, a version rule that applies,
a name or an entry of another kind. Then the walk goes module by module (`loaders.torch.walk`), with the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.loaders.outcome import Filled, Problem
from ckptdiff.loaders.torch.metadata import versions_of
from ckptdiff.loaders.torch.subtree import place_of
from ckptdiff.loaders.torch.texts import mismatched
from ckptdiff.loaders.torch.usual_copies import COPYABLE_DTYPES, PLAIN_TYPES
from ckptdiff.model.tree import EXTRA_STATE_KEY, ModuleNode, ModuleTree
from ckptdiff.tensors import TensorInfo

COUNTER = "num_batches_tracked"
"""The buffer that the version rules of norms are about."""

_new = tuple.__new__


class Matched(NamedTuple):
    """What became of all keys, in torch's order."""

    filled: dict[str, Filled]
    missing: list[str]
    mismatched: list[Problem]
    unexpected: list[str]
    ignored: list[str]
    """The keys for a child registered as None."""


def one_pass(tree: ModuleTree, checkpoint: Checkpoint, valueless: frozenset[object], room: int) -> Matched | None:
    """What torch would do with the keys of both sides, None where that takes more than a look at them.

    `valueless` are the keys whose tensors have no values; `room` is how many modules may be nested.
    """
    versions = versions_of(checkpoint.metadata)
    if versions is None or not {str}.issuperset(map(type, checkpoint.entries)):
        return None
    given: Mapping[object, Any] | None = None
    if tree.root.live is not None and checkpoint.live is not None:
        from ckptdiff.loaders.torch.tensor_trial import overlap
        from ckptdiff.model.extract import registered

        given = checkpoint.live
    own_meta = tree.built != "meta"
    vector_into_scalar = tree.dialect.vector_into_scalar
    path = checkpoint.path
    entries = checkpoint.entries
    entry_of = entries.get
    filled: dict[str, Filled] = {}
    missing: list[str] = []
    problems: list[Problem] = []
    prefixes: list[str] = []
    stack: list[tuple[str, ModuleNode]] = [("", tree.root)]
    while stack:
        prefix, node = stack.pop()
        prefixes.append(prefix)
        local, children = node.local, node.children
        if node.custom or node.odd_names or EXTRA_STATE_KEY in local:
            return None
        if node.loader != "plain" and _rule_applies(prefix, node, versions.get(prefix[:-1]), entries):
            return None
        for name, slot in local.items():
            key = prefix + name
            entry = entry_of(key)
            if entry is None:
                missing.append(key)
                filled[key] = _new(Filled, (key, "initial", slot, None, (), (), None))
                continue
            if type(entry) is not TensorInfo:
                return None
            dtype, shape, stride, offset, storage, layout, type_name = entry[:7]
            wanted = slot.tensor
            if not (
                slot.ordinary
                and type_name in PLAIN_TYPES
                and layout == "strided"
                and dtype in COPYABLE_DTYPES
                and wanted.dtype in COPYABLE_DTYPES
            ):
                return None
            is_meta = own_meta and wanted.device == "meta"
            if valueless and key in valueless and not is_meta:
                return None
            if shape != wanted.shape:
                if not wanted.shape and len(shape) == 1 and (shape[0] == 1 or vector_into_scalar):
                    if shape[0] == 0:
                        return None
                else:
                    problems.append(mismatched(key, shape, wanted.shape))
                    filled[key] = _new(Filled, (key, "initial", slot, None, (), (), None))
                    continue
            if given is not None and not (
                offset == wanted.offset and stride == wanted.stride and dtype == wanted.dtype
            ):
                target = registered(node.live, name)
                if target is None or overlap(given[key], target):
                    return None
            file = path if storage is None else storage.file
            filled[key] = _new(Filled, (key, "meta" if is_meta else "file", slot, entry, ((file, key),), (), None))
        if children:
            if prefix.count(".") + 1 >= room:
                return None
            stack.extend([(f"{prefix}{name}.", child) for name, child in children.items() if child is not None][::-1])
    unexpected: list[str] = []
    ignored: list[str] = []
    if len(filled) - len(missing) < len(entries):
        unexpected, ignored = _left_over([key for key in entries if key not in filled], tree.root, prefixes)
    return Matched(filled, missing, problems, unexpected, ignored)


def _rule_applies(prefix: str, node: ModuleNode, version: int | None, entries: Mapping[str, object]) -> bool:
    """Whether a norm would take or give other keys than its own, since the file is an old one."""
    if node.loader not in ("batchnorm", "instancenorm"):
        return True
    if node.track_running_stats:
        return (version is None or version < 2) and prefix + COUNTER not in entries
    statistics = (prefix + "running_mean", prefix + "running_var")
    return node.loader == "instancenorm" and version is None and any(key in entries for key in statistics)


def _left_over(keys: list[str], root: ModuleNode, prefixes: list[str]) -> tuple[list[str], list[str]]:
    """The keys that are unexpected, as the modules at `prefixes` say it one after the other, and those ignored."""
    turned_away: dict[str, list[str]] = {}
    ignored: list[str] = []
    for key in keys:
        prefix, is_ignored = place_of(key, "", root)
        if is_ignored:
            ignored.append(key)
        elif key == prefix + EXTRA_STATE_KEY:  # which torch looks for first
            turned_away.setdefault(prefix, []).insert(0, key)
        else:
            turned_away.setdefault(prefix, []).append(key)
    return [key for prefix in prefixes if prefix in turned_away for key in turned_away[prefix]], ignored
