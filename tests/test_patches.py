"""What stands for something for a while is put back wherever it has come to."""

from __future__ import annotations

import gc
import struct
from typing import Any

from ckptdiff.patches import Kept, Patches


class Holder:
    kind = struct.Struct

    def made(self, kind: Any = struct.Struct) -> Any:
        return kind


def stand_in(plain: Any) -> Any:
    class Struct(plain):  # type: ignore[misc]
        def itself(self) -> Any:
            return __class__  # type: ignore[name-defined]

        again = itself

    return Struct


def test_classes_and_defaults_hold_it_meanwhile() -> None:
    plain = struct.Struct
    patches, kept = Patches(taking_back=True), Kept(plain)
    made = stand_in(plain)
    patches.everywhere(kept, made, in_modules=True)
    assert Holder.kind is made
    assert Holder().made() is made
    patches.undo()
    assert Holder.kind is plain
    assert Holder().made() is plain
    assert struct.Struct is plain


def test_what_took_it_meanwhile_has_the_true_one_afterwards() -> None:
    plain = struct.Struct
    patches, kept = Patches(taking_back=True), Kept(plain)
    patches.everywhere(kept, stand_in(plain), in_modules=True)
    taken: dict[str, Any] = {"Struct": struct.Struct, "listed": [struct.Struct]}
    late = type("Late", (), {"kind": struct.Struct})
    patches.undo()
    assert taken == {"Struct": plain, "listed": [plain]}
    assert late.kind is plain  # type: ignore[attr-defined]


def test_what_is_left_of_others_does_not_add_up() -> None:
    """Each search compares what it finds with what it looks for: of a thousand runs as of one."""
    plain = struct.Struct
    gc.collect()
    gc.disable()
    try:
        searched: list[int] = []
        original = gc.get_referrers
        for _ in range(12):
            patches, kept = Patches(taking_back=True), Kept(plain)
            gc.get_referrers = lambda *values: searched.append(len(values)) or original(*values)  # type: ignore[func-returns-value]
            patches.everywhere(kept, stand_in(plain), in_modules=True)
            patches.undo()
            gc.get_referrers = original
    finally:
        gc.get_referrers = original
        gc.enable()
    assert searched[2:] == searched[:-2], "the class and the one tuple of defaults that has it, run for run"
    assert len(searched) == 24, "and nothing is taken back where nobody can have taken it"
