"""What was written, or would be, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce

from ckptdiff.keys import fold
from ckptdiff.loaders.torch.answer import loads
from ckptdiff.printable import json_text
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import count, size
from ckptdiff.render.sections import Answer, Block
from ckptdiff.render.text import answer as as_text
from ckptdiff.render.view import DEFAULT
from ckptdiff.spelling import option, options
from ckptdiff.writing.execute import Job, Written
from ckptdiff.writing.plan import FilterPlan

_MOST = 20


def _tied() -> str:
    return (
        "safetensors writes a tied tensor once; load_state_dict is strict about the other names, "
        f"safetensors.torch.load_model is not ({options(shared='copy')} writes them)"
    )


def text(done: Job | Written, *, show_all: bool) -> str:
    """A dry run's plan, or what came of it, as plain text; ends with a newline."""
    return as_text(answer(done, show_all=show_all), DEFAULT)


def answer(done: Job | Written, *, show_all: bool) -> Answer:
    """A dry run's plan, or what came of it."""
    job = done.job if isinstance(done, Written) else done
    plan, most = job.plan, None if show_all else _MOST
    facts: list[tuple[str, str]] = []
    blocks: list[Block] = []
    tensors = count(len(job.keys), "tensor")
    if isinstance(done, Written):
        files = "" if len(done.files) == 1 else f" in {count(len(done.files), 'file')}"
        verdict = f"Wrote {tensors} to {plain(str(job.output.path))}{files}, {size(done.nbytes)}."
        good: bool | None = True
        if plan.tree is not None and done.outcome is not None:
            strict = "" if loads(done.outcome) else " with strict=False"
            facts.append(("", f"It loads into {plain(plan.tree.reference)}{strict}."))
            good = None if strict else True
    else:
        good = None
        verdict = f"Would write {tensors} to {plain(str(job.output.path))}, {size(job.layout.nbytes)}."
        kept = _sources(job) if show_all else _folded(job.keys)
        blocks += _section(f"kept ({len(job.keys)})", kept, most)
    rows = [f"{plain(key)}: written as {plain(other)}" for key, other in job.left_out.items()]
    blocks += _section(f"left out ({len(rows)}): {_tied()}", rows, most)
    reasons: dict[str, dict[str, list[str]]] = {}
    for drop in plan.dropped:
        reasons.setdefault(drop.why, {}).setdefault(drop.detail, []).append(drop.key)
    for why, details in reasons.items():
        rows = [
            f"{row}: {plain(detail, 400)}" if detail else row
            for detail, keys in details.items()
            for row in _folded(keys)
        ]
        number = sum(map(len, details.values()))
        blocks += _section(f"dropped ({number}): {plain(why, 400)}", rows, most)
    entries = [plain(name) for name in job.dropped_entries]
    blocks += _section(f"left out of what is around it ({len(entries)})", entries, most)
    blocks += _section(f"renamed ({len(plan.renamed)})", _renames(plan), most)
    blocks += _section(
        f"adapted ({len(plan.adapted)})", [f"{plain(key)}: {plain(how, 400)}" for key, how in plan.adapted], most
    )
    blocks += _section(f"filled with the model's own initial values ({len(plan.filled)})", _folded(plan.filled), most)
    converted: dict[str, int] = {}
    for _, old, new in plan.converted:
        converted[f"{old} to {new}"] = converted.get(f"{old} to {new}", 0) + 1
    blocks += _section("converted", [f"{what}: {count(number, 'tensor')}" for what, number in converted.items()], most)
    if isinstance(done, Written) and done.damage:
        blocks += _section("damaged, and copied as it is", [plain(text, 1000) for text in done.damage], most)
    if isinstance(done, Written) and done.overflowed:
        rows = [f"{plain(key)}: {count(number, 'value')}" for key, number in done.overflowed.items()]
        blocks += _section("overflowed in the new dtype", rows, most)
    blocks += _section("to know", [plain(note, 600) for note in (*_moved(job), *plan.notes, *plan.uncertain)], None)
    return Answer(verdict, good, tuple(facts), tuple(blocks))


def _moved(job: Job) -> list[str]:
    """That what was on another device is not any more."""
    devices = ", ".join(dict.fromkeys(place.device for place in job.plan.checkpoint.saved_on))
    return [f"saved on {devices}, written for the CPU"] if devices else []


def json(done: Job | Written) -> str:
    """The same for programs: complete, ending with a newline."""
    return json_text(document(done)) + "\n"


def document(done: Job | Written) -> dict[str, object]:
    """What its JSON holds."""
    job = done.job if isinstance(done, Written) else done
    plan = job.plan
    value: dict[str, object] = {
        "schema_version": 1,
        "dry_run": not isinstance(done, Written),
        "out": str(job.output.path),
        "format": job.output.format,
        "files": [{"path": path, "bytes": size} for path, size in done.files] if isinstance(done, Written) else [],
        "bytes": done.nbytes if isinstance(done, Written) else job.layout.nbytes,
        "tensors": list(job.keys),
        "objects": [item.key for item in plan.objects],
        "left_out": [{"key": key, "written_as": other, "reason": _tied()} for key, other in job.left_out.items()],
        "dropped": [{"key": drop.key, "reason": drop.why, "detail": drop.detail} for drop in plan.dropped],
        "renamed": [{"from": old, "to": new} for old, new in plan.renamed],
        "adapted": [{"key": key, "how": how} for key, how in plan.adapted],
        "filled": list(plan.filled),
        "converted": [{"key": key, "from": old, "to": new} for key, old, new in plan.converted],
        "notes": [*_moved(job), *plan.notes],
        "uncertain": list(plan.uncertain),
    }
    if isinstance(done, Written):
        value["overflowed"] = dict(done.overflowed or {})
        if done.outcome is not None:
            value["loads"] = {"strict": loads(done.outcome), "non_strict": loads(done.outcome, strict=False)}
            value["missing_keys"] = list(done.outcome.problem_keys("missing"))
    return value


def _sources(job: Job) -> list[str]:
    """Each tensor, and the bytes of the input it is."""
    rows = []
    for block in job.layout.blocks:
        places = [f"{plain(span.file)} {span.start}..{span.start + span.nbytes}" for span in block.ranges or ()]
        where = "computed" if block.ranges is None else ", ".join(places) or "no bytes"
        rows += [f"{plain(member.keep.key)}: {where}" for member in block.members]
    return rows


def _folded(keys: Iterable[str]) -> list[str]:
    return [plain(item.pattern) for item in fold(keys)]


def _renames(plan: FilterPlan) -> list[str]:
    """One row for all the keys that one rule renamed, and of the others for all that changed in the same way."""
    pairs, rules = plan.renamed, () if plan.renames is None else plan.renames.rules
    if plan.renames is None or not rules or plan.renames.add_prefix:
        return _alike(pairs)
    from ckptdiff.renaming.prefixes import strip_prefix
    from ckptdiff.renaming.rename_rules import apply_rules

    stripped = {old: reduce(strip_prefix, plan.renames.strip_prefix, old) for old, _ in pairs}
    by_rule = apply_rules(rules, stripped.values(), strict=False)
    counts = Counter(by_rule.by[name] for name in stripped.values() if name in by_rule.by)
    rows = [f"{plain(str(rules[number]))} ({count(keys, 'key')})" for number, keys in sorted(counts.items())]
    return [*rows, *_alike([(old, new) for old, new in pairs if stripped[old] not in by_rule.by])]


def _alike(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """One row for all the keys of which the same leading components became the same others."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for old, new in pairs:
        before, after = old.split("."), new.split(".")
        while before and after and before[-1] == after[-1]:
            before, after = before[:-1], after[:-1]
        groups.setdefault((".".join([*before, ""]), ".".join([*after, ""])), []).append((old, new))
    rows = []
    for (lost, gained), members in groups.items():
        many = len(members) > 1
        old, new = (f"{lost}{{*}}", f"{gained}{{*}}") if many else members[0]
        rows.append(f"{plain(old)} -> {plain(new)}" + (f" ({len(members)} keys)" if many else ""))
    return rows


def _section(title: str, rows: Sequence[str], most: int | None) -> list[Block]:
    if not rows:
        return []
    if most is None or len(rows) <= most:
        return [Block(title, tuple(rows))]
    return [Block(title, (*rows[:most], f"... {len(rows) - most} more ({option('all')})"))]
