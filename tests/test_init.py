"""The package itself: its names, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ckptdiff


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, ckptdiff; dir(ckptdiff); print({'torch', 'rich', 'typer', 'dataclasses'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_public_names() -> None:
    assert set(ckptdiff.__all__) <= set(dir(ckptdiff))
    for name in ckptdiff.__all__:
        assert getattr(ckptdiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ckptdiff.nothing  # noqa: B018
