"""From two state dicts to a repair: rename rules with their evidence, and what is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ckptdiff.renaming.prefixes import prefix_change
from ckptdiff.renaming.rename_rules import RenameRule, apply_rules, escape
from ckptdiff.suggesting.adapters import adaptable, adapter_rules, is_adapter
from ckptdiff.suggesting.decided import Find, after
from ckptdiff.suggesting.families import looks_like
from ckptdiff.suggesting.generalising import Learner
from ckptdiff.suggesting.key_features import Unit
from ckptdiff.suggesting.key_patterns import Shape, Template, fold, shown
from ckptdiff.suggesting.new_head import new_head
from ckptdiff.suggesting.operation_finder import recognise
from ckptdiff.suggesting.pairing import MOST_TEMPLATES, Aligner, Alignment, Pair
from ckptdiff.suggesting.parametrized import respelled_norms
from ckptdiff.suggesting.rotary import REORDERED
from ckptdiff.suggesting.same_layers import same_layers
from ckptdiff.suggesting.same_trees import moved_trees
from ckptdiff.suggesting.suggestion import Ambiguity, Suggestion
from ckptdiff.suggesting.twins import Twins
from ckptdiff.suggesting.wrappers import has_another_copy, wrapped

_MOST_LEFT = 0.1
"""The share of a model that may stay open where trees were moved by what is in them alone: the rest speaks for it."""

_MOST_OPEN = 0.25
"""The same where blocks were told by their layers."""


def suggest_rules(
    checkpoint: Mapping[str, Shape],
    model: Mapping[str, Shape],
    *,
    include_likely: bool = False,
    heads: tuple[int, int] | None = None,
) -> Suggestion:
    """The smallest list of rename rules that makes `checkpoint` fit `model`, with evidence, or a refusal.

    Both are mappings key → shape in their own order. With `include_likely`, `rules` also holds rules that are probable
    but not proven, before the certain ones and marked; `mapping` always says what the certain ones do. What a doubt
    forbids is in neither. `heads` are those of the attention, of queries and of keys: known, the rows of a rotary one
    are put into the order of the other layout.
    """
    # No rule says an empty name.
    checkpoint, model = ({key: shape for key, shape in side.items() if key} for side in (checkpoint, model))
    if not checkpoint or not model:
        return Suggestion(unfilled=len(model), unused=len(checkpoint))
    known = _whole_prefix(checkpoint, model) or _adapter(checkpoint, model)
    if known is not None:
        return known
    find = partial(_aligned, include_likely=include_likely, heads=heads)
    around = wrapped(checkpoint, model)
    best = None if around is None else around.around(_with_known(*around.inside(), find))
    if best is not None and 2 * best.unfilled > len(model):
        best = None  # a prefix under which little fits is a name, no wrapper
    if best is None or not _settled(best):
        best = min(filter(None, (_with_known(checkpoint, model, find), best)), key=_left)
    return replace(best, looks_like=looks_like(checkpoint))


def _with_known(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape], find: Find) -> Suggestion:
    """What `find` finds once the norms have the model's names for their tensors; and once whole trees of modules are
    moved, where it leaves something open without and that fills nearly all."""
    norms = respelled_norms(checkpoint, model)
    aligned = (after(norms, checkpoint, model, find) if norms else None) or find(checkpoint, model)
    if _settled(aligned):
        return aligned
    best = aligned
    for rules, most in ((moved_trees(checkpoint, model), _MOST_LEFT), (_layer_rules(checkpoint, model), _MOST_OPEN)):
        moved = after(rules, checkpoint, model, find) if rules else None
        if moved is not None and moved.unfilled <= most * len(model):
            best = min(best, moved, key=_left)
    return best


def _layer_rules(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> list[RenameRule]:
    """Rules that put the layers of convolutional blocks where the same ones are, and do nothing else."""
    wanted = same_layers(checkpoint, model)
    templates = fold(checkpoint, MOST_TEMPLATES)
    if not wanted or templates is None:
        return []
    same = [key for key, shape in checkpoint.items() if model.get(key) == shape and wanted.get(key, key) == key]
    pairs = [
        {key: wanted[key] for key in template.keys.values() if wanted.get(key, key) != key} for template in templates
    ]
    learner = Learner(templates, checkpoint, model, same)
    for exact in (False, True):
        rules = learner.learn([pair for pair in pairs if pair], {}, exact=exact)
        renaming = apply_rules(rules, checkpoint, strict=False)
        fitting = {old: new for old, new in renaming.moved.items() if model.get(new) == checkpoint[old]}
        if not renaming.collisions and fitting == {old: new for old, new in wanted.items() if old != new}:
            return [
                replace(
                    rule, confidence="certain", keys=count, reason=f"all {count} keys fit, in blocks of the same layers"
                )
                for rule, count in zip(rules, renaming.counts, strict=True)
                if count
            ]
    return []


def _settled(suggestion: Suggestion) -> bool:
    """Whether nothing of the model is left to look for."""
    return suggestion.unfilled == (len(suggestion.head.keys) if suggestion.head is not None else 0)


def _left(suggestion: Suggestion) -> tuple[int, int]:
    return suggestion.unfilled, suggestion.unused


def _aligned(
    checkpoint: Mapping[str, Shape],
    model: Mapping[str, Shape],
    *,
    include_likely: bool,
    heads: tuple[int, int] | None,
) -> Suggestion:
    """What names, shapes and places tell, key by key."""
    aligner = Aligner(checkpoint, adaptable(checkpoint, model) if is_adapter(checkpoint) else model)
    alignment = aligner.run()
    _refuse_twins(alignment, aligner)
    _refuse_torn(alignment, aligner)
    same = {key for key, shape in checkpoint.items() if key in model}
    already = {key for key in same if checkpoint[key] == model[key]}
    rules, mapping = _rules(checkpoint, model, same, aligner.templates, alignment)
    # A pair the rules also make is certain: what holds for its relatives holds for it.
    likely = [pair for pair in alignment.likely if not pair.keys.keys() <= mapping.keys()]
    if include_likely and likely:
        rules = _likely_rules(checkpoint, model, mapping, same, aligner.templates, likely, alignment.doubtful, rules)
    free_here = {key: shape for key, shape in checkpoint.items() if key not in already and key not in mapping}
    filled = already | set(mapping.values())
    free_there = {key: shape for key, shape in model.items() if key not in filled}
    fitting = {**{key: key for key in already}, **mapping}
    operations, squares = recognise(free_here, free_there, rules, aligner, fitting, checkpoint, heads)
    used = {key for operation in operations for key in operation.sources}
    made = {key for operation in operations for key in operation.targets}
    mapping = {old: new for old, new in mapping.items() if old not in used}
    left_here = {key: shape for key, shape in free_here.items() if key not in used}
    left_there = {key: shape for key, shape in free_there.items() if key not in made}
    head = new_head(checkpoint, model, rules, left_here, left_there)
    refused = [*alignment.doubtful, *(() if include_likely else likely)]
    ambiguous = _ambiguities(alignment, refused, mapping, used, made)
    return Suggestion(
        rules=tuple(rules),
        mapping=mapping,
        ambiguous=(*_in_place(aligner.arranged, squares), *ambiguous),
        operations=tuple(operation.finding for operation in operations),
        head=head,
        already=len(already),
        unfilled=len(left_there),
        unused=len(left_here),
    )


def _refuse_twins(alignment: Alignment, aligner: Aligner) -> None:
    """Open again the pairs that were told from a twin by shape and place alone, while the twin goes without."""
    used = {id(unit) for pair in alignment.certain for unit in (pair.source, pair.target)}
    sources = Twins(unit for unit in aligner.sources if id(unit) not in used)
    targets = Twins(unit for unit in aligner.targets if id(unit) not in used)
    for pairs in (alignment.certain, alignment.likely):
        for pair in list(pairs):
            if places := targets.of(pair.target, pair.source):
                pairs.remove(pair)
                alignment.open.append((pair.source, [pair.target, *places]))
            elif copies := sources.of(pair.source, pair.target):
                pairs.remove(pair)
                pair.doubt = f"so would {shown(copies[0].template.path)}, and nothing says which of them is meant"
                alignment.doubtful.append(pair)


def _refuse_torn(alignment: Alignment, aligner: Aligner) -> None:
    """Doubt the pairs that would tear a module: its weight to one module of the model and its bias to another, though
    each of these has both. Matrices that lie the other way round have the shapes of their neighbours."""
    whole = _modules(aligner.targets, "w") & _modules(aligner.targets, "b")
    homes: dict[str, dict[str, set[str]]] = {}
    for pair in (*alignment.certain, *alignment.likely):
        for old, new in pair.keys.items():
            if pair.source.role in ("w", "b") and (home := new.rpartition(".")[0]) in whole:
                homes.setdefault(old.rpartition(".")[0], {}).setdefault(pair.source.role, set()).add(home)
    torn = {module for module, by in homes.items() if len(by) == 2 and by["w"] != by["b"]}
    for pairs in (alignment.certain, alignment.likely):
        for pair in list(pairs):
            if pair.source.role in ("w", "b") and any(key.rpartition(".")[0] in torn for key in pair.keys):
                pairs.remove(pair)
                pair.doubt = "the weight and the bias of one module would go to two"
                alignment.doubtful.append(pair)


def _modules(units: Sequence[Unit], role: str) -> set[str]:
    return {key.rpartition(".")[0] for unit in units if unit.role == role for key in unit.template.keys.values()}


def _whole_prefix(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> Suggestion | None:
    """One prefix more or less gives every key of the model its namesake, and no other one does: nothing is to guess.

    A head of another size and tensors that the model has no use for (an optimizer's) do not speak against it.
    """
    change = prefix_change(dict(checkpoint), dict(model))
    if change is None or change.wrappers or change.side != "model":
        return None
    names, stripping = change.new_names(checkpoint), change.operation == "stripping"
    if len(set(names.values())) < len(names) or (stripping and has_another_copy(checkpoint, model, change.prefix)):
        return None
    mapping = {old: new for old, new in names.items() if model.get(new) == checkpoint[old]}
    free_here = {key: shape for key, shape in checkpoint.items() if key not in mapping}
    filled = set(mapping.values())
    free_there = {key: shape for key, shape in model.items() if key not in filled}
    prefix = escape(change.prefix.removesuffix("."))
    pattern, replacement = (f"{prefix}.{{*}}", "{*}") if stripping else ("{*}", f"{prefix}.{{*}}")
    reason = f"every one of the model's {len(model)} keys has its namesake, and under no other prefix"
    reason += f"; {len(filled)} fit" if len(filled) < len(model) else ""
    rules = [RenameRule(pattern, replacement, "certain", len(names), reason)]
    head = new_head(checkpoint, model, rules, free_here, free_there)
    if free_there and head is None:
        return None
    return Suggestion(
        rules=tuple(rules),
        mapping=mapping,
        head=head,
        looks_like=looks_like(checkpoint),
        unfilled=len(free_there),
        unused=len(free_here),
    )


def _adapter(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> Suggestion | None:
    """An adapter whose every key goes where peft puts it, or is there under its own name."""
    rules = adapter_rules(checkpoint, model)
    renaming = apply_rules(rules, checkpoint, strict=False)
    filled = {new for old, new in renaming.mapping.items() if model.get(new) == checkpoint[old]}
    if not rules or len(filled) < len(checkpoint):
        return None
    return Suggestion(
        rules=tuple(rules),
        mapping=renaming.moved,
        looks_like=looks_like(checkpoint),
        already=len(checkpoint) - len(renaming.moved),
        unfilled=len(model) - len(filled),
    )


def _rules(
    checkpoint: Mapping[str, Shape],
    model: Mapping[str, Shape],
    same: set[str],
    templates: Sequence[Template],
    alignment: Alignment,
) -> tuple[list[RenameRule], dict[str, str]]:
    """The rules for the certain pairs, and what they rename."""
    wanted = {old: new for pair in alignment.certain for old, new in pair.keys.items()}
    if not wanted:
        return [], {}
    allowed = {old: new for pair in alignment.likely for old, new in pair.keys.items()}
    learner = Learner(templates, checkpoint, model, same)
    pairs = [pair.keys for pair in alignment.certain]
    for exact in (False, True):
        learnt = learner.learn(pairs, allowed, exact=exact)
        # The proof: the rules are applied to every key, and do what was found and nothing else.
        renaming = apply_rules(learnt, checkpoint, strict=False)
        moved = {old: new for old, new in renaming.moved.items() if new in model and model[new] == checkpoint[old]}
        if (
            not renaming.collisions
            and all(renaming.mapping[key] == key for key in same)
            and all(moved.get(old) == new for old, new in wanted.items())
            and all(allowed.get(old) == new for old, new in moved.items() if old not in wanted)
        ):
            return _explained(learnt, checkpoint, model, alignment.certain, "certain"), moved
    return [], {}


def _likely_rules(
    checkpoint: Mapping[str, Shape],
    model: Mapping[str, Shape],
    mapping: Mapping[str, str],
    same: set[str],
    templates: Sequence[Template],
    likely: Sequence[Pair],
    doubtful: Sequence[Pair],
    rules: Sequence[RenameRule],
) -> list[RenameRule]:
    fixed = [*same, *mapping]
    learner = Learner(templates, checkpoint, model, fixed)
    wanted = {old: new for pair in likely for old, new in pair.keys.items()} | dict(mapping)
    forbidden = {old: new for pair in doubtful for old, new in pair.keys.items()}
    for exact in (False, True):
        learnt = learner.learn([pair.keys for pair in likely], {}, exact=exact)
        renaming = apply_rules([*learnt, *rules], checkpoint, strict=False)
        if (
            not renaming.collisions
            and all(renaming.mapping[old] == new for old, new in wanted.items())
            and not any(renaming.mapping[old] == new for old, new in forbidden.items())
        ):
            break
    else:
        return list(rules)
    return [*_explained(learnt, checkpoint, model, likely, "likely"), *rules]


def _explained(
    rules: Sequence[RenameRule],
    keys: Mapping[str, Shape],
    model: Mapping[str, Shape],
    pairs: Sequence[Pair],
    confidence: str,
) -> list[RenameRule]:
    """The rules with what they move and why."""
    renaming = apply_rules(rules, keys, strict=False)
    fitting = Counter(renaming.by[old] for old, new in renaming.moved.items() if model.get(new) == keys[old])
    owner = {key: pair for pair in pairs for key in pair.keys}
    members: dict[int, dict[int, Pair]] = {}
    for key in renaming.moved:
        if key in owner:
            members.setdefault(renaming.by[key], {})[id(owner[key])] = owner[key]
    return [
        RenameRule(
            rule.pattern,
            rule.replacement,
            confidence,
            count,
            _reason(list(members.get(number, {}).values()), count, fitting[number], confidence),
        )
        for number, (rule, count) in enumerate(zip(rules, renaming.counts, strict=True))
        if count
    ]


def _reason(pairs: Sequence[Pair], count: int, fitting: int, confidence: str) -> str:
    """One sentence of evidence for a rule that moves `count` keys of `pairs`, of which so many then fit."""
    if not pairs:
        return f"moves {count} {_keys(count)}"
    fit = f"{fitting} of the {count} keys that it moves fit" if fitting < count else f"all {count} keys fit"
    fit = fit if count > 1 else "the one key fits"
    if confidence == "likely":
        alone = "but the names share too little to be sure" if pairs[0].evidence else "by shape and place alone"
        return f"{fit}, {alone}"
    layers = max(len(pair.keys) for pair in pairs)
    tails = [pair for pair in pairs if pair.source.template.path[-2:] == pair.target.template.path[-2:]]
    parts = [fit]
    if layers > 1:
        parts.append(f"the same in every one of {layers} repetitions")
    if len(tails) == len(pairs):
        parts.append("what follows keeps its name")
    else:
        words = sorted({word for pair in pairs for word in pair.source.last & pair.target.names if word[0] != "#"})[:4]
        if words:
            parts.append("both sides speak of " + ", ".join(word.split(" ")[0] for word in words))
    anchored = next((pair.anchor for pair in pairs if pair.anchor), "")
    if anchored:
        parts.append(f"its relatives lie in {anchored} too")
    return ", ".join(parts)


def _keys(count: int) -> str:
    return "key" if count == 1 else "keys"


def _in_place(arranged: Sequence[tuple[str, tuple[str, ...]]], squares: Mapping[str, str]) -> Iterator[Ambiguity]:
    """What fits as it is, though its values may lie otherwise."""
    for name, keys in arranged:
        if keys:
            sentence = f"{len(keys)} {_keys(len(keys))} fit, but {REORDERED}."
            yield Ambiguity(name, keys, (name,), sentence)
    for template in fold(dict.fromkeys(squares, ())):
        keys = tuple(template.keys.values())
        sentence = (
            f"{len(keys)} square {'matrix fits' if len(keys) == 1 else 'matrices fit'} either way round, beside others "
            "that must be transposed: nothing says whether these must, too."
        )
        yield Ambiguity(shown(template.path), keys, (shown(template.path),), sentence)


def _ambiguities(
    alignment: Alignment,
    refused: Sequence[Pair],
    mapping: Mapping[str, str],
    used: set[str],
    made: set[str],
) -> tuple[Ambiguity, ...]:
    out = []
    taken = set(mapping.values()) | made
    for pair in refused:
        keys = tuple(key for key in pair.keys if key not in used)
        if keys:
            target = shown(pair.target.template.path)
            why = pair.doubt or "that is likely, not certain"
            sentence = f"{len(keys)} {_keys(len(keys))} would fit {target}, but {why}."
            out.append(Ambiguity(shown(pair.source.template.path), keys, (target,), sentence))
    for unit, candidates in alignment.open:
        keys = tuple(key for key in unit.template.keys.values() if key not in used and key not in mapping)
        left = [candidate for candidate in candidates if not taken.issuperset(candidate.template.keys.values())]
        if keys and left:
            names = tuple(shown(candidate.template.path) for candidate in left)
            many = f"{len(names)} places fit alike and nothing tells them apart"
            sentence = (
                many if len(names) > 1 else f"the only place of its shape is {names[0]}, but {_unsaid(unit, left[0])}"
            )
            out.append(Ambiguity(shown(unit.template.path), keys, names, sentence + "."))
    return tuple(out)


def _unsaid(source: Unit, target: Unit) -> str:
    """Why a place of the right shape is not taken: the names say nothing, or too little."""
    words, wanted = (
        {word.lower() for part in unit.module for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part)} | unit.names
        for unit in (source, target)
    )
    shared = ", ".join(sorted(word for word in words & wanted if word.isalpha()))
    return f"that both speak of {shared} is too little to be sure" if shared else "nothing in the names says so"
