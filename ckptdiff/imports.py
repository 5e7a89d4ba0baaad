"""Modules that are to be changed once they are there: at once, or when the code that is followed imports them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

Patch = Callable[[ModuleType], None]


class Imports:
    """A finder of modules that finds them as ever, and has somebody told once they have run."""

    def __init__(self) -> None:
        self._patches: dict[str, Patch] = {}

    def once(self, name: str, patch: Patch) -> None:
        """Call `patch` with a module, now or after its import."""
        module = sys.modules.get(name)
        if module is not None:
            patch(module)
        else:
            self._patches[name] = patch

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        """Part of how Python imports."""
        patch = self._patches.pop(name, None)
        if patch is None:
            return None
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            loader = spec.loader
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                patch(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Inside the block, imports are seen."""
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
