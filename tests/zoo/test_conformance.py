"""A sample of the zoo; `make zoo` runs the whole."""

from __future__ import annotations

import os

import pytest

from tests.zoo.builders import everything
from tests.zoo.conformance import check, sample

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_a_sample_of_a_library_agrees(library: str) -> None:
    pytest.importorskip(library)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    names = {name: make for name, make in everything().items() if name.startswith(library)}
    tally = check(sample(names, 16))
    assert tally.cases >= 7 * sum(tally.models.values()) > 0
    assert not tally.disagreements, str(tally)
    assert not tally.unsure, str(tally)
