"""What the program saves: noted with where it comes from, and kept aside, where the program can read it again."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ckptdiff.following.readers.named_files import named_tensors
from ckptdiff.tracing.overlay import ASIDE
from ckptdiff.tracing.scene import Scene


def saved_aside(scene: Scene) -> None:
    """`torch.save`, safetensors' `save_file`, and what saves TorchScript and exported programs."""

    def save(obj: object, f: object, *args: object, **kwargs: object) -> None:
        _write(scene, f, dict(named_tensors(obj)), lambda place: original(obj, place, *args, **kwargs))
        _own(scene, f)

    original = scene.patched.function(torch.save, save)
    _scripted(scene)
    try:
        import safetensors.torch as library
    except ImportError:
        return

    def save_file(tensors: object, filename: object, *args: object, **kwargs: object) -> None:
        saved = dict(tensors) if isinstance(tensors, Mapping) else {}
        _write(scene, filename, saved, lambda place: save_named(tensors, place, *args, **kwargs))

    save_named = scene.patched.function(library.save_file, save_file)


def _scripted(scene: Scene) -> None:
    def save_script(self: Any, f: object, *args: object, **kwargs: object) -> None:
        tensors = dict(self.state_dict())
        scene.watch.followed.engine.put_away(tensors.values())
        _write(scene, str(f), tensors, lambda place: save_module(self, place, *args, **kwargs))

    save_module = scene.patched.function(torch.jit.RecursiveScriptModule.save, save_script)  # type: ignore[attr-defined]

    def patch(module: Any) -> None:
        def save(ep: Any, f: object, *args: object, **kwargs: object) -> None:
            tensors = dict(ep.state_dict)
            scene.watch.followed.engine.put_away(tensors.values())
            _write(scene, f, tensors, lambda place: original(ep, place, *args, **kwargs))

        original = scene.patched.function(module.save, save)

    scene.patched.imports.once("torch.export", patch)


def _write(scene: Scene, f: object, tensors: Mapping[str, torch.Tensor], write: Callable[[object], object]) -> None:
    """Note what is saved, and have it saved aside, where what it raises is raised. A stream is the program's own."""
    path = os.fspath(f) if isinstance(f, (str, os.PathLike)) else None
    if path is None:
        given = getattr(f, "name", None)
        name = scene.overlay.named(given)
        if isinstance(given, str) and name is None:  # a file that the program has made otherwise, a temporary one
            scene.watch.followed.files.opened.note(given, writes=True)
        write(f)
        if name is not None:
            scene.watch.note_saved(name, tensors)
        return
    path = scene.overlay.mapped(path)
    if not os.path.isdir(os.path.dirname(path) or "."):  # noqa: PTH112, PTH120
        write(path)  # it raises
        return
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _stored(tensors)}
    if sum(storages.values()) > min(ASIDE, shutil.disk_usage(tempfile.gettempdir()).free // 2):
        scene.watch.note_saved(path, tensors)
        scene.tell(f"{path} is too large to be kept aside: the program does not find it again.")
        return
    files = scene.watch.followed.files
    files.name(path)
    place = scene.overlay.aside(path)
    write(place)
    if os.path.exists(place):  # noqa: PTH110
        scene.watch.note_saved(path, tensors)


def _stored(tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    return [tensor for tensor in tensors.values() if tensor.layout is torch.strided and not tensor.is_meta]


def _own(scene: Scene, f: object) -> None:
    """What the program's objects became, it makes of them again: these are no strangers'."""
    scene.overlay.own(f if isinstance(f, (str, os.PathLike)) else getattr(f, "name", None))
