"""Outcome → findings: one entry for each thing worth telling, with its rule and its facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ckptdiff.contents.numbers import TensorValues
from ckptdiff.judging import dtypes
from ckptdiff.judging.harmless import harmless
from ckptdiff.judging.loader_findings import found_of
from ckptdiff.judging.rules import RULES, Level
from ckptdiff.loaders.outcome import KeyChange, Outcome, first_keys, memory
from ckptdiff.loaders.torch.texts import known_names, named_in
from ckptdiff.model.tree import ModuleNode, Slot
from ckptdiff.renaming.prefixes import prefix_change
from ckptdiff.tensors import DTYPES, Entry, TensorInfo

Value = str | int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `key` is the state-dict key it is about ("" for the whole), `module` the path of the model's
    module that owns the key ("" for the root or none), `arguments` the facts its rule's message is filled with."""

    rule: str
    level: Level
    key: str
    module: str = ""
    arguments: Mapping[str, Value] = field(default_factory=dict)


def findings(outcome: Outcome) -> tuple[Finding, ...]:
    """Everything that follows from an outcome: errors first, and each rule's keys in torch's order."""
    if outcome.loader.name != "torch":
        told = [_finding(rule, key, facts) for rule, key, facts in found_of(outcome)]
        return _in_order([*told, *_told(outcome)])
    model = outcome.model.keys()
    modules = dict(outcome.model.walk())
    collected = [
        *_errors(outcome, model),
        *_ignored(outcome, modules),
        *_without_values(outcome),
        *_casts(outcome, model),
        *_ties(outcome, model),
        *_values(outcome),
        *_told(outcome),
        *(_finding("unsafe-global", name, module="") for name in outcome.checkpoint.unsafe_globals),
        *_refused(outcome),
        *_unrestored(outcome),
        *(_finding("machine", "", {"machine": name, "text": text}, module="") for name, text in outcome.elsewhere),
        *_explained(outcome, modules),
    ]
    collected += _harmless(outcome, model, {finding.key for finding in collected if RULES[finding.rule].forgives})
    if any(problem.kind in ("missing", "unexpected") for problem in outcome.problems):
        collected += _prefix(outcome, model)
    return _in_order(collected)


def _in_order(unordered: list[Finding]) -> tuple[Finding, ...]:
    """Errors first, then by the rule table."""
    rank = {rule: position for position, rule in enumerate(RULES)}
    levels = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(unordered, key=lambda finding: (levels[finding.level], rank[finding.rule])))


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


def _refused(outcome: Outcome) -> Iterator[Finding]:
    reason = outcome.checkpoint.weights_only
    if reason:
        yield _finding("weights-only", "", {"text": reason}, module="")
    for name in outcome.refused_globals:
        yield _finding("weights-only", name, {"text": "Unsupported global"}, module="")


def _unrestored(outcome: Outcome) -> Iterator[Finding]:
    if outcome.unrestored is not None:
        file = outcome.checkpoint
        trusting = ", weights_only=False" if file.unsafe_globals or file.weights_only else ""
        call = {
            "script": 'without map_location="cpu", torch.jit.load(path)',
            "export": "torch.export.load(path)",
        }.get(file.saved_on[0].by, f'without map_location="cpu", torch.load(path{trusting})')
        devices = ", ".join(dict.fromkeys(place.device for place in file.saved_on))
        yield _finding("saved-on", "", {"devices": devices, "call": call, "text": outcome.unrestored}, module="")


def _errors(outcome: Outcome, model: Mapping[str, Slot]) -> Iterator[Finding]:
    for key in outcome.problem_keys("missing"):
        slot = model.get(key)
        if slot is None:  # `_extra_state`, or a key that a module's own code calls missing
            kind = "extra state" if key.rpartition(".")[2] == "_extra_state" else "value"
            yield _finding("missing-key", key, {"kind": kind})
        elif slot.lazy:
            yield _finding("missing-key", key, {"kind": f"uninitialized {slot.kind}", "dtype": slot.tensor.dtype})
        else:
            facts: dict[str, Value] = {"kind": slot.kind, "dtype": slot.tensor.dtype, "shape": slot.tensor.shape}
            yield _finding("missing-key", key, facts)
    for key in outcome.problem_keys("unexpected"):
        yield _finding("unexpected-key", key, _facts(outcome.checkpoint.entries.get(key)))
    for key, given, wanted in outcome.mismatches():
        yield _finding("size-mismatch", key, {"checkpoint_shape": given, "model_shape": wanted})
    for problem in outcome.problems:
        if problem.kind == "not-a-tensor":
            yield _finding("not-a-tensor", problem.key, {"type": str(problem.given)})


def _facts(entry: Entry | None) -> dict[str, Value]:
    if isinstance(entry, TensorInfo):
        return {"dtype": entry.dtype, "shape": entry.shape}
    return {"type": entry.type_name} if entry else {}


def _ignored(outcome: Outcome, modules: Mapping[str, ModuleNode]) -> Iterator[Finding]:
    for key, why in outcome.unused.items():
        if why == "ignored":
            entry = outcome.checkpoint.entries.get(key)
            yield _finding("ignored-key", key, _facts(entry), module=_none_child(key, modules))


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


def _without_values(outcome: Outcome) -> Iterator[Finding]:
    level: Level = "error" if outcome.assign else "warning"
    for key, item in outcome.filled.items():
        if item.by == "meta" and item.entry is not None:
            side = "checkpoint" if outcome.assign else "model"
            yield _finding("no-values", key, {"side": side, "shape": item.entry.shape}, level=level)


def _casts(outcome: Outcome, model: Mapping[str, Slot]) -> Iterator[Finding]:
    judged: dict[tuple[str, str], str | None] = {}
    for key, entry, slot in outcome.loaded():
        pair = source, target = entry.dtype, slot.tensor.dtype
        if source != target:
            if pair not in judged:
                judged[pair] = dtypes.loss(*pair)
            loss = judged[pair]
            facts: dict[str, Value] = {
                "checkpoint_dtype": source,
                "model_dtype": target,
                "shape": entry.shape,
            }
            if outcome.assign:
                yield _finding("assigned-dtype", key, facts)
            elif loss is None:
                yield _finding("dtype-change", key, facts)
            else:
                yield _finding("lossy-dtype", key, {**facts, "loss": loss})
        # Torch's own hook of a lazy module has given it a shape by the time it is matched.
        if slot.lazy or (key in model and model[key].lazy):
            yield _finding("lazy-parameter", key, {"checkpoint_shape": entry.shape})
        elif slot.tensor.shape == () and len(entry.shape) == 1:
            level: Level = "note" if entry.shape == (1,) else "warning"
            yield _finding("scalar-reshape", key, {"checkpoint_shape": entry.shape}, level=level)


def _ties(outcome: Outcome, model: Mapping[str, Slot]) -> Iterator[Finding]:
    read = outcome.values.ties if outcome.values else {}
    for key, twin in outcome.overwritten.items():
        entry, last = outcome.filled[key].entry, outcome.filled[twin].entry
        assert entry is not None
        assert last is not None
        if differing := read.get(key):
            stored = f"{differing:,} of {entry.numel:,} values differ"
            yield _finding("tied-values-differ", key, {"twin": twin, "stored": stored, "differing": differing})
        elif key not in read and memory(entry) != memory(last):
            yield _finding("tied-values-differ", key, {"twin": twin, "stored": "the checkpoint stores them separately"})
    tied = [key for key in outcome.problem_keys("missing") if key in model and outcome.filled[key].by == "tie"]
    if tied:
        first = first_keys(outcome.model, assign=outcome.assign)
        last_loaded = {first.get(key, key): key for key, _, _ in outcome.loaded()}
        for key in tied:
            yield _finding("tied-alias", key, {"twin": last_loaded[first[key]]})
    if outcome.assign:
        yield from _torn(outcome, model)
        yield from _moved(outcome)


def _torn(outcome: Outcome, model: Mapping[str, Slot]) -> Iterator[Finding]:
    """Keys whose tensor was another key's too, until one of both was assigned."""
    names: dict[int, list[str]] = {}
    for key, slot in model.items():
        names.setdefault(slot.identity, []).append(key)
    for twins in names.values():
        twin = next((key for key in twins if outcome.filled[key].entry is not None), None)
        if twin is not None:
            for key in twins:
                if model[key] is not model[twin]:
                    yield _finding("untied", key, {"twin": twin})


def _moved(outcome: Outcome) -> Iterator[Finding]:
    """Keys whose tensor is on another device once the file's has taken its place, and those that stay apart from them:
    with map_location where there is no other way to read the file, else as it was saved."""
    built_on_meta = outcome.model.built == "meta"
    mapped = outcome.unrestored is not None
    for prefix, node in outcome.model.walk():
        before: dict[str, str] = {}
        after: dict[str, str] = {}
        for name, slot in node.local.items():
            device = slot.tensor.device
            before[name] = "cpu" if device == "meta" and built_on_meta else device
            entry = outcome.filled[f"{prefix}{name}"].entry
            after[name] = (
                before[name] if entry is None else "cpu" if mapped and entry.device != "meta" else entry.device
            )
            if entry is not None and "meta" not in (before[name], after[name]) and before[name] != after[name]:
                facts: dict[str, Value] = {"model_device": before[name], "checkpoint_device": after[name]}
                yield _finding("assigned-device", f"{prefix}{name}", facts)
        apart = {device: name for name, device in reversed(after.items()) if device != "meta"}
        if len(apart) > 1 and len(set(before.values())) == 1:
            first = next(iter(after))
            for name, device in after.items():
                if device not in ("meta", after[first]):
                    yield _finding(
                        "devices-differ",
                        f"{prefix}{name}",
                        {"device": device, "twin": f"{prefix}{first}", "other": after[first]},
                    )


def _values(outcome: Outcome) -> Iterator[Finding]:
    read = outcome.values.tensors if outcome.values else {}
    for key, source, slot in outcome.loaded() if read else ():
        values, target = read.get(key, TensorValues()), slot.tensor
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


def _told(outcome: Outcome) -> Iterator[Finding]:
    """What is known in sentences only: torch's and the hooks' other errors, and what could not be known.

    `about` is the key, module or class that a sentence names, `number` tells apart those about the same: a finding has
    to be known again by facts, since sentences change with releases.
    """
    # torch's two own messages are findings of their own, in better words
    told: list[tuple[str, str, str, Level | None]] = [
        ("load-error", problem.text, problem.key, None)
        for problem in outcome.problems
        if problem.kind in ("cannot-copy", "conversion", "other")
    ]
    if outcome.raised is not None:
        told.append(("load-error", outcome.raised, outcome.raised.partition(":")[0], None))
    unknown = (*outcome.doubts, *(outcome.values.unread if outcome.values else ()))
    if unknown:
        names = known_names(outcome.model, outcome.checkpoint)
        told += [
            ("uncertain", text, named_in(text, names), "error" if text in outcome.undecided else None)
            for text in unknown
        ]
    seen: Counter[tuple[str, str]] = Counter()
    for rule, text, about, level in told:
        seen[rule, about] += 1
        number = seen[rule, about]
        facts: dict[str, Value] = {"text": text, **({"about": about} if about else {})}
        yield _finding(rule, "", {**facts, **({"number": number} if number > 1 else {})}, level=level)


def _explained(outcome: Outcome, modules: Mapping[str, ModuleNode]) -> Iterator[Finding]:
    for key in outcome.problem_keys("unexpected"):
        owner, dot, name = key.rpartition(".")
        node = modules.get(owner + dot)
        if node is not None and name in node.non_persistent:
            yield _finding("non-persistent", key, _facts(outcome.checkpoint.entries.get(key)))
    for key, filled in outcome.filled.items():
        if filled.by == "rule":
            yield _finding("version-upgrade", key)
    for change in outcome.changes:
        facts = {"change": _change(change), "how": change.kind, "new_key": change.new_key}
        yield _finding("hook-rename", change.key, facts, module=change.module)


def _harmless(outcome: Outcome, model: Mapping[str, Slot], explained: set[str]) -> Iterator[Finding]:
    """Keys that one side lacks without harm, once all parameters are loaded, and for which there is no other reason."""
    if outcome.raised is not None or outcome.mismatches():
        return
    parameters = {key for key, slot in model.items() if slot.kind == "parameter"}
    if any(item.by in ("initial", "meta") for key, item in outcome.filled.items() if key in parameters):
        return
    entries = outcome.checkpoint.entries
    for kind in ("missing", "unexpected"):
        for key in (key for key in outcome.problem_keys(kind) if key not in explained):
            slot, entry = model.get(key), entries.get(key)
            tensor = slot.tensor if slot is not None else entry if isinstance(entry, TensorInfo) else None
            if text := harmless(key, tensor.shape if tensor is not None else None, missing=kind == "missing"):
                yield _finding("harmless-key", key, {"text": text})


def _change(change: KeyChange) -> str:
    """What happened to a key, in words relative to the module that did it, so that equal layers read alike."""
    where = f"{change.module}." if change.module else ""
    if change.kind == "renamed":
        return f"renamed to {change.new_key.removeprefix(where)} by code of its module"
    return {"added": "added", "dropped": "dropped", "replaced": "replaced"}[change.kind] + " by code of its module"


def _prefix(outcome: Outcome, model: Mapping[str, Slot]) -> Iterator[Finding]:
    def shape(entry: Entry) -> tuple[int, ...] | None:
        return entry.shape if isinstance(entry, TensorInfo) else None

    change = prefix_change(
        {key: shape(entry) for key, entry in outcome.checkpoint.entries.items() if isinstance(key, str)},
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
                **({"alike": alike} if (alike := " ".join(name for name in change.alike if " " not in name)) else {}),
            },
            module="",
        )
