"""The pickle of a state dict, written without torch: just what `torch.save` writes and `weights_only` loading takes.

Protocol 2, as torch.save's default. The opcodes are those of CPython's Lib/pickle.py; how tensors are rebuilt is in
torch/_utils.py (`_rebuild_tensor_v2`, `_rebuild_tensor_v3`, `_rebuild_parameter`), how storages are named in
torch/serialization.py (`_save`, `persistent_id`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from struct import pack

from ckptdiff.formats.pickles.constructors import STORAGE_DTYPES, element_size
from ckptdiff.formats.pickles.stand_ins import Mapping as MappingValue
from ckptdiff.tensors import DTYPES, contiguous_stride
from ckptdiff.writing.steps import Shape

STORAGES = {dtype: name for name, dtype in reversed(STORAGE_DTYPES.items())}
"""dtype → its typed storage; later dtypes have none and are rebuilt from bytes (`_rebuild_tensor_v3`)."""

MAX_PLAIN = 100_000
"""Values in one piece of plain data: more is no configuration but an attack."""


class Emitter:
    """Builds one pickle, value by value. `data` holds it in the end."""

    def __init__(self) -> None:
        self.data = bytearray(b"\x80\x02")
        self._memo: dict[tuple[str, str], int] = {}

    def global_(self, module: str, name: str) -> None:
        known = self._memo.get((module, name))
        if known is not None:
            self.data += b"h" + bytes((known,))
            return
        self._memo[module, name] = place = len(self._memo)
        self.data += f"c{module}\n{name}\nq".encode() + bytes((place,))

    def text(self, value: str) -> None:
        encoded = value.encode("utf-8", "surrogatepass")
        self.data += b"X" + pack("<I", len(encoded)) + encoded

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.data += b"K" + bytes((value,))
        elif -(1 << 31) <= value < 1 << 31:
            self.data += b"J" + pack("<i", value)
        else:
            encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            long = len(encoded) < 256
            self.data += b"\x8a" + bytes((len(encoded),)) if long else b"\x8b" + pack("<i", len(encoded))
            self.data += encoded

    def integers(self, values: Shape) -> None:
        """A tuple of integers."""
        if not values:
            self.data += b")"
            return
        if len(values) > 3:
            self.data += b"("
        for value in values:
            self.integer(value)
        self.data += (b"\x85", b"\x86", b"\x87")[len(values) - 1] if len(values) <= 3 else b"t"

    def plain(self, value: object) -> None:
        """None, a bool, a number, text, bytes, or a list, tuple, dict or OrderedDict of these; see `is_plain`."""
        data = self.data
        if value is None or type(value) is bool:
            data += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            self.integer(value)
        elif isinstance(value, float):
            data += b"G" + pack(">d", value)
        elif isinstance(value, str):
            self.text(value)
        elif isinstance(value, bytes):
            # As pickle itself does in a protocol that has no bytes.
            self.global_("_codecs", "encode")
            self.text(value.decode("latin1"))
            self.text("latin1")
            data += b"\x86R"
        elif isinstance(value, (list, tuple)):
            data += b"](" if isinstance(value, list) else b"("
            for item in value:
                self.plain(item)
            data += b"e" if isinstance(value, list) else b"t"
        else:
            assert isinstance(value, Mapping)
            if isinstance(value, (MappingValue, OrderedDict)):
                self.ordered_dict()
            else:
                data += b"}"
            data += b"("
            for key, item in value.items():
                self.plain(key)
                self.plain(item)
            data += b"u"

    def ordered_dict(self) -> None:
        """An empty OrderedDict."""
        self.global_("collections", "OrderedDict")
        self.data += b")R"

    def tensor(self, storage: str, numel: int, dtype: str, shape: Shape, stride: Shape | None, offset: int) -> None:
        """A tensor in the storage of that name, which has `numel` elements."""
        typed = STORAGES.get(dtype)
        self.global_("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self.data += b"(("
        self.text("storage")
        self.global_("torch" if typed else "torch.storage", typed or "UntypedStorage")
        self.text(storage)
        self.text("cpu")
        self.integer(numel if typed else numel * element_size(dtype))
        self.data += b"tQ"
        self.integer(offset)
        self.integers(shape)
        self.integers(contiguous_stride(shape) if stride is None else stride)
        self.data += b"\x89"
        self.ordered_dict()
        if not typed:
            self.global_("torch", dtype)
        self.data += b"tR"

    def open_parameter(self) -> None:
        """What precedes a tensor that is a Parameter."""
        self.global_("torch._utils", "_rebuild_parameter")
        self.data += b"("

    def close_parameter(self, dtype: str) -> None:
        """What follows it. Whether it required a gradient is not known: all that can do."""
        self.data += b"\x88" if DTYPES[dtype].kind in ("float", "complex") else b"\x89"
        self.ordered_dict()
        self.data += b"tR"

    def finish(self) -> bytes:
        self.data += b"."
        return bytes(self.data)


def is_plain(value: object) -> bool:
    """Whether a value read from a file is plain data through and through, of sensible size and without cycles."""
    budget = MAX_PLAIN

    def check(value: object, above: tuple[int, ...]) -> bool:
        nonlocal budget
        budget -= 1
        if value is None or type(value) in (bool, int, float, str, bytes):
            return True
        if budget < 0 or id(value) in above or len(above) > 50:
            return False
        if type(value) is MappingValue and (value.type_name != "collections.OrderedDict" or value.attributes):
            return False
        items: Iterable[object]
        if isinstance(value, dict):
            items = [part for pair in value.items() for part in pair]
        elif type(value) in (list, tuple):
            items = value  # type: ignore[assignment]
        else:
            return False
        return all(check(item, (*above, id(value))) for item in items)

    return check(value, ())
