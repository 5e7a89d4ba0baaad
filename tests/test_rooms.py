"""That a word names one thing."""

from __future__ import annotations

from pathlib import Path

import ckptdiff


def test_no_two_rooms_share_the_name_of_a_module() -> None:
    """But for a verb and its command, which are called like what they give."""
    rooms: dict[str, list[str]] = {}
    for path in Path(ckptdiff.__file__).parent.rglob("*.py"):
        if path.parent.name not in ("cli", "verbs") and not path.stem.startswith("__"):
            rooms.setdefault(path.stem, []).append(path.parent.name)
    assert "rules" in rooms
    assert {name: sharing for name, sharing in rooms.items() if len(sharing) > 1} == {}
