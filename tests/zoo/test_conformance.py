"""A sample of the zoo; `make zoo` runs all of it."""

from __future__ import annotations

import pytest

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from tests.zoo.conformance import names, run, sample

pytestmark = pytest.mark.zoo


def test_a_sample_of_all_published_architectures_agrees_with_torch() -> None:
    chosen = sample(names(), 48)
    outcome = run(chosen)
    print(outcome)
    assert outcome.wrong == []
    assert outcome.agree == outcome.cases > 0
    # Some transformers types need packages or arguments that are not here; most build.
    assert outcome.models > len(chosen) * 0.7
