"""Paths that a program names and that mean others here: those the user maps, and files of weights it would write."""

from __future__ import annotations

import builtins
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from ckptdiff.patches import Kept
from ckptdiff.suffixes import OLD, WEIGHTS
from ckptdiff.tracing.options import Maps
from ckptdiff.tracing.surroundings import Scene


def mapped(path: Any, maps: Maps) -> Any:
    """A path under its name here; anything else as it is."""
    if not maps or not isinstance(path, (str, os.PathLike)):
        return path
    text = os.fspath(path)
    if isinstance(text, str):
        for old, new in maps:
            if text == old or text.startswith(old.rstrip("/") + "/"):
                return new + text[len(old.rstrip("/")) :] if text != old else new
    return path


def map_paths(scene: Scene, maps: Maps) -> None:
    """Have the program find files where they are here."""
    if not maps:
        return
    for function in (os.stat, os.lstat, os.listdir, os.scandir, os.open, os.access):
        kept = Kept(function)
        scene.patched.everywhere(kept, _finding(kept, maps))
    torch_load = scene.patched.function(torch.load, lambda f, *args, **kwargs: load(f, *args, **kwargs))

    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        return torch_load(mapped(f, maps), *args, **kwargs)

    try:
        import safetensors
    except ImportError:
        return
    opened = Kept(safetensors.safe_open)

    def safe_open(filename: Any, *args: Any, **kwargs: Any) -> Any:
        return opened.value(mapped(filename, maps), *args, **kwargs)

    scene.patched.everywhere(opened, safe_open)


def _finding(function: Kept, maps: Maps) -> Callable[..., Any]:
    def finding(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
        return function.value(mapped(path, maps), *args, **kwargs)

    return finding


def write_elsewhere(scene: Scene, maps: Maps) -> None:
    """Have files of weights that the program opens for writing be others, which are gone at its end; and find what it
    opens for reading where it is here."""
    folder = tempfile.mkdtemp(prefix="ckptdiff-")
    scene.patched.also(lambda: shutil.rmtree(folder, ignore_errors=True))
    plainly = Kept(builtins.open)

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        path = mapped(file, maps)
        writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        if writes and isinstance(path, (str, os.PathLike)) and str(path).lower().endswith((*WEIGHTS, *OLD)):
            scene.tell(f"{os.fspath(path)!s} was not written.")
            path = os.path.join(folder, os.path.basename(os.fspath(path)))  # noqa: PTH118, PTH119
        return plainly.value(path, mode, *args, **kwargs)

    scene.patched.everywhere(plainly, opening)
