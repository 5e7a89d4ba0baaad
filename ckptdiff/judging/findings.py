"""Comparison → findings: one entry for each thing worth telling, with its rule and its facts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ckptdiff.judging import dtypes
from ckptdiff.judging.rules import RULES, Level
from ckptdiff.loaders.outcome import Comparison, KeyChange, memory
from ckptdiff.model.tree import ModuleNode, Slot
from ckptdiff.renaming.prefixes import prefix_change
from ckptdiff.tensors import DTYPES, Entry, TensorInfo

Value = str | int | tuple[int, ...]

# A name in a sentence: what stands in quotes, or a word without the punctuation around it.
_NAME = re.compile(r'"([^"]*)"|([^\s"\'(),:;]+)')


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `key` is the state-dict key it is about ("" for the whole), `module` the path of the model's
    module that owns the key ("" for the root or none), `arguments` the facts its rule's message is filled with."""

    rule: str
    level: Level
    key: str
    module: str = ""
    arguments: Mapping[str, Value] = field(default_factory=dict)


def findings(comparison: Comparison) -> tuple[Finding, ...]:
    """Everything that follows from a comparison: errors first, and each rule's keys in torch's order."""
    model = comparison.model.keys()
    modules = dict(comparison.model.walk())
    found = [
        *_errors(comparison, model),
        *_ignored(comparison, modules),
        *_casts(comparison, model),
        *_ties(comparison, model),
        *_values(comparison),
        *_told(comparison, modules),
        *(_finding("unsafe-global", name, module="") for name in comparison.checkpoint.unsafe_globals),
        *_refused(comparison.checkpoint.weights_only),
        *_explained(comparison, modules),
    ]
    if comparison.missing_keys or comparison.unexpected_keys:
        found += _prefix(comparison, model)
    rank = {rule: position for position, rule in enumerate(RULES)}
    levels = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(found, key=lambda finding: (levels[finding.level], rank[finding.rule])))


def _finding(
    rule: str,
    key: str,
    facts: Mapping[str, Value] | None = None,
    *,
    level: Level | None = None,
    module: str | None = None,
) -> Finding:
    owner = key.rpartition(".")[0] if module is None else module
    return Finding(rule, level or RULES[rule].level, key, owner, facts or {})


def _refused(reason: str) -> Iterator[Finding]:
    if reason:
        yield _finding("weights-only", "", {"text": reason}, module="")


def _errors(comparison: Comparison, model: Mapping[str, Slot]) -> Iterator[Finding]:
    for key in comparison.missing_keys:
        slot = model.get(key)
        if slot is None:  # `_extra_state`, or a key that a module's own code calls missing
            kind = "extra state" if key.rpartition(".")[2] == "_extra_state" else "value"
            yield _finding("missing-key", key, {"kind": kind})
        elif slot.lazy:
            yield _finding("missing-key", key, {"kind": f"uninitialized {slot.kind}", "dtype": slot.tensor.dtype})
        else:
            facts: dict[str, Value] = {"kind": slot.kind, "dtype": slot.tensor.dtype, "shape": slot.tensor.shape}
            yield _finding("missing-key", key, facts)
    for key in comparison.unexpected_keys:
        yield _finding("unexpected-key", key, _facts(comparison.checkpoint.entries.get(key)))
    for mismatch in comparison.mismatched:
        yield _finding(
            "size-mismatch",
            mismatch.key,
            {"checkpoint_shape": mismatch.checkpoint_shape, "model_shape": mismatch.model_shape},
        )
    for key, type_name in comparison.not_tensors.items():
        yield _finding("not-a-tensor", key, {"type": type_name})


def _facts(entry: Entry | None) -> dict[str, Value]:
    if isinstance(entry, TensorInfo):
        return {"dtype": entry.dtype, "shape": entry.shape}
    return {"type": entry.type_name} if entry else {}


def _ignored(comparison: Comparison, modules: Mapping[str, ModuleNode]) -> Iterator[Finding]:
    for key in comparison.ignored_keys:
        yield _finding(
            "ignored-key", key, _facts(comparison.checkpoint.entries.get(key)), module=_none_child(key, modules)
        )


def _none_child(key: str, modules: Mapping[str, ModuleNode]) -> str:
    """The path of the child registered as None that `key` lies below."""
    position = 0
    while True:
        node = modules.get(key[:position])
        end = key.find(".", position)
        if node is None or end < 0:
            return key.rpartition(".")[0]
        if node.children.get(key[position:end], node) is None:
            return key[:end]
        position = end + 1


def _casts(comparison: Comparison, model: Mapping[str, Slot]) -> Iterator[Finding]:
    judged: dict[tuple[str, str], str | None] = {}
    for key, match in comparison.matched.items():
        pair = source, target = match.source.dtype, match.target.tensor.dtype
        if source != target:
            if pair not in judged:
                judged[pair] = dtypes.loss(*pair)
            loss = judged[pair]
            facts: dict[str, Value] = {
                "checkpoint_dtype": source,
                "model_dtype": target,
                "shape": match.source.shape,
            }
            if comparison.assign:
                yield _finding("assigned-dtype", key, facts)
            elif loss is None:
                yield _finding("dtype-change", key, facts)
            else:
                yield _finding("lossy-dtype", key, {**facts, "loss": loss})
        # Torch's own hook of a lazy module has given it a shape by the time it is matched.
        if match.target.lazy or (key in model and model[key].lazy):
            yield _finding("lazy-parameter", key, {"checkpoint_shape": match.source.shape})
        elif match.target.tensor.shape == () and len(match.source.shape) == 1:
            level: Level = "note" if match.source.shape == (1,) else "warning"
            yield _finding("scalar-reshape", key, {"checkpoint_shape": match.source.shape}, level=level)


def _ties(comparison: Comparison, model: Mapping[str, Slot]) -> Iterator[Finding]:
    identities = comparison.identities()
    winners: dict[int | str, str] = {identity: key for key, identity in identities.items()}
    read = comparison.values.ties if comparison.values else {}
    for key, match in comparison.matched.items():
        twin = winners[identities[key]]
        if differing := read.get(key):
            stored = f"{differing:,} of {match.source.numel:,} values differ"
            yield _finding("tied-values-differ", key, {"twin": twin, "stored": stored, "differing": differing})
        elif key not in read and twin != key and memory(match.source) != memory(comparison.matched[twin].source):
            yield _finding("tied-values-differ", key, {"twin": twin, "stored": "the checkpoint stores them separately"})
    for key in comparison.missing_keys:
        slot = model.get(key)
        if slot is not None and comparison.identity(slot) in winners:
            yield _finding("tied-alias", key, {"twin": winners[comparison.identity(slot)]})
    if comparison.assign:
        yield from _torn(comparison, model)


def _torn(comparison: Comparison, model: Mapping[str, Slot]) -> Iterator[Finding]:
    """Keys whose tensor was another key's too, until one of both was assigned."""
    names: dict[int, list[str]] = {}
    for key, slot in model.items():
        names.setdefault(slot.identity, []).append(key)
    for twins in names.values():
        twin = next((key for key in twins if key in comparison.matched), None)
        if twin is not None:
            for key in twins:
                if model[key] is not model[twin]:
                    yield _finding("untied", key, {"twin": twin})


def _values(comparison: Comparison) -> Iterator[Finding]:
    for key, values in comparison.values.tensors.items() if comparison.values else ():
        source, target = comparison.matched[key].source, comparison.matched[key].target.tensor
        if values.nan or values.inf:
            facts: dict[str, Value] = {"nan": values.nan, "infinite": values.inf, "total": source.numel}
            yield _finding("non-finite-values", key, {**facts, "first": _place(values.first_non_finite, source.shape)})
        if values.lost:
            continuous = all(DTYPES[dtype].kind in ("float", "complex") for dtype in (source.dtype, target.dtype))
            dropped = DTYPES[source.dtype].kind == "complex" and DTYPES[target.dtype].kind != "complex"
            yield _finding(
                "cast-overflow",
                key,
                {
                    "checkpoint_dtype": source.dtype,
                    "model_dtype": target.dtype,
                    "lost": values.lost,
                    "total": source.numel,
                    "effect": "beyond its range" if continuous and not dropped else "changed",
                    "first": _place(values.first_lost, source.shape),
                },
            )


def _place(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of an element that is at `position` in row-major order."""
    index: list[int] = []
    for size in reversed(shape):
        position, here = divmod(position, size)
        index.append(here)
    return tuple(reversed(index))


def _told(comparison: Comparison, modules: Mapping[str, ModuleNode]) -> Iterator[Finding]:
    """What is known in sentences only: torch's and the hooks' other errors, and what could not be known.

    `about` is the key, module or class that a sentence names, `number` tells apart those about the same: a finding has
    to be known again by facts, since sentences change with releases.
    """
    accounted = {f"size mismatch for {mismatch.key}" for mismatch in comparison.mismatched}
    for key in comparison.not_tensors:
        accounted.add(f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object')
    # torch's two own messages are findings of their own, in better words
    told = [
        ("load-error", text, "")
        for text in comparison.error_msgs
        if not accounted & {text.partition(": copying a param")[0], text.partition(" from checkpoint")[0]}
    ]
    if comparison.raised is not None:
        told.append(("load-error", comparison.raised, comparison.raised.partition(":")[0]))
    unknown = (*comparison.uncertain, *(comparison.values.unread if comparison.values else ()))
    told += [("uncertain", text, "") for text in unknown]
    if not told:
        return
    known = {prefix[:-1] for prefix in modules} | {node.qualified_name for node in modules.values()}
    known |= comparison.model.keys().keys() | {key for key in comparison.checkpoint.entries if isinstance(key, str)}
    seen: Counter[tuple[str, str]] = Counter()
    for rule, text, error in told:
        names = (quoted or word.rstrip(".") for quoted, word in _NAME.findall(text))
        about = error or next((name for name in names if name and name in known), "")
        seen[rule, about] += 1
        number = seen[rule, about]
        facts: dict[str, Value] = {"text": text, **({"about": about} if about else {})}
        yield _finding(rule, "", {**facts, **({"number": number} if number > 1 else {})})


def _explained(comparison: Comparison, modules: Mapping[str, ModuleNode]) -> Iterator[Finding]:
    for key in comparison.unexpected_keys:
        owner, dot, name = key.rpartition(".")
        node = modules.get(owner + dot)
        if node is not None and name in node.non_persistent:
            yield _finding("non-persistent", key, _facts(comparison.checkpoint.entries.get(key)))
    for key in comparison.supplied:
        yield _finding("version-upgrade", key)
    for change in comparison.key_changes:
        facts = {"change": _change(change), "how": change.kind, "new_key": change.new_key}
        yield _finding("hook-rename", change.key, facts, module=change.module)


def _change(change: KeyChange) -> str:
    """What happened to a key, in words relative to the module that did it, so that equal layers read alike."""
    where = f"{change.module}." if change.module else ""
    if change.kind == "renamed":
        return f"renamed to {change.new_key.removeprefix(where)} by code of its module"
    return {"added": "added", "dropped": "dropped", "replaced": "replaced"}[change.kind] + " by code of its module"


def _prefix(comparison: Comparison, model: Mapping[str, Slot]) -> Iterator[Finding]:
    def shape(entry: Entry) -> tuple[int, ...] | None:
        return entry.shape if isinstance(entry, TensorInfo) else None

    change = prefix_change(
        {key: shape(entry) for key, entry in comparison.checkpoint.entries.items() if isinstance(key, str)},
        {key: slot.tensor.shape for key, slot in model.items()},
    )
    if change is not None:
        yield _finding(
            "prefix",
            change.prefix,
            {
                "operation": change.operation,
                "side": change.side,
                "matched": change.matched,
                "same_shape": change.same_shape,
                **({"wrappers": " ".join(change.wrappers)} if change.wrappers else {}),
            },
            module="",
        )
