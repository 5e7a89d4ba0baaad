"""Another head: all else of the model is filled, and what stays is what a new task replaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ckptdiff.renaming.rename_rules import RenameRule, apply_rules
from ckptdiff.suggesting.key_patterns import Shape
from ckptdiff.suggesting.suggestion import Head
from ckptdiff.suggesting.vocabulary import ROLES, matrix_role, words

_HEAD = frozenset({"head", "predictor", "logit", "score", "criterion"})
"""Words of a component that make all below it a head's."""
_FEW = 4
_SHARE = 0.1
"""What a head may be of a model, in tensors."""


def new_head(
    checkpoint: Mapping[str, Shape],
    model: Mapping[str, Shape],
    rules: Sequence[RenameRule],
    free_here: Mapping[str, Shape],
    free_there: Mapping[str, Shape],
) -> Head | None:
    """The head, where it is all that keeps the checkpoint from filling the model; None where more does.

    `free_here` and `free_there` are what goes nowhere and what nothing fills. A renamed key lands on its own namesake,
    which differs in its first size: the number of classes. What has no namesake is a head's by its name, and by nothing
    of its sizes being left in the checkpoint, which would then be likely, not gone.
    """
    renamed = apply_rules(rules, free_here, strict=False).mapping
    mismatched = {
        old: (new, checkpoint[old], model[new])
        for old, new in renamed.items()
        if new in free_there and len(checkpoint[old]) == len(model[new])
    }
    gone = free_there.keys() - {new for new, _, _ in mismatched.values()}
    few = len(free_there) <= max(_FEW, _SHARE * len(model))
    if not free_there or not few:
        return None
    if gone and not (all(map(_of_a_head, gone)) and not _left_over(gone, free_there, free_here, mismatched)):
        return None
    by_name = gone or all(_of_a_head(new) for new, _, _ in mismatched.values())
    if not by_name and not _of_classes(mismatched):
        return None
    return Head(
        mismatched=mismatched,
        missing=tuple(key for key in free_there if key in gone),
        sentence=_sentence(mismatched, gone),
    )


def _of_a_head(key: str) -> bool:
    """Whether a key names a part of a head: by a word of its path, or as the last matrix of the model itself."""
    path = key.split(".")
    module = path[:-1] if path[-1] in ROLES and len(path) > 1 else path
    spoken = [words(component) for component in module]
    if any(_HEAD.intersection(said) for said in spoken):
        return True
    named = [component for component in module if not component.isdecimal()]
    return bool(named) and matrix_role(named, [words(component) for component in named]) == "head"


def _left_over(
    gone: Iterable[str],
    there: Mapping[str, Shape],
    here: Mapping[str, Shape],
    mismatched: Mapping[str, object],
) -> bool:
    """Whether the checkpoint has a tensor left that would fit one of those that are said to be gone."""
    left = {shape for key, shape in here.items() if key not in mismatched}
    return any(there[key] in left for key in gone)


def _of_classes(mismatched: Mapping[str, tuple[str, Shape, Shape]]) -> bool:
    """Whether the first size alone differs, of matrices and their biases: no norm's, and no table's of words."""
    matrices = {new.rpartition(".")[0] for new, _, there in mismatched.values() if len(there) > 1}
    return all(
        here[:1] != there[:1]
        and here[1:] == there[1:]
        and new.rpartition(".")[0] in matrices
        and not any("embed" in words(component) for component in new.split("."))
        for new, here, there in mismatched.values()
    )


def _sentence(mismatched: Mapping[str, tuple[str, Shape, Shape]], gone: Iterable[str]) -> str:
    count = len(mismatched)
    keys = "key" if count == 1 else "keys"
    if not gone:
        first = next(iter(mismatched.values()))
        _, here, there = first
        place = next((place for place, sizes in enumerate(zip(here, there, strict=True)) if sizes[0] != sizes[1]), 0)
        sizes = f" ({here[place]} → {there[place]})" if here else ""
        return f"backbone 100 %, head differs{sizes}: `ckptdiff filter` drops {count} {keys}"
    many = len(list(gone))
    stay = f"{many} {'key stays' if many == 1 else 'keys stay'} new"
    dropped = f", `ckptdiff filter` drops {count} {keys}" if count else ""
    return f"backbone 100 %, and nothing of the checkpoint is the model's head: {stay}{dropped}"
