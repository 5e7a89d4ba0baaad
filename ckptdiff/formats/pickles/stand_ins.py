"""What a pickle turns into here: inert values, none of which runs, imports, hashes or prints what a file names.

Plain data (None, bool, int, float, complex, str, bytes, list, tuple, dict) stands for itself. Everything else is one
of the classes below. No stand-in defines `__eq__` or `__hash__`, so none ever walks into what it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptdiff.tensors import Part, Quantizer, Storage


class Global:
    """A class or function the file names. `build`, where there is one, is our own account of what calling it gives."""

    __slots__ = ("build", "module", "name", "path")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.path = f"{module}.{name}"
        self.build: Callable[[tuple[object, ...]], object] | None = None


class Instance:
    """What calling or instantiating `cls` with `args` would give. Nothing is called."""

    __slots__ = ("args", "cls", "items", "pairs", "state")

    def __init__(self, cls: object, args: object) -> None:
        self.cls = cls
        self.args = args
        self.state: Any = None
        self.items: list[object] | None = None
        """What APPENDS added: the elements of a list subclass."""
        self.pairs: dict[object, object] | None = None
        """What SETITEMS added: the items of a dict subclass."""


class Mapping(dict[object, object]):
    """An OrderedDict, defaultdict or other known subclass of dict, with its attributes (`_metadata`)."""

    __slots__ = ("attributes", "type_name")

    type_name: str
    attributes: dict[object, object] | None
    __hash__ = None


class Collection:
    """A set or frozenset: listed, never hashed."""

    __slots__ = ("items", "type_name")

    def __init__(self, type_name: str, items: list[object]) -> None:
        self.type_name = type_name
        self.items = items


class Blob:
    """A long string or byte string: its type and length only."""

    __slots__ = ("length", "type_name")

    def __init__(self, type_name: str, length: int) -> None:
        self.type_name = type_name
        self.length = length


class OddKey:
    """A dict key that is kept out of hashing: a tuple, an object, a huge integer."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class StorageRef:
    """A storage as a persistent id names it.

    `key` is its name in the file, `dtype` the type of an element, `nbytes` the size the pickle claims, `location` the
    device it was on.
    """

    __slots__ = ("dtype", "info", "key", "location", "nbytes", "shift")

    def __init__(self, key: str, dtype: str, nbytes: int, location: str = "cpu", shift: int = 0) -> None:
        self.key = key
        self.dtype = dtype
        self.nbytes = nbytes
        self.location = location
        self.shift = shift
        """Bytes to add to every offset: only a legacy storage that views another has one."""
        self.info: Storage | None = None
        """The `ckptdiff.tensors.Storage`, once the format knows where the bytes are."""


class Tensor:
    """A tensor as its reconstruction call describes it; not yet checked against anything."""

    __slots__ = (
        "device", "dtype", "layout", "offset", "parts", "pieces", "quantizer", "requires_grad", "shape", "storage",
        "stride", "type_name",
    )  # fmt: skip

    def __init__(
        self,
        storage: StorageRef | None,
        dtype: str,
        shape: Any,
        stride: object = None,
        offset: object = 0,
        layout: str = "strided",
        type_name: str = "torch.Tensor",
        parts: tuple[Tensor, ...] = (),
        device: str = "cpu",
        quantizer: Quantizer | None = None,
        pieces: tuple[Part, ...] = (),
        requires_grad: bool = False,
    ) -> None:
        self.storage = storage
        self.dtype = dtype
        self.shape = shape
        self.stride = stride
        self.offset = offset
        self.layout = layout
        self.type_name = type_name
        self.parts = parts
        """The dense tensors a sparse one is made of, or the scales and zero points of a quantized one."""
        self.device = device
        """Where a tensor was that has no storage, or is moved from its storage's device; else the storage says it."""
        self.quantizer = quantizer
        """The `ckptdiff.tensors.Quantizer` of a quantized one."""
        self.pieces = pieces
        """The `ckptdiff.tensors.Part`s that it is stored in, where it has no storage of its own."""
        self.requires_grad = requires_grad
        """Of a plain one: whether its gradient is wanted."""
