"""Plain numbers of files that go into tensors are a doubt, never initial values in silence; others are none."""

from __future__ import annotations

import pytest
import torch

from tests.following.numbers import READ, TAKEN, write_numbers
from tests.following.oracle import Net, elements_from_file, followed, really


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    return [write_numbers(folder / str(seed), seed) for seed in (1, 3)]


def answered(load, files):
    """The keys that are wrong, and the doubts."""
    torch.manual_seed(7)
    model = Net()
    truth = really(load, model, *files)
    found, left = followed(load, model, files[0])
    assert found.raised == truth.raised is None
    masks = elements_from_file(found, left)
    wrong = [key for key, mask in masks.items() if not torch.equal(mask, truth.from_file[key])]
    return wrong, list(found.doubts(found.fills(left)))


@pytest.mark.parametrize("name", TAKEN)
def test_numbers_that_are_taken_are_a_doubt(name, files):
    wrong, doubts = answered(TAKEN[name], files)
    assert wrong
    assert {doubt.partition(":")[0] for doubt in doubts} >= set(wrong) - {"head.weight"}


@pytest.mark.parametrize("name", READ)
def test_numbers_that_are_read_are_none(name, files):
    assert answered(READ[name], files) == ([], [])
