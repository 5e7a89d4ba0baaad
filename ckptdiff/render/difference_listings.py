"""What differs, shorter than a report: a line for each module, or the names alone."""

from __future__ import annotations

from ckptdiff.difference.difference import Difference
from ckptdiff.render.difference_outline import verdict
from ckptdiff.render.escape import plain
from ckptdiff.render.phrases import count, number
from ckptdiff.render.view import View

_WIDEST = 40


def listing(diff: Difference, view: View) -> str:
    """As the view says, ending with a newline."""
    return _names(diff) if view.listing == "names" else _stat(diff)


def differing(diff: Difference) -> list[str]:
    """The keys that are not the same on both sides: A's in its order, then those that only B has."""
    odd = {*diff.differing, *diff.only_in_a, *(key for key, *_ in diff.other_shape)}
    return [*(key for key in diff.tensors_a if key in odd), *diff.only_in_b]


def _names(diff: Difference) -> str:
    return "".join(f"{plain(str(key), 10_000)}\n" for key in differing(diff))


def _stat(diff: Difference) -> str:
    """As git's: of each module how many tensors differ, and a bar of how much."""
    every: dict[str, int] = {}
    odd: dict[str, int] = {}
    for key in (*diff.tensors_a, *diff.only_in_b):
        every[_module(str(key))] = every.get(_module(str(key)), 0) + 1
    for key in differing(diff):
        odd[_module(str(key))] = odd.get(_module(str(key)), 0) + 1
    lines = []
    width = min(max((len(plain(name)) for name in odd), default=0), 60)
    digits = max((len(number(times)) for times in odd.values()), default=0)
    for name, times in odd.items():
        filled = max(1, round(_WIDEST * times / every[name]))
        lines.append(f" {plain(name):<{width}} | {number(times):>{digits}} of {number(every[name])} {'#' * filled}")
    same = len(diff.tensors_a) + len(diff.only_in_b) - sum(odd.values())
    lines.append(f" {count(sum(odd.values()), 'tensor')} differ, {number(same)} are the same")
    return "\n".join([verdict(diff), "", *lines]) + "\n"


def _module(key: str) -> str:
    """The module that has a tensor."""
    return key.rpartition(".")[0] or key
