"""Golden files: what the program shows, kept as text beside the tests. CKPTDIFF_UPDATE_GOLDEN=1 rewrites them."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).parent / "expected"


def check_golden(name: str, shown: str) -> None:
    """Compare with the golden file of that name."""
    check_text(_FOLDER / name, shown)


def check_text(path: Path, shown: str) -> None:
    """Compare with a file that is kept."""
    if os.environ.get("CKPTDIFF_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shown.encode())
    assert path.exists(), f"there is no {path.name}: run once with CKPTDIFF_UPDATE_GOLDEN=1 and look at it"
    assert shown == path.read_bytes().decode()
