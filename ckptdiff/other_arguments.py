"""Which other arguments of its constructor make a model fit a checkpoint: what the file says, else what is found by
trying, each held against the real walk before it is said."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.told_arguments import Told, told_by
from ckptdiff.errors import CkptdiffError
from ckptdiff.renaming.applied import Renames
from ckptdiff.renaming.prefixes import add_prefix, prefixes_between, strip_prefix
from ckptdiff.renaming.rename_rules import apply_rules
from ckptdiff.stages import doing
from ckptdiff.suggesting.constructor_arguments import Arguments, Search, Values

if TYPE_CHECKING:
    from ckptdiff.checkpoint.checkpoint import Checkpoint
    from ckptdiff.model.given import GivenModel
    from ckptdiff.model.tries import Tries
    from ckptdiff.requests import ModelRequest

SECONDS = 10.0
"""In which they are looked for; what was not found by then is not said."""

Shapes = Mapping[str, tuple[int, ...]]


def takes_arguments(given: GivenModel) -> bool:
    """Whether the model was built by a constructor that may be given other sizes or switches."""
    tries = _tries(given)
    return tries is not None and any(isinstance(value, (int, tuple, list)) for value in tries.now().values())


def arguments_for(
    model: ModelRequest,
    given: GivenModel,
    file: Checkpoint,
    renames: Renames,
    loads: Callable[[ModelRequest], bool],
) -> Arguments | None:
    """The arguments, where there are some with which the checkpoint loads whole, or at least has every size.

    `renames` are what was found for the model as it is. `loads` says whether the model with other arguments is filled,
    by the walk, after all that is suggested for it.
    """
    tries = _tries(given) if takes_arguments(given) else None
    if tries is None:
        return None
    doing("looking for arguments")
    shapes = _named_alike(file.shapes(), given.tree.shapes(), renames)
    told = list(told_by(file))
    found: list[Arguments] = []
    with suppress(TimeoutError), tries.trying(len(shapes)) as build:
        search = Search(shapes, tries.now(), build, dict(ChainMap(*(dict(each.values) for each in told))))
        if search.begin():
            found.extend(_found(search, told))

    def all_load(arguments: Arguments) -> bool:
        with suppress(CkptdiffError):
            return all(loads(with_arguments(model, values)) for values in (arguments.values, *arguments.alike))
        return False

    for arguments in found:
        if all_load(arguments):
            return arguments
        if not search.named:  # every size is there, under names that nobody could be sure of
            return replace(arguments, loads=False)
    return None


def with_arguments(model: ModelRequest, values: Values) -> ModelRequest:
    """The model with some arguments replaced."""
    return replace(model, args={**model.args, **values})


def _tries(given: GivenModel) -> Tries | None:
    if given.built is None or given.built.ready or given.reference is None:
        return None
    from ckptdiff.model.tries import Tries

    return Tries(given.reference, given.args, given.built, SECONDS)


def _found(search: Search, told: list[Told]) -> Iterator[Arguments]:
    """What fits by keys and sizes: what is said, else what is found."""
    said = search.told
    for each in told:
        for kinds in ((object,), (int,)):  # what else it says may be meant for others
            search.told = {name: value for name, value in each.values.items() if isinstance(value, kinds)}
            if (values := search.by_word()) is not None:
                yield Arguments(values, each.source)
                return
    search.told = said
    if (values := search.by_trying()) is not None:
        yield Arguments(values, alike=search.alike(values), unseen=search.without_effect(values))


def _named_alike(given: Shapes, wanted: Shapes, renames: Renames) -> Shapes:
    """The checkpoint's shapes under the names that bring it nearest to the model's, whatever the sizes: its own, those
    of the rules that were found, or those after one prefix less or more."""
    if not given or not wanted:
        return given
    stripped = {key: reduce(strip_prefix, renames.strip_prefix, key) for key in given}
    renamed = apply_rules(renames.rules, stripped.values(), strict=False).mapping
    rules = {key: renamed[name] for key, name in stripped.items()}
    names = [
        {key: key for key in given},
        rules,
        *({key: strip_prefix(key, prefix) for key in given} for prefix in prefixes_between(given, wanted)),
        *({key: add_prefix(key, prefix) for key in given} for prefix in prefixes_between(wanted, given)),
    ]
    best = max(names, key=lambda named: len(wanted.keys() & named.values()))
    return {best[key]: shape for key, shape in given.items()}
