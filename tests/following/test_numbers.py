"""Plain numbers of files that go into tensors are a doubt, never initial values in silence; others are none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from ckptdiff.following.followed import following
from tests.following.oracle import answered
from tests.following.small import attacks
from tests.following.small.numbers import LISTED, READ, TAKEN, write_numbers
from tests.following.test_loaders import ALL, DOUBTED


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    return [write_numbers(folder / str(seed), seed) for seed in (1, 3)]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", TAKEN)
def test_numbers_that_are_taken_are_a_doubt(name, files):
    wrong, doubts = answered(TAKEN[name], files)
    assert wrong
    assert {doubt.partition(":")[0] for doubt in doubts} >= set(wrong) - {"head.weight"}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", LISTED)
def test_lists_of_a_file_are_what_tensors_are_made_of(name, files):
    assert answered(LISTED[name], files) == ([], [])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", READ)
def test_numbers_that_are_read_are_none(name, files):
    assert answered(READ[name], files) == ([], [])


def test_what_goes_on_has_plain_numbers(files):
    """A program that is traced in place may save them, where a class of their own would be refused."""
    with following() as ran:
        content = ran.call(torch.load, files[0], weights_only=False)
    assert type(content["epoch"]) is int
    assert type(content["args"]["dropout"]) is float


def test_the_documentation_counts_them():
    """By kind, with those that are a doubt."""
    kinds, doubted = Counter(map(kind_of, ALL)), Counter(map(kind_of, DOUBTED))
    kinds["numbers"], doubted["numbers"] = len(TAKEN) + len(LISTED) + len(READ), len(TAKEN)
    text = (Path(__file__).parents[2] / "docs" / "following.md").read_text()
    for kind, count in kinds.items():
        assert f"| {kind} | {count} | {doubted[kind]} |" in text
    assert f"| all | {kinds.total()} | {doubted.total()} |" in text
    assert doubted.total() * 10 < kinds.total()


def kind_of(name):
    kind, colon, _ = name.partition(": ")
    return kind if colon else "attacks" if name in attacks.ATTACKS else "loaders"
