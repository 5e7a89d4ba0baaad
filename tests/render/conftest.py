"""What is rendered is kept as the command line says it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ckptdiff.cli.flags import Flags
from ckptdiff.spelling import spelled


@pytest.fixture(autouse=True)
def _as_on_the_command_line() -> Iterator[None]:
    with spelled(Flags()):
        yield
