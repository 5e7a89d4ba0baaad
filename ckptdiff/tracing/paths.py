"""Paths that a program names and that mean others here: those the user maps, and files of weights that it would write,
rename or remove, of which it is to find what it did."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ckptdiff.following.readers.opened_files import finding_all
from ckptdiff.patches import Kept
from ckptdiff.tracing.overlay import Entries, Overlay, is_weights
from ckptdiff.tracing.scene import Scene

_READ = tuple(
    function
    for name in ("stat", "lstat", "access", "readlink", "utime", "chmod", "listxattr", "getxattr", "setxattr")
    if (function := getattr(os, name, None)) is not None
)
_WRITES = os.O_WRONLY | os.O_RDWR


def other_paths(scene: Scene) -> None:
    """Have the program find files where they are here, and leave those of weights as they are."""
    overlay = scene.overlay
    scene.patched.also(overlay.close)
    for function in _READ:
        _instead(scene, function, _finding)
    for function, instead in (
        (os.open, _opening), (os.listdir, _listing), (os.scandir, _scanning), (os.mkdir, _making),
        (os.unlink, _removing), (os.remove, _removing), (os.rmdir, _removing_folder),
        (os.rename, _moving), (os.replace, _moving), (os.link, _linking),
        (os.symlink, partial(_linking, symbolic=True)),
    ):  # fmt: skip
        _instead(scene, function, instead)
    _instead(scene, builtins.open, _opening_file)
    _readers_in_c(scene)


def _instead(scene: Scene, function: object, make: Callable[[Kept, Overlay], Callable[..., object]]) -> None:
    kept = Kept(function)
    scene.patched.everywhere(kept, make(kept, scene.overlay))


def _finding(function: Kept, overlay: Overlay) -> Callable[..., object]:
    def finding(path: object, *args: object, **kwargs: Any) -> object:
        if overlay.idle:
            return function.value(path, *args, **kwargs)
        place = overlay.here(path, kwargs.get("dir_fd"))
        if place is not path and kwargs.get("dir_fd") is not None:
            kwargs["dir_fd"] = None
        return function.value(place, *args, **kwargs)

    return finding


def _opening(function: Kept, overlay: Overlay) -> Callable[..., object]:
    def opening(path: Any, flags: int, *args: object, **kwargs: object) -> object:
        place, folder = overlay.mapped(path), kwargs.get("dir_fd")
        if flags & _WRITES and folder is None and _names_weights(place) and _has_folder(place):
            there = _is_there(place)
            if there and flags & os.O_CREAT and flags & os.O_EXCL:
                raise FileExistsError(17, os.strerror(17), os.fspath(path))
            if there or flags & os.O_CREAT:
                return function.value(overlay.aside(place, keeping=not flags & os.O_TRUNC), flags, *args, **kwargs)
        return _finding(function, overlay)(path, flags, *args, **kwargs)

    return opening


def _opening_file(function: Kept, overlay: Overlay) -> Callable[..., object]:
    def opening(file: Any, mode: Any = "r", *args: object, **kwargs: object) -> object:
        path = overlay.mapped(file)
        writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        if writes and _names_weights(path) and _has_folder(path) and not kwargs.get("opener"):
            there = _is_there(path)
            if there and "x" in mode:
                raise FileExistsError(17, os.strerror(17), os.fspath(file))
            if there or "r" not in mode:
                overlay.told(path)
                return function.value(
                    overlay.aside(path, keeping="w" not in mode), mode.replace("x", "w"), *args, **kwargs
                )
        return function.value(path if overlay.idle else overlay.here(path), mode, *args, **kwargs)

    return opening


def _listing(function: Kept, overlay: Overlay) -> Callable[..., object]:
    def listing(path: object = ".", *args: object, **kwargs: object) -> object:
        if overlay.idle or isinstance(path, bytes):
            return function.value(path, *args, **kwargs)
        place = overlay.here("." if path is None else path)
        added, gone = overlay.inside(place)
        return [
            *(name for name in function.value(place, *args, **kwargs) if name not in gone and name not in added),
            *added,
        ]

    return listing


def _scanning(function: Kept, overlay: Overlay) -> Callable[..., object]:
    def scanning(path: object = ".", *args: object, **kwargs: object) -> object:
        if overlay.idle or isinstance(path, bytes):
            return function.value(path, *args, **kwargs)
        place = overlay.here("." if path is None else path)
        added, gone = overlay.inside(place)
        real = function.value(place, *args, **kwargs)
        return Entries(real, gone, added, "" if isinstance(place, int) else os.fspath(place)) if added or gone else real

    return scanning


def _making(function: Kept, overlay: Overlay) -> Callable[..., object]:
    def making(path: object, *args: object, **kwargs: object) -> object:
        if overlay.idle:
            return function.value(path, *args, **kwargs)
        return None if overlay.make_folder(path) else function.value(overlay.mapped(path), *args, **kwargs)

    return making


def _removing(function: Kept, overlay: Overlay) -> Callable[..., object]:
    def removing(path: object, *args: object, **kwargs: Any) -> None:
        place = overlay.mapped(path)
        if not overlay.remove(place, kwargs.get("dir_fd")):
            function.value(place, *args, **kwargs)

    return removing


def _removing_folder(function: Kept, overlay: Overlay) -> Callable[..., object]:
    def removing(path: object, *args: object, **kwargs: Any) -> None:
        place = overlay.mapped(path)
        if overlay.idle or not overlay.remove_folder(place, kwargs.get("dir_fd")):
            function.value(place, *args, **kwargs)

    return removing


def _moving(function: Kept, overlay: Overlay) -> Callable[..., object]:
    def moving(source: object, target: object, *args: object, **kwargs: object) -> None:
        old, new = overlay.mapped(source), overlay.mapped(target)
        plain = all(kwargs.get(name) is None for name in ("src_dir_fd", "dst_dir_fd"))
        if not (plain and overlay.move(old, new)):
            function.value(old, new, *args, **kwargs)

    return moving


def _linking(function: Kept, overlay: Overlay, *, symbolic: bool = False) -> Callable[..., object]:
    def linking(source: object, target: object, *args: object, **kwargs: object) -> None:
        old, new = overlay.mapped(source), overlay.mapped(target)
        start = old
        if symbolic and isinstance(new, (str, os.PathLike)):  # what it says is meant from where it lies
            with contextlib.suppress(TypeError):
                start = os.path.join(os.path.dirname(os.fspath(new)), os.fspath(old))  # noqa: PTH118, PTH120
        if not overlay.move(start, new, keeping=True):
            function.value(old, new, *args, **kwargs)

    return linking


def _readers_in_c(scene: Scene) -> None:
    """What opens a file by its path past Python."""
    overlay = scene.overlay

    def load(f: object, *args: object, **kwargs: object) -> object:
        if not overlay.is_own(f):
            return torch_load(overlay.mapped(f), *args, **kwargs)
        before, torch.serialization.pickle = torch.serialization.pickle, pickle  # type: ignore[attr-defined]
        try:
            with finding_all():
                return torch_load(overlay.mapped(f), *args, **kwargs)
        finally:
            torch.serialization.pickle = before  # type: ignore[attr-defined]

    torch_load = scene.patched.function(torch.load, load)

    files = scene.watch.followed.files
    files.place = overlay.here

    def moved(old: str, new: str) -> None:
        if os.path.realpath(old) in files.opened.written:  # what it put away is under another name
            files.opened.note(new, writes=True)

    overlay.moved = moved
    overlay.writes = lambda path: files.opened.note(path, writes=True)

    def copyfile(src: object, dst: object, *args: object, **kwargs: object) -> object:
        source, target = overlay.mapped(src), overlay.mapped(dst)
        if _names_weights(source) and _names_weights(target) and overlay.move(source, target, keeping=True):
            return dst
        return copied(src, dst, *args, **kwargs)

    copied = scene.patched.function(shutil.copyfile, copyfile)


def _names_weights(path: object) -> bool:
    if not isinstance(path, (str, os.PathLike)):
        return False
    text = os.fspath(path)
    return isinstance(text, str) and is_weights(text)


def _has_folder(path: str | os.PathLike[str]) -> bool:
    return os.path.isdir(os.path.dirname(os.fspath(path)) or ".")  # noqa: PTH112, PTH120


def _is_there(path: str | os.PathLike[str]) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - as the program sees it
    except OSError:
        return False
    return True
