"""Plain numbers that files hold beside their tensors, or in their place: a scale, an epoch, weights as lists.

A number has no memory that could be followed. It is known again by its value where an operation takes it: what is made
with one of these may be made of the file, which is a doubt. Numbers that are merely read, and those that all code has
(nothing, one, two), are none.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from ckptdiff.following.log.calls import floats_of_code, is_plain
from ckptdiff.following.log.replay import plainly
from ckptdiff.following.origins.labels import Source
from ckptdiff.following.readers.inert import Held
from ckptdiff.torch_private import schema_of

_MOST = 1 << 17
"""Numbers of one file that are kept."""
_FEW = 32
"""Numbers that are tried with all others."""
_SAMPLE = 16
_ROUNDED = (torch.float32, torch.float16, torch.bfloat16)


class FileNumbers:
    """The numbers that files gave, and which of them were taken."""

    def __init__(self) -> None:
        self._given: dict[float, Source] = {}
        self._ints: dict[int, Source] = {}
        self._rounded: dict[torch.dtype, dict[float, Source]] = {}
        self.taken: dict[Source, None] = {}
        """The entries of files of which an operation took a number."""

    def __bool__(self) -> bool:
        return bool(self._given)

    def gather(self, value: object, file: str) -> int:
        """Note the numbers of what a file gave; returns how many there are."""
        numbers = list(islice(numbers_in(value), _MOST))
        entries = Counter(path for path, _ in numbers)
        for path, number in numbers:
            self._given.setdefault(number, (file, path))
            if entries[path] == 1 and isinstance(number, float):
                for made in _made_of(number):
                    self._given.setdefault(made, (file, path))
        if numbers:
            self._rounded.clear()
        return len(numbers)

    def note(self, number: float, source: Source) -> None:
        """Note a number that was made of one that a file gave."""
        if tells(number) and number not in self._given and len(self._given) < _MOST:
            self._given[number] = source
            self._rounded.clear()

    def source_of(self, number: object) -> Source | None:
        """The entry of a file that a number is, by its value."""
        return self._given.get(number) if isinstance(number, (int, float)) else None

    def take(self, function: object, args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
        """Whether an operation takes one of them as a value."""
        given_by: Source | None = None
        for position, item in enumerate(args):
            if type(item) in (int, float) and item in self._given:
                kind = str(schema_of(function).arguments[position].type)
                given_by = self._given[item] if "Tensor" in kind or "number" in kind else given_by
        if given_by is None and kwargs:
            given_by = next(
                (self._given[v] for v in kwargs.values() if type(v) in (int, float) and v in self._given), None
            )
        if given_by is None and self._ints:
            given_by = next((source for item in (*args, *kwargs.values()) if (source := self._of_int(item))), None)
        if given_by is not None:
            self.taken[given_by] = None
        return given_by is not None

    def tells(self, number: int, source: Source) -> None:
        """Note an int that stands alone in a file: of a float and it Python makes a float that tells nothing."""
        if tells(number) and len(self._ints) < _FEW:
            self._ints[number] = source

    def _of_int(self, number: object) -> Source | None:
        """The int of a file of which, and of a float of the code's, a float may be made: `0.9 ** step`."""
        if type(number) is not float or not tells(number):
            return None
        for constant in floats_of_code():
            for other, source in self._ints.items():
                with contextlib.suppress(ArithmeticError):
                    made = constant * other, constant**other, constant / other, constant + other, constant - other
                    if any(number in (value, 1 - value, -value, value * constant) for value in made):
                        return source
        return None

    def among(self, values: Iterable[object], dtype: torch.dtype | None = None) -> bool:
        """Whether most of some values, of which a tensor is made, are such numbers, as they are in its dtype."""
        known = self._in(dtype) if dtype in _ROUNDED else self._given
        sample: list[float] = []
        for value in values:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                sample.append(value)
                if len(sample) == _SAMPLE:
                    break
        hits = [known[value] for value in sample if value in known]
        telling = [value for value in sample if tells(value)]
        if not hits or len(hits) * 2 <= len(telling):
            return False
        self.taken.update(dict.fromkeys(hits))
        return True

    def in_tensor(self, tensor: torch.Tensor) -> bool:
        """The same for a tensor of unknown origin."""
        ordinary = is_plain(tensor) and not tensor.is_quantized and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        if not self._given or not ordinary or not tensor.numel() or tensor.dtype is torch.bool or tensor.is_complex():
            return False
        with plainly():
            flat = tensor.detach()[(0,) * (tensor.dim() - 1)] if tensor.dim() else tensor.detach()
            return self.among(flat.reshape(-1)[:_SAMPLE].tolist(), tensor.dtype)

    def _in(self, dtype: torch.dtype) -> dict[float, Source]:
        if dtype not in self._rounded:
            with plainly():
                given = list(self._given)
                numbers = torch.tensor(given, dtype=torch.float64).to(dtype).tolist()
            self._rounded[dtype] = dict(zip(numbers, self._given.values(), strict=True))
        return self._rounded[dtype]


def _made_of(number: float) -> Iterator[float]:
    """What code usually makes of a number before a tensor sees it."""
    made = [-number, 1 - number, number * 2, number / 2, number * number, 1 + number]
    with contextlib.suppress(ArithmeticError):
        made.append(1 / number)
    if number > 0:
        made += [number**0.5, number**-0.5]
    yield from filter(tells, made)


def tells(number: float) -> bool:
    """Whether it may be told from what all code writes."""
    return number == number and number not in (0, 1, 2, -1)


def numbers_in(value: object) -> Iterator[tuple[str, float]]:
    """The numbers in nested containers that tell something, each with the name of the entry of the outermost ones."""
    seen: set[int] = set()
    stack: list[tuple[str, int, Any]] = [("", 0, value)]
    while stack:
        path, depth, item = stack.pop()
        if type(item) is not int and type(item) is not float and hasattr(type(item), "item") and not _is_tensor(item):
            item = item.item() if getattr(item, "ndim", 1) == 0 else item  # numpy's
        if isinstance(item, (int, float)):
            if not isinstance(item, bool) and tells(item) and abs(item) < 1 << 62:
                yield path, float(item) if isinstance(item, float) else item
            continue
        if isinstance(item, (str, bytes)) or item is None or id(item) in seen:
            continue
        seen.add(id(item))
        children: Iterable[tuple[Any, object]]
        if isinstance(item, dict):
            children = list(item.items())
        elif isinstance(item, Held):
            children = list(vars(item).items())
        elif isinstance(item, (list, tuple)):
            children = [(path, child) for child in item]
            stack.extend((path, depth, child) for _, child in children)
            continue
        else:
            continue
        stack.extend((path if depth == 2 else f"{path}/{name}".lstrip("/"), min(depth + 1, 2), child)
                     for name, child in children if type(child) is not str)  # fmt: skip


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)
