"""Where values leave tensors past torch's dispatcher: to numpy, to Python, to files. They are computed by then."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from ckptdiff.following.engine import Engine
from ckptdiff.following.log.replay import plainly
from ckptdiff.following.mode import parts
from ckptdiff.following.readers.named_files import flat_tensor
from ckptdiff.patches import Kept, Patches
from ckptdiff.torch_private import FILE_WRITER, SHARERS, without_torch_dispatch, without_torch_function


def watch_looks(patched: Patches, engine: Engine) -> None:
    """Have every way by which code reads values see them."""
    tensor = torch.Tensor

    def settled(
        method: Callable[..., object], *, foreign: bool = False, keeps: bool = False, all_of_it: bool = False
    ) -> Callable[..., object]:
        def reading(self: torch.Tensor, *args: object, **kwargs: object) -> object:
            with without_torch_function(), engine.lock:
                consists = parts(self)
                if keeps:
                    engine.put_away(consists)
                else:
                    engine.settle(consists, foreign=foreign)
                    (engine.take_out if all_of_it else engine.look)(consists)
            result = method(self, *args, **kwargs)
            if all_of_it:
                engine.kept.keep_numbers(result)
            return result

        reading.__name__ = getattr(method, "__name__", "reading")
        return reading

    patched.attribute(tensor, "tolist", settled(tensor.tolist, all_of_it=True))
    patched.attribute(tensor, "share_memory_", settled(tensor.share_memory_, foreign=True))

    def exposing(kept: Kept) -> Callable[..., object]:
        def exchanged(given: torch.Tensor, *args: object, **kwargs: object) -> object:
            with without_torch_function(), engine.lock:
                engine.expose(parts(given))
            return kept.value(given, *args, **kwargs)

        return exchanged

    patched.attribute(tensor, "__dlpack__", exposing(Kept(tensor.__dlpack__)))
    capsule = Kept(torch.utils.dlpack.to_dlpack)  # type: ignore[attr-defined]
    patched.everywhere(capsule, exposing(capsule))
    # Pickling: `pickle.dumps`, `torch.save`, a queue.
    patched.attribute(tensor, "__reduce_ex__", settled(tensor.__reduce_ex__, keeps=True))


def watch_classes(patched: Patches) -> None:
    """A tensor by another class, which is the same memory: torch 2.4 refuses it where operations are followed."""
    as_subclass = torch.Tensor.as_subclass

    def classed(self: torch.Tensor, kind: type[torch.Tensor]) -> object:
        if type(self) not in (torch.Tensor, torch.nn.Parameter):
            return as_subclass(self, kind)
        with without_torch_dispatch():
            return as_subclass(self, kind)

    patched.attribute(torch.Tensor, "as_subclass", classed)


def watch_storages(patched: Patches, engine: Engine) -> None:
    """Storages that are given another size by themselves, or shared with other processes, and then lie elsewhere."""
    resize = torch.UntypedStorage.resize_

    def resized(self: torch.UntypedStorage, *args: Any) -> object:
        with engine.moving(self):
            return resize(self, *args)

    def shared(share: Callable[..., object]) -> Callable[..., object]:
        def sharing(self: torch.UntypedStorage, *args: object) -> object:
            with engine.moving(self), plainly():  # other processes are to find its values there
                return share(self, *args)

        return sharing

    def as_numbers(method: Callable[..., list[object]]) -> Callable[..., list[object]]:
        def tolist(self: Any) -> list[object]:
            whole = [flat_tensor(self)]
            with engine.lock:
                engine.settle(whole)
                engine.take_out(whole)
            result = method(self)
            engine.kept.keep_numbers(result)
            return result

        return tolist

    for kind in (torch.UntypedStorage, torch.storage.TypedStorage):
        patched.attribute(kind, "tolist", as_numbers(kind.tolist))
    patched.attribute(torch.UntypedStorage, "resize_", resized)
    for name in SHARERS:
        patched.attribute(torch.UntypedStorage, name, shared(getattr(torch.UntypedStorage, name)))


def watch_addresses(patched: Patches, engine: Engine) -> None:
    """Memory that code reaches by its address, through ctypes."""
    kept = Kept(ctypes.memmove)

    def memmove(target: object, source: object, count: int) -> object:
        places = [_address(target), _address(source)]
        labels = engine.exposed_at(places[1], count)
        engine.exposed_at(places[0], count)
        result = kept.value(target, source, count)
        engine.moved_to(places[0], count, labels)
        return result

    patched.everywhere(kept, memmove)
    kept_cast = Kept(ctypes.cast)

    def cast(address: object, kind: object) -> object:
        if isinstance(address, int):
            engine.settle_at(address)  # what is read there is told by an audit event, but too late
        return kept_cast.value(address, kind)

    patched.everywhere(kept_cast, cast)
    writer = getattr(*FILE_WRITER)
    write_record = writer.write_record

    def written(self: object, name: str, data: object, *args: object) -> object:
        if isinstance(data, int):
            engine.settle_at(data)
        elif isinstance(data, torch.UntypedStorage):
            engine.settle_at(data.data_ptr())
        return write_record(self, name, data, *args)

    patched.attribute(writer, "write_record", written)


def _address(place: Any) -> int:
    return place if isinstance(place, int) else ctypes.cast(place, ctypes.c_void_p).value or 0
