"""A sample of the loaders' zoo; `make zoo` runs the whole."""

from __future__ import annotations

import os

import pytest

pytestmark = [pytest.mark.zoo, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_from_pretrained_is_answered() -> None:
    pytest.importorskip("transformers", minversion="5")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from tests.zoo.pretrained import SAMPLE, check, kinds, quiet

    with quiet():
        tally = check([row for row in kinds() if row[0] in SAMPLE])
    assert tally.cases >= 18 * len(SAMPLE)
    assert not tally.disagreements, str(tally)
