"""torch.save before 1.6: five pickles in a row, then the storages' bytes.

Layout (torch/serialization.py, `_legacy_save`): magic number, protocol version, system info, the object itself, the
list of storage keys; then for each key its number of elements (8 bytes, little-endian) and its bytes.
"""

from __future__ import annotations

import mmap
from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats import compressed
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.constructors import STORAGE_DTYPES, element_size, location_name
from ckptdiff.formats.pickles.machine import Unpickler
from ckptdiff.formats.pickles.opcodes import STEPS_PER_STORAGE, TruncatedError
from ckptdiff.formats.pickles.saved_on import saved_on
from ckptdiff.formats.pickles.stand_ins import Global, StorageRef
from ckptdiff.formats.signatures import has_magic
from ckptdiff.formats.table import format_named
from ckptdiff.places import ByteSource, truncated
from ckptdiff.tensors import Storage

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

# The pickles come first, with an unknown end: read a little, and more if that was too little.
_FIRST_WINDOW = 1 << 20
_FIRST_REMOTE_WINDOW = 1 << 16
_COPY_LIMIT = 256 << 20


def read(source: ByteSource, *, steps: int = 0) -> Opened:
    """Runs the pickles of a legacy checkpoint, or the only one of a file that is just a pickle, which may take `steps`
    more than others of few storages."""
    window = _FIRST_WINDOW if source.local else _FIRST_REMOTE_WINDOW
    while True:
        complete = window >= source.size
        in_place = not complete and window > _COPY_LIMIT
        data = source.whole() if in_place else source.read(0, min(window, source.size))
        try:
            return _read(source, data, steps)
        except CheckpointError as error:
            # joblib puts the bytes of arrays between the steps of its pickle.
            head = bytes(data[: compressed.HEAD])
            if compressed.is_joblib(head) and not has_magic(head):
                raise compressed.joblib(source.name) from None
            if complete or in_place or not isinstance(error, TruncatedError):
                raise
        window *= 16 if source.local else 2


def _read(source: ByteSource, data: bytes | mmap.mmap, steps: int) -> Opened:
    storages = _Storages(source)
    unpickler = Unpickler(source.name, storages.persistent, source.size, lambda: steps + storages.steps)
    value, position = unpickler.load(data)
    if value != MAGIC if type(value) is int else True:
        return _only_pickle(source, value, unpickler, storages)
    protocol, position = unpickler.load(data, position)
    if protocol != PROTOCOL if type(protocol) is int else True:
        raise CheckpointError(
            f"{source.name} is a legacy torch checkpoint of an unknown version", "Save it again with a current torch."
        )
    _, position = unpickler.load(data, position)
    value, position = unpickler.load(data, position)
    keys, position = unpickler.load(data, position)
    if type(keys) is not list:
        raise CheckpointError(f"{source.name} is damaged: its list of storages is missing")
    storages.place(keys, position)
    # Whatever machine wrote it, and whatever the system info says: storages are little-endian.
    return Opened(
        source.name,
        "torch-legacy",
        value,
        source.size,
        storages.locate,
        unpickler.globals,
        unpickler.refused,
        saved_on=saved_on(storages.devices, value, unpickler.globals.values()),
    )


def _only_pickle(source: ByteSource, value: object, unpickler: Unpickler, storages: _Storages) -> Opened:
    """What pickle.dump wrote. Raises CheckpointError where its tensors are beyond reading."""
    if any(module == "joblib.numpy_pickle" for module, _ in unpickler.globals):
        raise compressed.joblib(source.name)
    if ("torch.storage", "_load_from_bytes") in unpickler.globals:
        refusal = format_named("pickle").refused
        assert refusal is not None
        raise CheckpointError(f"{source.name} {refusal[0]}", refusal[1])
    return Opened(
        source.name,
        "pickle",
        value,
        source.size,
        storages.locate,
        unpickler.globals,
        leftover=unpickler.leftover,
    )


class _Storages:
    """The storages that the pickle names, and where the file has them."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._refs: dict[str | int, StorageRef] = {}
        """Storages and views of them by what the pickle calls them, in one, as torch keeps them."""
        self._roots: dict[object, StorageRef] = {}
        self._names: dict[str, str | int] = {}
        self._places: dict[str, Storage] = {}
        self.devices: dict[str, None] = {}
        """Those that storages were on, in the order in which torch restores them."""

    @property
    def steps(self) -> int:
        """How many steps of a program they account for."""
        return STEPS_PER_STORAGE * len(self._refs)

    def persistent(self, saved_id: Any) -> object:
        """("storage", class, key, location, elements, view) or ("module", class, file, source), as `_legacy_load`
        takes them; view is None or (key, offset, elements) of a part of the storage."""
        kind = saved_id[0]
        if kind in ("module", b"module"):
            return saved_id[1]
        _, cls, key, location, numel, view = saved_id
        if (
            kind not in ("storage", b"storage")
            or type(cls) is not Global
            or type(key) not in (str, int)
            or type(numel) is not int
            or numel < 0
        ):
            raise ValueError("an unknown persistent id")
        if cls.name == "UntypedStorage":
            # torch/serialization.py, _legacy_load: asks the class for a dtype that it does not have.
            raise CheckpointError(
                f"{self._source.name} has a dtype that the legacy format cannot hold: torch.load itself cannot read it",
                "Save it again in torch.save's default format.",
            )
        dtype = STORAGE_DTYPES[cls.name]
        size = element_size(dtype)
        ref = self._refs.get(key)
        if ref is None:
            ref = self._refs[key] = StorageRef(str(key), dtype, numel * size, location_name(location))
            if ref.location != "cpu":
                self.devices[ref.location] = None
            if self._names.setdefault(ref.key, key) != key:
                raise ValueError("two storages of one name")
            self._roots[key] = ref
        elif not ref.nbytes:
            ref = StorageRef(str(key), dtype, 0, ref.location)  # torch makes an empty one of this dtype
        if view is None:
            return ref
        view_key, offset, view_numel = view
        if type(view_key) not in (str, int) or type(offset) is not int or type(view_numel) is not int:
            raise ValueError("an unknown persistent id")
        storage = self._refs.get(view_key)
        if storage is None:
            begin, end = offset * size, (offset + view_numel) * size
            if not 0 <= begin <= end <= ref.nbytes or ref.shift:
                raise ValueError("a view beyond its storage")
            storage = self._refs[view_key] = StorageRef(ref.key, dtype, end - begin, ref.location, begin)
        return storage

    def place(self, keys: list[object], position: int) -> None:
        """Walks the storages at the end of the file, which must all be there to their last byte."""
        source = self._source
        said = not source.local and self._fill(keys, position)
        for key in keys:
            ref = self._roots.get(key) if type(key) in (str, int) else None
            if ref is None:
                raise CheckpointError(f"{source.name} is damaged: it holds a storage that nothing in it names")
            if position + 8 > source.size:
                raise truncated(source.name, "storages are missing at its end")
            size = element_size(ref.dtype)
            numel = ref.nbytes // size if said else int.from_bytes(source.read(position, 8), "little", signed=True)
            position += 8
            nbytes = numel * size
            if nbytes != ref.nbytes:
                raise CheckpointError(
                    f"{source.name} is damaged: storage {ref.key[:100]!r} has {numel} elements and should have "
                    f"{ref.nbytes // element_size(ref.dtype)}",
                    "Download or copy the file again.",
                )
            if position + nbytes > source.size:
                raise truncated(
                    source.name, f"storage {ref.key[:100]!r} ends at byte {position + nbytes} of {source.size}"
                )
            start = position if source.local else None
            self._places[ref.key] = Storage(ref.key, source.name, start, ref.nbytes)
            position += nbytes

    def _fill(self, keys: list[object], position: int) -> bool:
        """Whether the storages, in the sizes that the pickle gives, end exactly where the file does. Then the sizes
        in front of them need not be read, which over a network would be a request for each."""
        refs = [self._roots[key] for key in keys if type(key) in (str, int) and key in self._roots]
        return position + sum(8 + ref.nbytes for ref in refs) == self._source.size

    def locate(self, ref: StorageRef) -> Storage:
        place = self._places.get(ref.key)
        if place is None:
            raise truncated(self._source.name, f"storage {ref.key[:100]!r} is missing")
        return place
