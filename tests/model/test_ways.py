"""However a model is built, it has the schema it has when built plainly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ckptdiff.model import build as building
from tests.model.nasty import NASTY
from tests.model.oracle import schema

WAYS = ("meta", "uninitialized", "plain")


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", NASTY)
def test_a_way_is_refused_or_gives_the_plain_schema(
    name: str, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, source = NASTY[name]
    write(source)
    monkeypatch.setattr(building, "_WAYS", ("plain",))
    plain = schema(building.build("model.py:Net").module)
    for start in range(2):
        ways = WAYS[start:]
        monkeypatch.setattr(building, "_WAYS", ways)
        built = building.build("model.py:Net")
        assert built.how == next(way for way in ways if way not in refused), built.notes
        assert schema(built.module) == plain
