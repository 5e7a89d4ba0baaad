"""Blocks known by their layers: order and names of keys are no evidence, and what is alike twice is not told apart."""

from __future__ import annotations

import random

import pytest

from ckptdiff.suggesting.finder import suggest_rules
from ckptdiff.suggesting.same_layers import same_layers
from tests.suggesting.jobs import Shapes, batch_norm, conv

WIDTHS = (16, 24, 24, 40)


def blocks(names: dict[str, str], home: str = "blocks.{}") -> Shapes:
    """An inverted bottleneck a block, its parts under these names."""
    shapes: Shapes = {}
    into = 8
    for number, width in enumerate(WIDTHS):
        own = home.format(number)
        middle = 6 * into
        shapes |= {**conv(f"{own}.{names['widen']}", middle, into, 1), **batch_norm(f"{own}.{names['first']}", middle)}
        shapes |= {**conv(f"{own}.{names['deep']}", middle, 1), **batch_norm(f"{own}.{names['second']}", middle)}
        shapes |= {**conv(f"{own}.{names['narrow']}", width, middle, 1), **batch_norm(f"{own}.{names['third']}", width)}
        into = width
    return shapes


NUMBERED = {"widen": "0.0", "first": "0.1", "deep": "1.0", "second": "1.1", "narrow": "2.0", "third": "2.1"}
SPOKEN = {"widen": "pw", "first": "bn1", "deep": "dw", "second": "bn2", "narrow": "pwl", "third": "bn3"}
UNNUMBERED = {**SPOKEN, "first": "early", "second": "late", "third": "last"}


def shuffled(shapes: Shapes) -> Shapes:
    keys = list(shapes)
    random.Random(5).shuffle(keys)
    return {key: shapes[key] for key in keys}


def test_blocks_of_other_names_are_found_in_any_order_of_keys() -> None:
    here, there = blocks(NUMBERED, "features.{}.block"), blocks(SPOKEN)
    truth = dict(zip(here, there, strict=True))
    assert same_layers(shuffled(here), shuffled(there)) == truth
    suggestion = suggest_rules(here, there)
    assert suggestion.complete
    assert dict(suggestion.mapping) == truth


def test_two_norms_of_one_size_need_numbers_on_both_sides() -> None:
    here, there = blocks(NUMBERED, "features.{}.block"), blocks(UNNUMBERED)
    found = same_layers(here, there)
    assert found
    assert not [old for old in found if ".0.1." in old or ".1.1." in old]


def test_blocks_of_two_lists_are_not_told_apart() -> None:
    """Each of both networks would do, whatever their names' order."""
    here = {**blocks(NUMBERED, "a.{}"), **blocks(NUMBERED, "b.x.{}")}
    there = {**blocks(SPOKEN, "c.{}"), **blocks(SPOKEN, "d.y.{}")}
    assert same_layers(here, there) == {}


@pytest.mark.parametrize("word", ["attn", "q", "qkv"])
def test_what_lies_in_an_attention_is_not_asked(word: str) -> None:
    here = {f"a.{number}.{word}.{key}": shape for number in (0, 1) for key, shape in blocks(NUMBERED).items()}
    there = {key.replace("a.", "b.", 1): shape for key, shape in here.items()}
    assert same_layers(here, there) == {}


def test_a_block_that_one_side_has_more_often_is_left_alone() -> None:
    here = blocks(NUMBERED, "features.{}.block")
    there = {**blocks(SPOKEN), **{key.replace("blocks.0", "blocks.9"): shape for key, shape in blocks(SPOKEN).items()}}
    assert not [old for old in same_layers(here, there) if old.startswith("features.0.")]
