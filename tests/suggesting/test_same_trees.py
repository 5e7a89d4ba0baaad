"""Trees of modules that moved whole: only where nothing else has the same content, and nothing says it is another."""

from __future__ import annotations

import pytest

from ckptdiff.renaming.rename_rules import RenameRule
from ckptdiff.suggesting.finder import suggest_rules
from ckptdiff.suggesting.same_trees import moved_trees
from tests.suggesting.jobs import Shapes, resnet, unet


def below(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{key}": shape for key, shape in shapes.items()}


def said(rules: list[RenameRule]) -> list[str]:
    return [str(rule) for rule in rules]


def test_the_largest_tree_is_moved_as_one() -> None:
    here = {**below("qqq.www", resnet()), **below("kept", unet())}
    there = {**below("zzz", resnet()), **below("kept", unet())}
    assert said(moved_trees(here, there)) == ["qqq.www.{*} -> zzz.{*}"]
    assert suggest_rules(here, there).complete


@pytest.mark.parametrize("side", [0, 1])
def test_of_twins_none_is_moved(side: int) -> None:
    sides = [below("qqq", resnet()), below("zzz", resnet())]
    sides[side] |= below("another", resnet())
    assert moved_trees(*sides) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("student", "teacher"),
        ("text_model", "vision_model"),
        ("encoder", "decoder"),
        ("loss.net", "backbone"),
        ("ema_model", "network"),
        ("online", "target"),
        ("discriminator", "generator"),
    ],
)
def test_what_is_said_to_be_another_network_is_not_moved(old: str, new: str) -> None:
    assert moved_trees(below(old, resnet()), below(new, resnet())) == []


def test_what_fits_where_it_is_stays() -> None:
    both = below("here", resnet())
    assert moved_trees(both, {**both, **below("there", resnet())}) == []


def test_a_few_tensors_are_no_tree() -> None:
    assert moved_trees({"a.w": (2, 3), "a.b": (2,)}, {"b.w": (2, 3), "b.b": (2,)}) == []
