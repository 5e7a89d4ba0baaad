"""The 25 steps that torch.save (protocol 2, its default) writes for every tensor, taken in one.

Nearly all of a checkpoint's pickle is one phrase, again and again: mark, mark, the persistent id of a storage, offset,
sizes, strides, hooks, and the call of `_rebuild_tensor_v2`. Matching it with a regular expression instead of step by
step reads a file of many tensors in two thirds of the time and half the memory, since the tuples in between are never
made.

It is the same result or none. Every token of the phrase has a first byte of its own and a known length, so the phrase
can match in one way only. What it leaves out of the memo must be new to the memo (the machine compares it with the
highest index so far), and if anything asks for it later the whole pickle is read again step by step (`ElidedError`).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from struct import Struct

from ckptdiff.formats.pickles.constructors import BUILDERS
from ckptdiff.formats.pickles.stand_ins import Global, StorageRef, Tensor

_INT = b"(?:K.|M..|J....)"
_GET = b"h(.)"
_PUT = b"r(....)"
# A tuple of integers and its place in the memo; an empty one has none.
_SIZES = b"(?:(%(i)s\x85|%(i)s{2}\x86|%(i)s{3}\x87|[(]%(i)s{4,16}t)r(....)|[)])" % {b"i": _INT}

_PHRASE = (
    b"[(]%(get)s%(get)s(?:X(.)\0\0\0([0-9]{1,20})%(put)s|h(.)|j(....))h(.)(%(int)s)(N?)t%(put)sQ"  # the storage
    b"(%(int)s)%(sizes)s%(sizes)s"  # offset, sizes, strides
    b"([\x88\x89])%(get)s[)]R%(put)st%(put)sR%(put)s"  # requires_grad, hooks, the call
) % {b"get": _GET, b"put": _PUT, b"int": _INT, b"sizes": _SIZES}


def matcher() -> Callable[[bytes | mmap.mmap, int], re.Match[bytes] | None]:
    """Matches the phrase at a position, just after its first mark. Compiling takes 2 ms: not for a small pickle."""
    return re.compile(_PHRASE, re.DOTALL).match


memo_indices = Struct("<7I").unpack
"""Of the memo indices in a match, joined."""


class ElidedError(Exception):
    """The pickle asks for something that was left out of the memo: read it again step by step."""


def integers(tokens: bytes) -> tuple[int, ...]:
    """The integers pushed by a run of BININT1, BININT2 and BININT, up to the tuple opcode at its end."""
    numbers = []
    position = 0
    while position < len(tokens):
        op = tokens[position]
        if op == 0x4B:
            numbers.append(tokens[position + 1])
            position += 2
        elif op == 0x4D:
            numbers.append(tokens[position + 1] | tokens[position + 2] << 8)
            position += 3
        elif op == 0x4A:
            numbers.append(int.from_bytes(tokens[position + 1 : position + 5], "little", signed=True))
            position += 5
        else:  # MARK, or one of the tuple opcodes
            position += 1
    return tuple(numbers)


_REBUILD = BUILDERS["torch._utils._rebuild_tensor_v2"]
_ORDERED_DICT = BUILDERS["collections.OrderedDict"]


class Phrases:
    """Takes the whole phrase that makes a tensor, where there is one."""

    def __init__(self, persistent: Callable[[object], object]) -> None:
        self._match = matcher()
        self._persistent = persistent
        self._tuples: dict[bytes, tuple[int, ...]] = {}

    def take(
        self, data: bytes | mmap.mmap, position: int, function: Global, memo: dict[int, object], highest: int
    ) -> tuple[object, int, int] | None:
        """The tensor, the position after it and its memo index; None where the phrase is not the usual one."""
        if function.build is not _REBUILD or function.name != "_rebuild_tensor_v2":
            return None
        phrase = self._match(data, position)
        if phrase is None:
            return None
        (
            kind,
            cls,
            length,
            text,
            at1,
            near,
            far,
            location,
            numel,
            legacy,
            at2,
            offset,
            size,
            at3,
            stride,
            at4,
            grad,
            hooks,
            at5,
            at6,
            at7,
        ) = phrase.groups()
        # What is not there has no place in the memo; its neighbour's stands in for it.
        indices = memo_indices(b"".join((at1 or at2, at2, at3 or at2, at4 or at2, at5, at6, at7)))
        if min(indices) <= highest or max(indices) != indices[6]:
            return None
        factory = memo.get(hooks[0])
        if memo.get(kind[0]) != "storage" or type(factory) is not Global or factory.build is not _ORDERED_DICT:
            return None
        if at1 is None:  # a storage that was named before
            key = memo.get(near[0] if near else int.from_bytes(far, "little"))
            if type(key) is not str:
                return None
        else:
            key = str(text, "ascii")
            if length[0] != len(key):
                return None
            memo[indices[0]] = key
        saved_id = ("storage", memo[cls[0]], key, memo[location[0]], self._integers(numel)[0])
        storage = self._persistent((*saved_id, None) if legacy else saved_id)
        if type(storage) is not StorageRef:
            return None
        tensor = memo[indices[6]] = Tensor(
            storage, storage.dtype, self._integers(size), self._integers(stride), self._integers(offset)[0]
        )
        tensor.requires_grad = grad == b"\x88"
        return tensor, phrase.end(), indices[6]

    def _integers(self, tokens: bytes | None) -> tuple[int, ...]:
        """The same few shapes come again and again."""
        if tokens is None:
            return ()
        known = self._tuples.get(tokens)
        if known is None:
            known = self._tuples[tokens] = integers(tokens)
        return known
