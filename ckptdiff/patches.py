"""Functions and classes of libraries replaced for a while, under every name code may have for them, and put back."""

from __future__ import annotations

import contextlib
import gc
import inspect
import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from ckptdiff.imports import Imports

_MISSING: Any = object()
_NUMBERS = itertools.count()


class Kept:
    """A class or function that is to be replaced everywhere but here."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Patches:
    """What was replaced, to be undone in reverse order, name by name.

    `taking_back`: what code has taken meanwhile is put back as well, which means a look at every object there is.
    """

    def __init__(self, *, taking_back: bool = False) -> None:
        self._taking_back = taking_back
        self._undo: list[Callable[[], object]] = []
        self.imports = Imports()
        self._gathers = False
        self._held: list[tuple[Kept, Any, bool]] = []
        self._given: list[tuple[object, Any]] = []
        """What stands for something under a name from which code may take it, and what it stands for."""

    def also(self, undo: Callable[[], object]) -> None:
        """Call something when everything is put back, before what was replaced so far."""
        self._undo.append(undo)

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a module or class."""
        before = vars(owner).get(name, _MISSING)
        _sign(value, before)
        setattr(owner, name, value)
        self._as_in_scripts(before, value)
        if isinstance(owner, ModuleType) and callable(before) and callable(value):
            self._given.append((value, before))

        def undo() -> None:
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._undo.append(undo)

    def stands_for(self, new: object, old: object) -> None:
        """What code takes of `new`, from wherever it was put, is to be `old` afterwards."""
        self._given.append((new, old))

    def item(self, holder: MutableMapping[Any, Any], name: Any, value: object) -> None:
        """Set an item of a mapping."""
        before = holder.get(name, _MISSING)
        holder[name] = value

        def undo() -> None:
            if before is _MISSING:
                holder.pop(name, None)
            else:
                holder[name] = before

        self._undo.append(undo)

    def function(self, function: Any, replacement: Callable[..., Any]) -> Callable[..., Any]:
        """Have a Python function do what another does, whoever holds it; returns the function as it was.

        Its code is what is replaced, so that a `partial` of it, a default argument or an imported name lead there too.
        """
        original = FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        original.__kwdefaults__ = function.__kwdefaults__
        original.__dict__.update(function.__dict__)
        name = f"__ckptdiff_{next(_NUMBERS)}__"
        signature = inspect.signature(function)
        code = function.__code__
        function.__globals__[name] = replacement
        function.__code__ = _calling(name, code)
        signed = "__signature__" in function.__dict__
        if not signed:
            function.__signature__ = signature

        def undo() -> None:
            function.__code__ = code
            function.__globals__.pop(name, None)
            if not signed:
                function.__dict__.pop("__signature__", None)

        self._undo.append(undo)
        return original

    def cached(self, function: Any, replacement: Callable[..., Any]) -> Callable[..., Any]:
        """The same for a function that keeps what it answered (`functools.lru_cache`): others get it anew."""
        self._undo.append(function.cache_clear)  # when its code is its own again
        original = self.function(function.__wrapped__, replacement)
        function.cache_clear()
        return original

    def everywhere(self, kept: Kept, new: Any, *, in_modules: bool = False) -> None:
        """Put `new` in the place of what is kept, which is not Python's to change, wherever modules, classes, partial
        functions, defaults or containers hold it; `in_modules`: not within numpy and torch, which are to have their
        own, nor in containers and closures, of which nobody tells whose they are."""
        self._held.append((kept, new, in_modules))
        if not self._gathers:
            self._replace()

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Do what `everywhere` is asked inside the block at its end, at once: looking for holders takes its time."""
        self._gathers = True
        try:
            yield
        finally:
            self._gathers = False
        self._replace()

    def _replace(self) -> None:
        held, self._held = self._held, []
        for kept, new, _ in held:
            _sign(new, kept.value)
            self._as_in_scripts(kept.value, new)
            self._given.append((new, kept.value))
        places = {id(kept.value): (kept.value, new) for kept, new, _ in held}
        sparing = {id(kept.value) for kept, _, in_modules in held if in_modules}
        own = {id(held), *map(id, held)}
        _swapped(self._undo, places, own | {id(item) for item in self._given} | {id(self._given)}, sparing)

    def _take_back(self) -> None:
        """Put what it stands for in the place of everything that was given out: code that was imported meanwhile, or
        ran, may have taken it to places of its own."""
        given, self._given = self._given, []
        if not self._taking_back:
            return
        # Looking for holders takes time by all there is, for each value anew: most have none but their pair.
        taken = [pair for pair in given if sys.getrefcount(pair[0]) - _own(pair[0]) > _OURS]
        if taken:
            _swapped([], {id(new): (new, old) for new, old in taken}, {id(given), id(taken), *map(id, taken)})

    def _as_in_scripts(self, old: Any, new: object) -> None:
        """Have TorchScript take what stands for a function of torch's for that function."""
        if "torch.jit._builtins" not in sys.modules:
            return
        from ckptdiff.torch_private import script_builtins

        table = script_builtins()
        if id(old) in table:
            table[id(new)] = table[id(old)]
            self._undo.append(lambda: table.pop(id(new), None))

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()
        self._take_back()


_OURS = 2
"""References to what was given out and put back: its pair's, and that of the question how many there are."""
_Places = Mapping[int, tuple[Any, Any]]
_Undo = list[Callable[[], object]]


def _sign(new: Any, old: Any) -> None:
    """Give a function the signature of what it stands for: torch's compiler compares it with its own idea of that."""
    if type(new) is not FunctionType or "__signature__" in new.__dict__ or hasattr(new, "__wrapped__"):
        return
    with contextlib.suppress(ValueError, TypeError):  # many of C's have none
        new.__signature__ = inspect.signature(old)  # type: ignore[attr-defined]


def _swapped(
    undo: _Undo, places: _Places, own: set[int], sparing: Collection[int] = (), *, nested: bool = False
) -> None:
    """Have others stand where some values are held, by the identities of these; `undo` gets how to put each back at
    once, whatever happens meanwhile."""
    tuples: list[tuple[Any, ...]] = []
    own = own | {id(pair) for pair in places.values()}
    holders: list[Any] = gc.get_referrers(*(old for old, _ in places.values()))
    items: list[tuple[dict[Any, Any], Any, Any]] = []
    for holder in holders:
        if id(holder) in own or isinstance(holder, Kept):
            continue
        if isinstance(holder, dict):
            spared = sparing if _spares(holder) else ()
            items += [(holder, k, v) for k, v in list(holder.items()) if id(v) in places and id(v) not in spared]
        elif isinstance(holder, list):
            for index, value in enumerate(holder):
                if id(value) in places and id(value) not in sparing:
                    _item(undo, holder, index, *places[id(value)])
        elif type(holder) is tuple:
            if not _is_of_class(holder):
                tuples.append(holder)
        elif isinstance(holder, FunctionType):
            if id(holder.__defaults__) in places:
                undo.append(partial(setattr, holder, "__defaults__", holder.__defaults__))
                holder.__defaults__ = places[id(holder.__defaults__)][1]
        elif type(holder).__name__ == "cell":
            _cell(undo, holder, places, sparing)
        elif isinstance(holder, (staticmethod, classmethod)):
            old, new = places.get(id(holder.__func__), (holder, None))
            if old is not holder and id(old) not in sparing:  # torch's C++ has its functions in such
                holder.__init__(new)  # type: ignore[misc]
                undo.append(partial(holder.__init__, old))  # type: ignore[misc]
        elif type(holder).__name__ == "partial":
            state = holder.__reduce__()[2]
            if id(state[0]) in places:
                holder.__setstate__((places[id(state[0])][1], *state[1:]))
                undo.append(partial(holder.__setstate__, state))
    kinds = _kinds([holder for holder, _, _ in items if "__module__" in holder])
    for holder, name, value in items:
        _item(undo, holder, name, *places[id(value)], kinds.get(id(holder)))
    if tuples and not nested:  # which do not change: they are held in turn, as the defaults of functions say
        others = {id(held): (held, tuple(places[id(v)][1] if id(v) in places else v for v in held)) for held in tuples}
        spared = {
            id(held) for held in tuples if any(id(v) in sparing or _is_torchs(v) for v in held if id(v) in places)
        }
        _swapped(undo, others, own | {id(holders), id(tuples)}, spared, nested=True)


def _spares(holder: Mapping[Any, object]) -> bool:
    """Whether a dictionary is neither a module's nor a class's, or that of one of numpy's or torch's own."""
    name = holder.get("__name__" if "__spec__" in holder else "__module__")
    return not isinstance(name, str) or name.startswith(("numpy.", "torch.", "ckptdiff."))


def _is_torchs(value: Any) -> bool:
    """Whether something is of torch, which has it in tables of its own."""
    return str(getattr(value, "__module__", "")).startswith("torch")


def _is_of_class(held: tuple[Any, ...]) -> bool:
    """Whether a tuple is a class's own, of its bases: each run leaves some behind, until they are collected."""
    classes = [value for value in held if isinstance(value, type)]
    return len(classes) == len(held) and (
        classes[0].__mro__ is held or any(child.__bases__ is held for kind in classes for child in _below(kind))
    )


def _below(kind: type) -> list[type]:
    """The classes that were derived from one, whatever it says of itself."""
    return type.__subclasses__(kind)


def _own(value: object) -> int:
    """How many of the references to a value are a class's own, to itself."""
    if not isinstance(value, type):
        return 0
    parts = [value.__mro__, *vars(value).values()]
    parts += [cell for part in parts if isinstance(part, FunctionType) for cell in part.__closure__ or ()]
    each_once = {id(part): part for part in parts}.values()
    return sum(referent is value for part in each_once for referent in gc.get_referents(part))


def _kinds(dictionaries: list[dict[Any, object]]) -> dict[int, type]:
    """The classes whose attributes some dictionaries hold, by the identities of these.

    By going through all classes: `gc.get_referrers` compares each reference that there is with each dictionary.
    """
    wanted = set(map(id, dictionaries))
    kinds: dict[int, type] = {}
    classes: list[type] = [object] if wanted else []
    seen: set[type] = {object}
    while classes:
        kind = classes.pop()
        kinds.update((id(part), kind) for part in gc.get_referents(kind) if id(part) in wanted)
        below = _below(kind)
        classes += [child for child in below if child not in seen]
        seen.update(below)
    return kinds


def _item(undo: _Undo, holder: Any, name: Any, old: Any, new: object, kind: type | None = None) -> None:
    def put(value: Any) -> None:
        if kind is None:
            holder[name] = value
        else:  # which remembers what it looked up
            setattr(kind, name, value)

    put(new)

    def back() -> None:
        with contextlib.suppress(LookupError):
            if holder[name] is new:
                put(old)

    undo.append(back)


def _cell(undo: _Undo, holder: Any, places: _Places, sparing: Collection[int]) -> None:
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        old = holder.cell_contents
        if id(old) in places and id(old) not in sparing:
            holder.cell_contents = places[id(old)][1]
            undo.append(lambda: setattr(holder, "cell_contents", old))


def _calling(name: str, code: Any) -> Any:
    """The code of a function that hands its arguments to a global, with as many free variables as `code` has."""
    free = code.co_freevars
    lines = [
        "def outer():",
        *(f"    {variable} = None" for variable in free),
        "    def inner(*args, **kwargs):",
        f"        return {name}(*args, **kwargs)",
        *(f"        {variable}" for variable in free),
        "    return inner",
    ]
    namespace: dict[str, Any] = {}
    exec("\n".join(lines), namespace)  # noqa: S102 - the text is ours
    made = namespace["outer"]().__code__
    return made.replace(co_name=code.co_name, co_filename=__file__)


@contextlib.contextmanager
def patches() -> Iterator[Patches]:
    """Replacements that hold inside the block."""
    made = Patches()
    try:
        yield made
    finally:
        made.undo()
