"""Importing the file or module that defines the user's model, and taking things out of it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from ckptdiff.choices import closest
from ckptdiff.errors import ModelError

Pause = Callable[[], contextlib.AbstractContextManager[None]]

_PREFIX = "ckptdiff_model_"
_INSTALLED = ("site-packages", "dist-packages")
# Importing these a second time in one process breaks them.
_NEVER_HIDDEN = {"ckptdiff", "numpy", "torch"}


class Home:
    """Where a file or module of the user's is imported from: the directory that goes on `sys.path` and the name it
    gets in `sys.modules`."""

    def __init__(self, directory: Path, name: str, file: Path | None = None) -> None:
        self.directory = directory
        self.name = name
        self.file = file
        """The file to run under that name; None to import the name in the ordinary way."""
        self.modules: dict[str, ModuleType] = {}
        """The user's modules imported so far, which are in `sys.modules` only within `importing`."""
        self.before: set[str] = set()
        """The names in `sys.modules` when `importing` began."""

    @classmethod
    def of_file(cls, path: Path) -> Home:
        """A file in a package is imported as part of it, so that its relative imports work; any other file under a
        name of its own, stable for its path, so that it hides and replaces no other module."""
        path = path.resolve()
        parts = [] if path.stem == "__init__" else [path.stem]
        directory = path.parent
        while (directory / "__init__.py").is_file() and directory.parent != directory:
            parts.insert(0, directory.name)
            directory = directory.parent
        inside = directory != path.parent
        taken = {*_NEVER_HIDDEN, *sys.stdlib_module_names}
        if inside and all(part.isidentifier() for part in parts) and parts[0] not in taken:
            return cls(directory, ".".join(parts))
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
        return cls(path.parent, f"{_PREFIX}{path.stem}_{digest}", path)

    def load(self) -> ModuleType:
        """Import it. Raises whatever its code raises."""
        if self.file is None:
            return importlib.import_module(self.name)
        spec = importlib.util.spec_from_file_location(self.name, self.file)
        assert spec is not None  # for the file's name ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.name] = module  # before it runs: dataclasses and pickle look there
        spec.loader.exec_module(module)
        return module

    def imported(self) -> dict[str, ModuleType]:
        """The user's modules imported within the present `importing`, by name."""
        return {
            name: module
            for name, module in list(sys.modules.items())
            if name not in self.before and is_users(getattr(module, "__file__", None), self.directory)
        }

    def forget(self) -> None:
        """Drop the modules imported so far: they may hold what a failed way of building put there."""
        self.modules = {}
        sys.modules.pop(self.name if self.file else "", None)


def display_name(module_name: str) -> str:
    """A module's name as its author knows it: without what `Home.of_file` added."""
    return re.sub(rf"^{_PREFIX}(.+)_[0-9a-f]{{8}}$", r"\1", module_name, flags=re.DOTALL)


@contextlib.contextmanager
def importing(home: Home | None, pause: Pause = contextlib.nullcontext) -> Iterator[None]:
    """Import the user's code from its home, ahead of everything else; None where all code is a library's.

    Only code below the home's directory is the user's. Installed packages are imported under `pause()`, so that what
    they create when first imported is as it always is. Afterwards the user's modules leave `sys.modules`, where their
    names may mean something else to others; `home` keeps them for the next time.
    """
    directory = home.directory if home else None
    finder = _OutsideFinder(directory, pause)
    hidden = _hide_namesakes(directory) if directory else {}
    path = sys.path[:]
    if home is not None:
        home.before = set(sys.modules)
        sys.modules.update(home.modules)
        sys.path.insert(0, str(directory))
    finders, finders_before = sys.meta_path, sys.meta_path[:]
    finders.insert(0, finder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        _put_back_finders(finders, finders_before, finder)
        sys.path[:] = path
        if home is not None:
            home.modules = home.imported()
            for name in home.modules:
                if not name.startswith(_PREFIX):  # nobody else has a name like that: pickle may find it
                    del sys.modules[name]
        sys.modules.update(hidden)


def _put_back_finders(finders: list[Any], before: Sequence[object], ours: MetaPathFinder) -> None:
    """Take `ours` out of `sys.meta_path`, which is the list `finders` again. What libraries have added stays, for what
    is imported later; what code has taken away is there again. Entries are told apart by identity: they compare as they
    like."""
    present: list[object] = [finder for finder in sys.meta_path if finder is not ours]
    known = {id(finder) for finder in before}
    if [id(finder) for finder in present if id(finder) in known] != [id(finder) for finder in before]:
        present = [*before, *(finder for finder in present if id(finder) not in known)]
    finders[:] = present
    sys.meta_path = finders


@functools.lru_cache(maxsize=1 << 16)
def is_users(file: str | None, directory: Path | None) -> bool:
    """Whether a file belongs to the user's code below `directory`, rather than being installed or Python's own."""
    if file is None or directory is None:
        return False
    path = Path(file).resolve()
    return (
        path.is_relative_to(directory)
        and not any(part in _INSTALLED for part in path.parts)
        and not path.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())
    )


def _hide_namesakes(directory: Path) -> dict[str, ModuleType]:
    """Take modules out of `sys.modules` whose names `directory` gives another meaning, as it would have if Python had
    been started there; returns them."""
    namesakes = {
        name
        for name, module in list(sys.modules.items())
        if "." not in name
        and name not in _NEVER_HIDDEN
        and name not in sys.stdlib_module_names
        and ((directory / f"{name}.py").is_file() or (directory / name / "__init__.py").is_file())
        and (file := getattr(module, "__file__", None)) is not None
        and not Path(file).resolve().is_relative_to(directory)
    }
    hidden = {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in namesakes}
    for name in hidden:
        del sys.modules[name]
    return hidden


class _OutsideFinder(MetaPathFinder):
    """Finds what the other finders find, and has what is not the user's run under `pause()`."""

    def __init__(self, directory: Path | None, pause: Pause) -> None:
        self._directory = directory
        self._pause = pause

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        finders = list(sys.meta_path)
        own = next((place for place, finder in enumerate(finders) if finder is self), -1)
        for finder in finders[own + 1 :]:  # those before have been asked: another of this kind among them, say
            find = getattr(finder, "find_spec", None)
            spec: Any = find(fullname, path, target) if find is not None else None
            if spec is None:
                continue
            # A loader of the old kind (`load_module`), or what is no ModuleSpec, is left to Python.
            loads = isinstance(spec, ModuleSpec) and spec.has_location and hasattr(spec.loader, "exec_module")
            if loads and not is_users(spec.origin, self._directory):
                spec.loader = _OutsideLoader(spec.loader, self._pause)
            return cast("ModuleSpec", spec)
        return None


class _OutsideLoader(Loader):
    """A module's own loader, run under `pause()`; it withdraws as soon as it has been used."""

    def __init__(self, loader: Any, pause: Pause) -> None:
        self._loader = loader
        self._pause = pause

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self._loader, "create_module", None)
        if create is None:
            return None
        with self._pause():
            module: ModuleType | None = create(spec)
            return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with self._pause():
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def take(module: ModuleType, attr: str, where: str) -> object:
    """The attribute `attr`, possibly dotted, of a module called `where`. Raises ModelError when it is not there."""
    value: object = module
    taken = where
    for part in attr.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise ModelError(f"{taken} has no `{part}`.", _suggest(part, value, where, attr)) from None
        taken = f"{taken}:{part}" if taken == where else f"{taken}.{part}"
    return value


def _suggest(name: str, holder: object, where: str, attr: str) -> str:
    names = [known for known in dir(holder) if not known.startswith("__")]
    close = did_you_mean(name, names)
    if close:
        return f"Did you mean `{where}:{attr.replace(name, close)}`?"
    return "Check the name after the colon."


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The known name closest to a mistyped one, "" when none is close."""
    lowered = {candidate.lower(): candidate for candidate in known}
    return lowered.get(closest(name.lower(), lowered), "")
