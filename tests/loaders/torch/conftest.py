"""Shared by the tests of the walk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.loaders.torch.oracle")


@pytest.fixture(params=["some", pytest.param("every", marks=pytest.mark.long)])
def of_many(request: pytest.FixtureRequest) -> Callable[[Iterable[Any]], list[Any]]:
    """Two of many cases for each test, others for the next one; `make long` has them all. What code of a model does is
    tried in processes of their own, of which hundreds take minutes."""

    def chosen(cases: Iterable[Any]) -> list[Any]:
        every = list(cases)
        return every if request.param == "every" else random.Random(request.node.name).sample(every, min(2, len(every)))

    return chosen
