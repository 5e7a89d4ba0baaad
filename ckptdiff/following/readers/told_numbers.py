"""Single numbers that a file gives, which tell what code makes of them: a scale, an epoch, a rate.

Each is a float or an int like any other, of a class that is called so too; what arithmetic makes of it is one again,
and its value is known to be made of the file.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ckptdiff.following.origins.labels import Source
from ckptdiff.patches import Kept, Patches

if TYPE_CHECKING:
    from ckptdiff.following.file_numbers import FileNumbers

_ARITHMETIC = (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod",
    "pow", "rpow", "neg", "pos", "abs", "round",
)  # fmt: skip
_FUNCTIONS = (
    "sqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "pow", "sin", "cos", "tan", "tanh", "atan", "floor",
    "ceil", "fabs", "hypot",
)  # fmt: skip
_MOST = 1 << 6
"""Numbers of one container that are single ones; more are weights."""


class _Told:
    """What the two classes have in common."""

    numbers: FileNumbers
    source: Source

    def __copy__(self) -> object:
        return self

    def __deepcopy__(self, memo: object) -> object:
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[type, tuple[object]]:
        return _base(self), (_base(self)(self),)  # others are to read what was always written

    def __array_ufunc__(self, function: object, method: str, *inputs: object, **kwargs: object) -> object:
        result = getattr(function, method)(*map(plain, inputs), **{key: plain(item) for key, item in kwargs.items()})
        if not getattr(result, "ndim", 1):
            self.numbers.note(float(result), self.source)
        return result


def _base(number: object) -> type:
    return float if isinstance(number, float) else int


def _operator(base: type, name: str) -> Callable[..., object]:
    method, of_float = getattr(base, name, None), getattr(float, name)

    def operate(self: Any, *others: object) -> object:
        result = method(self, *others) if method is not None else NotImplemented
        if result is NotImplemented and type(others[0]) is float:
            result = of_float(float(self), others[0])
        return told(result, self.numbers, self.source)

    operate.__name__ = name
    return operate


class _Kind(type):
    """A class that is found in tables and lists of classes where the plain one is, such as those of YAML's writers."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.plain_kind

    def __hash__(cls) -> int:
        return hash(cls.plain_kind)

    @property
    def plain_kind(cls) -> type:
        return float if issubclass(cls, float) else int


class _Float(_Told, float, metaclass=_Kind):
    """A float of a file."""


class _Int(_Told, int, metaclass=_Kind):
    """An int of a file."""


for _class, _plain in ((_Float, float), (_Int, int)):
    for _name in _ARITHMETIC:
        setattr(_class, f"__{_name}__", _operator(_plain, f"__{_name}__"))
    _class.__name__ = _class.__qualname__ = _plain.__name__
    _class.__module__ = "builtins"


def told(value: Any, numbers: FileNumbers, source: Source) -> object:
    """A number that tells what is made of it; anything else as it is."""
    if isinstance(value, _Told) or type(value) not in (float, int):
        return value
    numbers.note(value, source)
    if type(value) is int:
        numbers.tells(value, source)
    made = (_Float if type(value) is float else _Int)(value)
    made.numbers, made.source = numbers, source
    return made


def plain(value: Any) -> Any:
    """What tells as what it is otherwise, in lists, tuples and dictionaries too."""
    if isinstance(value, _Told):
        return _base(value)(value)
    if type(value) in (list, tuple) and any(isinstance(item, (_Told, list, tuple, dict)) for item in value):
        return type(value)(map(plain, value))
    if type(value) in (dict, OrderedDict) and any(
        isinstance(item, (_Told, list, tuple, dict)) for item in value.values()
    ):
        return type(value)((name, plain(item)) for name, item in value.items())
    return value


def tell(value: object, numbers: FileNumbers, file: str, path: str = "") -> object:
    """Have the single numbers in what a file gave tell what is made of them; dictionaries and lists stay the same."""
    if isinstance(value, (float, int)):
        return told(value, numbers, (file, path))
    if isinstance(value, dict):
        for name, item in list(value.items()):
            if type(item) in (float, int, dict, list):
                value[name] = tell(item, numbers, file, f"{path}/{name}" if path else str(name))
    elif type(value) is list and len(value) < _MOST:
        for index, item in enumerate(value):
            if type(item) in (float, int, dict):  # nested ones are weights
                value[index] = tell(item, numbers, file, path)
    return value


def watch_functions(patches: Patches) -> None:
    """`math`'s functions of such a number give one."""

    def telling(kept: Kept) -> Callable[..., object]:
        def of(*args: object) -> object:
            result = kept.value(*args)
            given = next((value for value in args if isinstance(value, _Told)), None)
            return result if given is None else told(result, given.numbers, given.source)

        of.__name__ = kept.value.__name__
        return of

    for name in _FUNCTIONS:
        kept = Kept(getattr(math, name))
        patches.everywhere(kept, telling(kept), in_modules=True)
