"""A copy of the folder that a program runs in, for what it writes there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_LARGE = 8 << 20
"""Bytes from which a file is linked rather than copied: weights and data, which are read."""


def copied_folder(inside: str) -> Path:
    """A copy of the current folder inside another one; large files in it are links to the originals."""
    copy = Path(tempfile.mkdtemp(dir=inside)) / Path.cwd().name
    shutil.copytree(
        Path.cwd(), copy, symlinks=True, copy_function=_copied, ignore=shutil.ignore_patterns(".git", ".venv")
    )
    return copy


def _copied(source: str, target: str) -> None:
    if os.path.getsize(source) > _LARGE:  # noqa: PTH202 - as shutil passes them
        os.symlink(os.path.abspath(source), target)  # noqa: PTH211, PTH100
    else:
        shutil.copy2(source, target)
