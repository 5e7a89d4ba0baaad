"""Random numbers that were to be drawn and are not yet.

A constructor fills large tensors with random numbers that a checkpoint then replaces. So what it draws from torch's
default generator is noted, in order, and drawn when a value is looked at, or when the generator itself is: each draw
then is what it would have been.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from ckptdiff.patches import Patches


class Draw(NamedTuple):
    """One operation that draws, and the layout of the tensor it fills."""

    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: dict[str, object]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Sequence:
    """Draws that follow one another, from one state of the generator on."""

    def __init__(self) -> None:
        self._draws: list[Draw] = []
        self._states: dict[int, torch.Tensor] = {0: torch.default_generator.get_state()}
        """The state before a draw, by its number."""

    def append(self, draw: Draw) -> Callable[[torch.Tensor], torch.Tensor]:
        """Note a draw; returns what carries it out on a tensor laid out as it says."""
        number = len(self._draws)
        self._draws.append(draw)

        def carry_out(target: torch.Tensor) -> torch.Tensor:
            outside = torch.default_generator.get_state()
            try:
                self._go_to(number)
                self._do(number, target)
            finally:
                torch.default_generator.set_state(outside)
            return target

        return carry_out

    def finish(self) -> None:
        """Leave the generator in the state that all the draws would have left it in."""
        self._go_to(len(self._draws))

    def _go_to(self, number: int) -> None:
        start = max(known for known in self._states if known <= number)
        torch.default_generator.set_state(self._states[start])
        for between in range(start, number):
            draw = self._draws[between]
            self._do(between, torch.empty_strided(draw.size, draw.stride, dtype=draw.dtype))

    def _do(self, number: int, target: torch.Tensor) -> None:
        draw = self._draws[number]
        draw.function(target, *draw.args, **draw.kwargs)
        self._states[number + 1] = torch.default_generator.get_state()


class Draws:
    """The default generator of a run: the sequence that is being noted, if any."""

    def __init__(self) -> None:
        self._sequence: Sequence | None = None

    @property
    def owed(self) -> bool:
        """Whether the generator is behind what was asked of it."""
        return self._sequence is not None

    def note(self, draw: Draw) -> Callable[[torch.Tensor], torch.Tensor]:
        """Put a draw off; returns what carries it out."""
        if self._sequence is None:
            self._sequence = Sequence()
        return self._sequence.append(draw)

    def settle(self) -> None:
        """Bring the generator to where it should be."""
        sequence, self._sequence = self._sequence, None
        if sequence is not None:
            sequence.finish()

    def forget(self) -> None:
        """The generator is set anew: nothing is owed, and what was noted can still be drawn."""
        self._sequence = None

    def watch(self, patched: Patches, plainly: Callable[[], AbstractContextManager[None]]) -> None:
        """Settle before the generator's state is read, and start afresh after it is set."""

        def reading(name: str) -> None:
            def read(*args: object, **kwargs: object) -> object:
                with plainly():
                    self.settle()
                return original(*args, **kwargs)

            original = patched.function(getattr(torch.random, name), read)

        def setting(name: str) -> None:
            def write(*args: object, **kwargs: object) -> object:
                self.forget()
                return original(*args, **kwargs)

            original = patched.function(getattr(torch.random, name), write)

        reading("get_rng_state")
        for name in ("set_rng_state", "manual_seed", "seed"):
            setting(name)
