"""Code that looks at what a build without memory cannot show gets the schema it gets in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptdiff.model import build as building
from tests.model.nasty_looks import LOOKS
from tests.model.nasty_reads import READS
from tests.model.oracle import schema
from tests.model.plainly import plain_schemas

CASES = {**LOOKS, **READS}
WAYS = ("meta", "uninitialized", "plain")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the oracle forks")


@pytest.fixture(scope="module")
def plain() -> dict[str, str]:
    return plain_schemas({name: source for name, (_, source) in CASES.items()})


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", CASES)
def test_a_way_is_refused_or_gives_the_plain_schema(
    name: str, plain: dict[str, str], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, source = CASES[name]
    assert plain[name].startswith("{'state dict'"), plain[name]
    write(source)
    for start in range(2):
        ways = WAYS[start:]
        monkeypatch.setattr(building, "_WAYS", ways)
        built = building.build("model.py:Net")
        assert built.how == next(way for way in ways if way not in refused), built.notes
        assert repr(schema(built.module)) == plain[name]


def test_the_table_is_as_large_as_promised() -> None:
    assert len(CASES) > 130
