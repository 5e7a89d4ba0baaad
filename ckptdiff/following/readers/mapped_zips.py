"""What torch.load gives of a zip file that holds nothing but tensors in plain containers: as our own reading of it has
them, laid over the mapped file.

torch's unpickler of weights takes as long for a hundred thousand tensors as all that is followed. Whatever is not as
plain as that is torch's own to read, and so is what it refuses.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import cast

import torch

from ckptdiff.errors import CkptdiffError
from ckptdiff.following.readers.mapped_tensors import array_over, from_buffer
from ckptdiff.formats import torch_zip  # noqa: F401 - before struct is followed, so that it has struct's own functions
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.opening import open_file
from ckptdiff.formats.pickles.constructors import STORAGE_DTYPES
from ckptdiff.formats.pickles.entries import Locate
from ckptdiff.formats.pickles.stand_ins import Mapping, Tensor
from ckptdiff.garbage import uncollected
from ckptdiff.places import identity_of, place_of
from ckptdiff.torch_private import tensor_rebuilder

_PLAIN = (bool, int, float, str, type(None))
_NAMED = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    *(("torch", name) for name in STORAGE_DTYPES),
}
_USUAL: dict[str, tuple[object, ...]] = {
    "map_location": (None, "cpu", torch.device("cpu")),
    "weights_only": (True, False) if torch.__version__ < "2.6" else (None, True, False),  # which warned of None
    "mmap": (None, False),
}
_FORCED = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
_MAX_DEPTH = 64

_rebuild = tensor_rebuilder(typed=True)


class NotPlainError(Exception):
    """torch is to read the file itself."""


def opened_plainly(
    path: str | os.PathLike[str], args: tuple[object, ...], kwargs: dict[str, object], before: Opened | None = None
) -> Opened:
    """Our own reading of a file that `torch.load(path, *args, **kwargs)` reads; `before` is one of it from before.
    Raises NotPlainError where there is more to the file or to the call."""
    name = os.fspath(path)
    asked = {"weights_only": None, **kwargs, **dict(zip(("map_location", "pickle_module"), args, strict=False))}
    if (
        not all(_is_usual(option, value) for option, value in asked.items())
        or name.endswith(".safetensors")
        or any(variable in os.environ for variable in _FORCED)
    ):
        raise NotPlainError
    if tensor_rebuilder(typed=True) is not _rebuild:  # code has its own
        raise NotPlainError
    try:
        with uncollected():
            opened = before if _is_same(before, name) else open_file(place_of(name))
    except (CkptdiffError, OSError):  # in torch's own words
        raise NotPlainError from None
    assert opened is not None
    if opened.format != "torch-zip" or opened.weights_only or opened.byteorder != "little":
        raise NotPlainError
    if not _NAMED.issuperset(opened.globals):
        raise NotPlainError
    return opened


def _is_same(before: Opened | None, name: str) -> bool:
    """Whether a file is still the one that was read."""
    return before is not None and [*before.identities.values()] == [identity_of(os.stat(name))]  # noqa: PTH116


def _is_usual(option: str, value: object) -> bool:
    return type(value) in (bool, str, type(None), torch.device) and value in _USUAL.get(option, ())


def laid_over(opened: Opened, storage: torch.UntypedStorage) -> object:
    """What a file holds, its tensors laid over the file's memory. Raises NotPlainError where there is more in it."""
    assert opened.locate is not None
    with uncollected():
        return _Building(opened.locate, storage).made(opened.content, 0)


class _Building:
    """The objects of one file, each made once."""

    def __init__(self, locate: Locate, storage: torch.UntypedStorage) -> None:
        self._locate = locate
        self._memory = array_over(storage)
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._made: dict[int, object] = {}

    def made(self, value: object, depth: int) -> object:
        if type(value) in _PLAIN:
            return value
        known = self._made.get(id(value))
        if known is not None:
            return known
        if depth > _MAX_DEPTH:
            raise NotPlainError
        made: object
        if isinstance(value, Tensor):
            made = self._made[id(value)] = self._tensor(value)
        elif type(value) is tuple:
            made = self._made[id(value)] = tuple(self.made(item, depth + 1) for item in value)
        elif type(value) is list:
            made = listed = self._made[id(value)] = cast("list[object]", [])
            listed.extend(self.made(item, depth + 1) for item in value)
        else:
            made = self._table(value, depth)
        return made

    def _table(self, value: object, depth: int) -> dict[object, object]:
        attributes: dict[object, object] = {}
        table: dict[object, object] = {}
        if isinstance(value, Mapping) and value.type_name == "collections.OrderedDict":
            table = OrderedDict()
            attributes = value.attributes or {}
        elif type(value) is not dict:
            raise NotPlainError
        self._made[id(value)] = table
        for key, item in value.items():
            if type(key) not in _PLAIN:
                raise NotPlainError
            table[key] = self.made(item, depth + 1)
        for name, item in attributes.items():
            if type(name) is not str:
                raise NotPlainError
            vars(table)[name] = self.made(item, depth + 1)
        return table

    def _tensor(self, described: Tensor) -> torch.Tensor:
        """As `torch._utils._rebuild_tensor_v2` makes it, over a storage that lies where the file has its bytes."""
        ref = described.storage
        plain = described.layout == "strided" and described.type_name == "torch.Tensor" and described.quantizer is None
        if ref is None or ref.location != "cpu" or ref.shift or described.device != "cpu" or not plain:
            raise NotPlainError
        dtype = getattr(torch, described.dtype)
        storage = self._storages.get(ref.key)
        flat = False
        if storage is not None or not ref.nbytes:
            tensor = torch.empty(0, dtype=dtype)
        else:
            start = self._locate(ref).start
            if start is None:
                raise NotPlainError
            count = ref.nbytes // dtype.itemsize
            tensor = from_buffer(self._memory, dtype=dtype, count=count, offset=start)
            storage = self._storages[ref.key] = tensor.untyped_storage()
            flat = described.shape == (count,) and described.stride == (1,) and described.offset == 0
        if not flat:
            place = storage or tensor.untyped_storage()
            try:
                tensor.set_(place, described.offset, described.shape, described.stride)  # type: ignore[call-overload]
            except RuntimeError:  # more than the storage has, in torch's own words
                raise NotPlainError from None
        return tensor.requires_grad_() if described.requires_grad else tensor
