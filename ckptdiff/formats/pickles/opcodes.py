"""The steps of the symbolic unpickler that are not its inner loop: strings, globals, items, and the rarer opcodes."""

from __future__ import annotations

import codecs
import mmap
import sys
from collections.abc import Callable

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.constructors import BUILDERS, MAX_BYTES, STORAGE_DTYPES, UnknowableError, sizes
from ckptdiff.formats.pickles.stand_ins import Blob, Collection, Global, Instance, Mapping, OddKey, StorageRef, Tensor

# What a checkpoint may ask for, in objects of about 64 bytes: so many in any file, and one for each so many bytes that
# the file has (a compressed program counts as what it takes in the file). A state dict of 1,000,000 keys makes 6
# million from 300 MB of file, and 20 million where its program is not written in the usual way.
FREE_OBJECTS = 2_000_000
BYTES_PER_OBJECT = 12
MAX_OBJECTS = 24_000_000
MAX_PROGRAM = 256 << 20
"""Bytes of instructions; texts and byte strings are counted by what is kept of them."""
MAX_IDLE = 256
FREE_STEPS = 8_000_000
STEPS_PER_STORAGE = 128
"""A tensor takes 25 steps and its keys some, a module 100 and more."""
MAX_GLOBALS = 100_000
MAX_DEPTH = 10_000
MAX_TEXT = 16 << 20
"""Longer strings are kept as their length only."""
SHORT_TEXT = 256
MAX_NAME = 4096
MAX_ATTRIBUTES = 10_000
MAX_NAMES = 16 << 20
"""Characters of all names of classes together."""
MAX_INTEGER_BYTES = 1 << 16
MAX_ODD_KEYS = 10_000
UNSUPPORTED = "Unsupported operand %d"
"""What torch's unpickler for weights_only=True says of an opcode that it does not know."""

# Where Python 2 had them (pickle's fix_imports, for protocols 0 to 2).
_PYTHON2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}
_PYTHON2_NAMES = {"unicode": "str", "long": "int", "xrange": "range"}


_STATELESS = (dict, list, tuple, str, bytes, int, float, bool, type(None))
"""What has no attributes, so that it can be set to no state but None, and by weights_only=True not even to that."""


class TruncatedError(CheckpointError):
    """The program goes on past the end of the bytes it was given."""


class Steps:
    """What an unpickler does to its stack, one step at a time, and what it must remember of one file."""

    def __init__(
        self,
        name: str,
        persistent: Callable[[object], object] | None = None,
        size: int = 0,
        more: Callable[[], int] = int,
    ) -> None:
        self.name = name
        self.steps = 0
        """How many it has taken, of all programs of the file."""
        self._more = more
        """How many steps the file may take beside those that any may: by the storages that are in it."""
        self.most = min(FREE_OBJECTS + size // BYTES_PER_OBJECT, MAX_OBJECTS)
        """How much the program may make, by the bytes of its file."""
        self.globals: dict[tuple[str, str], Global] = {}
        self.refused = ""
        """Why torch.load(weights_only=True) refuses the program, other than for a global: its own words."""
        self.leftover = False
        """Whether the last program left more than its value: Python passes that over, TorchScript does not."""
        self._persistent = persistent
        self._odd_keys = 0
        self._names = 0
        self._texts: dict[bytes, Global] = {}

    def _truncated(self) -> TruncatedError:
        return TruncatedError(
            f"{self.name} is truncated: its pickle program has no end", "Download or copy the file again."
        )

    def _too_much(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.name} asks for more than any checkpoint does: {what}", "Do not load this file: it may be hostile."
        )

    def _named(self, text: bytes, protocol: int) -> Global:
        """The global of a GLOBAL opcode, whose text is the module and the name on a line each."""
        named = self._texts.get(text)
        if named is None:
            module, name = str(text, "utf-8").split("\n")
            named = self._texts[text] = self._global(module, name, protocol)
        return named

    def _global(self, module: str, name: str, protocol: int) -> Global:
        if protocol < 3 and module in _PYTHON2_MODULES:
            module = _PYTHON2_MODULES[module]
            name = _PYTHON2_NAMES.get(name, name)
        named = self.globals.get((module, name))
        if named is None:
            if len(self.globals) > MAX_GLOBALS:
                raise self._too_much("hundreds of thousands of classes")
            self._names += len(module) + len(name)
            if len(module) + len(name) > MAX_NAME or self._names > MAX_NAMES:
                raise self._too_much("a class name of thousands of characters")
            named = self.globals[module, name] = Global(module, name)
            named.build = BUILDERS.get(named.path)
        return named

    def _key(self, key: object) -> object:
        """A dict key that is no text. Only what hashes in constant time, without collisions to choose, is hashed."""
        if key is None or type(key) is bool or (type(key) is int and -0x1000000 < key < 0x1000000):
            return key
        if type(key) in (int, float, bytes, complex):
            self._odd_keys += 1
            if self._odd_keys < MAX_ODD_KEYS and (type(key) is not int or key.bit_length() <= 64):
                return key
        if any(isinstance(part, (list, dict)) for part in (key, *(key if type(key) is tuple else ()))):
            raise TypeError("an unhashable key")
        if type(key) is Collection and key.type_name == "set":
            raise TypeError("an unhashable key")
        return OddKey(key)

    def _set_items(self, target: object, items: list[object]) -> None:
        if isinstance(target, dict):
            if type(target) is Mapping and target.type_name == "collections.defaultdict":
                self.refused = (
                    self.refused or "Can only SETITEMS for dict, collections.OrderedDict, collections.Counter"
                )
            pairs = target
        elif type(target) is Instance:
            if target.pairs is None:
                target.pairs = {}
            pairs = target.pairs
        else:
            raise ValueError("items set on what has none")
        for index in range(0, len(items), 2):
            key = items[index]
            pairs[key if type(key) is str else self._key(key)] = items[index + 1]

    def _append(self, target: object, items: list[object]) -> None:
        if type(target) is list:
            target.extend(items)
            return
        self.refused = self.refused or f"Can only extend lists, but got {type(target).__name__}"
        if type(target) is Instance:
            if target.items is None:
                target.items = []
            target.items.extend(items)
        elif type(target) is Collection:
            target.items.extend(items)
        else:
            raise ValueError("items appended to what takes none")

    def _call(self, function: object, args: object) -> object:
        if type(function) is Global and function.build is not None and type(args) is tuple:
            return function.build(args)
        return self._called(function, args)

    def _called(self, function: object, args: object) -> Instance:
        if type(function) is not Global:
            if type(function) is not Instance:
                raise TypeError("a call of what cannot be called")
            self.refused = self.refused or "Trying to call reduce for unrecognized function"
        elif function.name in STORAGE_DTYPES and function.module.partition(".")[0] == "torch":
            raise TypeError("a storage cannot be called")
        return Instance(function, args)

    def _build(self, target: object, state: object) -> int:
        """Sets the state of an object. Returns the cost of what that copies."""
        if type(target) is Instance:
            if target.state is not None:
                raise ValueError("two states for one object")
            target.state = state
        elif type(target) is Mapping:
            # (state, slots) where a class has slots
            first = state[0] if type(state) is tuple and state else state
            if isinstance(first, dict):
                if len(first) > MAX_ATTRIBUTES:
                    raise self._too_much("a dict with thousands of attributes")
                target.attributes = {**(target.attributes or {}), **first}
                return len(target.attributes)
            if first is not None:
                raise ValueError("a state that is no dict")
            self.refused = self.refused or (
                "'NoneType' object is not iterable" if state is None else "a state of attributes and slots"
            )
        elif type(target) is Tensor:
            self._build_tensor(target, state)
        elif state is not None and (state != {} or type(target) in _STATELESS):
            raise ValueError("a state for what takes none")
        elif type(target) in _STATELESS:  # which plain unpickling does not even look at
            self.refused = self.refused or "Can only build Tensor, Parameter, OrderedDict or types allowlisted"
        return 0

    def _build_tensor(self, target: Tensor, state: object) -> None:
        """torch/_tensor.py, __setstate__: four values are a legacy tensor's, five a legacy Variable's, three change
        nothing. weights_only=True goes another way for a plain tensor, which agrees for four."""
        plain = target.type_name == "torch.Tensor"
        if type(state) is not tuple:
            raise ValueError("a tensor's state that is no tuple")
        if len(state) == 4:
            storage, offset, size, stride = state
            if type(storage) is not StorageRef or storage.dtype != target.dtype:
                raise ValueError("a tensor set to another dtype")
            target.storage, target.offset, target.shape, target.stride = storage, offset, sizes(size), sizes(stride)
        elif len(state) == 5 and type(state[0]) is Tensor:
            data = state[0]
            if data.dtype != target.dtype or data.layout != target.layout:
                raise UnknowableError("a tensor's data is replaced by one of another kind")
            target.storage, target.offset, target.shape, target.stride = (
                data.storage, data.offset, data.shape, data.stride
            )  # fmt: skip
            target.parts, target.device = data.parts, data.device
        elif len(state) != 3:
            raise ValueError("a tensor's state of no known kind")
        if (plain and len(state) != 4) or target.type_name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
            self.refused = self.refused or "set_() received an invalid combination of arguments"

    def _text(self, data: bytes | mmap.mmap, position: int, length: int, end: int) -> tuple[object, int]:
        """A longer text, and its cost."""
        if position + length > end:
            raise self._truncated()
        if length > MAX_TEXT:
            return Blob("str", length), 1
        text = str(data[position : position + length], "utf-8", "surrogatepass")
        return text, cost_of(text)

    def _blob(self, data: bytes | mmap.mmap, position: int, length: int, end: int, kind: str) -> object:
        if position + length > end:
            raise self._truncated()
        return data[position : position + length] if length <= MAX_BYTES and kind == "bytes" else Blob(kind, length)

    def _line(self, data: bytes | mmap.mmap, position: int, end: int) -> tuple[bytes, int]:
        stop = data.find(b"\n", position, end)
        if stop < 0:
            raise self._truncated()
        if stop - position > MAX_TEXT:
            raise self._too_much("a line of many megabytes")
        return data[position:stop], stop + 1

    def _long(self, data: bytes | mmap.mmap, position: int, length: int, end: int) -> int:
        if length < 0 or length > MAX_INTEGER_BYTES:
            raise self._too_much("an integer of many kilobytes")
        if position + length > end:
            raise self._truncated()
        return int.from_bytes(data[position : position + length], "little", signed=True)

    def _native(self, value: object) -> object:
        """A Python 2 `str`, as torch.load(encoding="utf-8") reads it; bytes where it is no text."""
        if type(value) is not bytes:
            return value
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError as error:
            self.refused = self.refused or str(error)
            return value

    def _lacks_storages(self) -> CheckpointError:
        return CheckpointError(
            f"{self.name} refers to storages that are not in it", "It is one part of a checkpoint: give the whole."
        )

    def _rare(
        self,
        op: int,
        data: bytes | mmap.mmap,
        position: int,
        end: int,
        stack: list[object],
        marks: list[list[object]],
        memo: dict[int, object],
        protocol: int,
    ) -> tuple[list[object], int, int, int]:
        """One step of the opcodes that checkpoints seldom use. Returns the stack, which a mark may have changed, the
        position, the cost of what was made, and how many bytes of it are no instructions."""
        if op not in (0x8F, 0x55):  # EMPTY_SET, SHORT_BINSTRING
            self.refused = self.refused or UNSUPPORTED % op
        before, above = position, stack
        stack, position = self._rare_step(op, data, position, end, stack, marks, memo, protocol)
        cost = 3 if stack is above else 3 + len(above)
        passed = position - before
        if passed < SHORT_TEXT:
            return stack, position, cost, 0
        return stack, position, cost + (cost_of(stack[-1]) if stack else 0), passed

    def _rare_step(
        self,
        op: int,
        data: bytes | mmap.mmap,
        position: int,
        end: int,
        stack: list[object],
        marks: list[list[object]],
        memo: dict[int, object],
        protocol: int,
    ) -> tuple[list[object], int]:
        if op in _TO_MARK:
            return self._to_mark(op, data, position, end, stack, marks.pop(), protocol)
        if op in _LENGTHS:
            kind, width = _LENGTHS[op]
            length = int.from_bytes(data[position : position + width], "little")
            position += width
            if kind == "str":
                stack.append(self._text(data, position, length, end)[0])
            elif kind == "int":
                stack.append(self._long(data, position, length, end))
            elif kind == "native":
                stack.append(self._native(self._blob(data, position, length, end, "bytes")))
            else:
                stack.append(self._blob(data, position, length, end, kind))
            return stack, position + length
        if op in _LINES:
            line, position = self._line(data, position, end)
            self._take_line(op, line, stack, memo)
            return stack, position
        if op == 0x32:  # DUP
            stack.append(stack[-1])
        elif op == 0x8F:  # EMPTY_SET
            stack.append(Collection("set", []))
        elif op == 0x92:  # NEWOBJ_EX
            keywords, args = stack.pop(), stack.pop()
            stack[-1] = self._call(stack[-1], (args, keywords) if keywords else args)
        elif op in (0x82, 0x83, 0x84):  # EXT1, EXT2, EXT4: a number that stands for a class in the writer's registry
            width = 1 << op - 0x82
            code = int.from_bytes(data[position : position + width], "little")
            stack.append(self._global("copyreg", f"extension_{code}", protocol))
            position += width
        elif op == 0x97:  # NEXT_BUFFER: kept outside the pickle
            stack.append(Blob("bytes", 0))
        elif op != 0x98:  # READONLY_BUFFER changes nothing
            raise ValueError("an unknown opcode")
        return stack, position

    def _to_mark(
        self,
        op: int,
        data: bytes | mmap.mmap,
        position: int,
        end: int,
        items: list[object],
        stack: list[object],
        protocol: int,
    ) -> tuple[list[object], int]:
        """What is made of all items above a mark; `stack` is what lies below it."""
        if op == 0x6C:  # LIST
            stack.append(items)
        elif op == 0x64:  # DICT
            pairs: dict[object, object] = {}
            self._set_items(pairs, items)
            stack.append(pairs)
        elif op == 0x90:  # ADDITEMS
            self._append(stack[-1], items)
        elif op == 0x91:  # FROZENSET
            stack.append(Collection("frozenset", items))
        elif op == 0x6F:  # OBJ
            stack.append(self._call(items[0], tuple(items[1:])))
        elif op == 0x69:  # INST
            module, position = self._line(data, position, end)
            name, position = self._line(data, position, end)
            cls = self._global(str(module, "utf-8"), str(name, "utf-8"), protocol)
            stack.append(self._call(cls, tuple(items)))
        return stack, position  # POP_MARK makes nothing

    def _take_line(self, op: int, line: bytes, stack: list[object], memo: dict[int, object]) -> None:
        """The opcodes of protocol 0, whose argument is a line of text."""
        if op == 0x70:  # PUT
            memo[_small(line)] = stack[-1]
        elif op == 0x67:  # GET
            stack.append(memo[_small(line)])
        elif op == 0x50:  # PERSID
            if self._persistent is None:
                raise self._lacks_storages()
            stack.append(self._persistent(str(line, "ascii")))
        elif op == 0x49:  # INT
            stack.append(line == b"01" if line in (b"00", b"01") else _small(line))
        elif op == 0x4C:  # LONG
            stack.append(_small(line.rstrip(b"L")))
        elif op == 0x46:  # FLOAT
            stack.append(float(line[:MAX_NAME]))
        elif op == 0x56:  # UNICODE
            stack.append(str(line, "raw-unicode-escape"))
        else:  # STRING: quoted, with Python's escapes
            if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
                raise ValueError("a string without quotes")
            stack.append(self._native(codecs.escape_decode(line[1:-1])[0]))


def cost_of(value: object) -> int:
    """What a text, a byte string or an integer takes, in objects of 64 bytes."""
    return sys.getsizeof(value) >> 6 if type(value) in (str, bytes, int) else 1


def _small(line: bytes) -> int:
    """An integer in decimal. A long one takes quadratic time, and none here is long."""
    if len(line) > 1000:
        raise ValueError("an integer of thousands of digits")
    return int(line)


_TO_MARK = frozenset((0x31, 0x6C, 0x64, 0x90, 0x91, 0x6F, 0x69))
_LINES = frozenset((0x70, 0x67, 0x50, 0x49, 0x4C, 0x46, 0x56, 0x53))
# opcode → what follows, and the width of its length in bytes
_LENGTHS = {
    0x54: ("native", 4),  # BINSTRING
    0x55: ("native", 1),  # SHORT_BINSTRING
    0x42: ("bytes", 4),  # BINBYTES
    0x43: ("bytes", 1),  # SHORT_BINBYTES
    0x8D: ("str", 8),  # BINUNICODE8
    0x8E: ("bytes", 8),  # BINBYTES8
    0x96: ("bytearray", 8),  # BYTEARRAY8
    0x8B: ("int", 4),  # LONG4
}
