"""The walk and the engine on a sample of the zoo; `make witness` asks them about all of it."""

from __future__ import annotations

import os

import pytest

from tests.zoo.builders import everything
from tests.zoo.conformance import sample
from tests.zoo.witness import check

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_the_walk_and_the_engine_say_the_same(library: str) -> None:
    pytest.importorskip(library)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    names = {name: make for name, make in everything().items() if name.startswith(library)}
    tally = check(sample(names, 2))
    assert tally.cases >= 7 * sum(tally.models.values()) > 0
    assert not tally.disagreements, str(tally)
    assert not tally.unsure, str(tally)
