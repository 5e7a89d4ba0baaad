"""The symbolic unpickler: runs a pickle program of any protocol (0 to 5) and lets nothing in it happen.

A pickle is a program for a small stack machine. This one has the same stack, marks and memo as the real one
(CPython's Lib/pickle.py) but no way out: a global becomes a `Global`, a call an `Instance`, and only the calls listed
in `constructors.BUILDERS` are given a meaning, by code of ours. Nothing is imported, nothing from the file is called,
hashed, compared or printed.

The loop is one long function with local variables because reading a checkpoint is little else than this loop: a file
of 5,000 tensors takes some 200,000 steps. What is rare is cut off (`_rare`). Each further opcode behind a call costs:
the five smallest alone (tuples of one to three, True and False) made a whole read up to 5 % slower where no phrases are
taken, 178 ms of CPU against 169, and the function still had 62 ways through it.
"""

from __future__ import annotations

import mmap
from struct import Struct
from struct import error as StructError  # noqa: N812 - `error` says nothing
from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.constructors import UnknowableError
from ckptdiff.formats.pickles.opcodes import (
    FREE_STEPS,
    MAX_DEPTH,
    MAX_IDLE,
    MAX_PROGRAM,
    SHORT_TEXT,
    UNSUPPORTED,
    Steps,
)  # fmt: skip
from ckptdiff.formats.pickles.stand_ins import Global, Mapping
from ckptdiff.formats.pickles.tensor_opcodes import ElidedError, Phrases

PHRASES_FROM = 1 << 16
"""Bytes of a pickle from which on it pays to compile the phrases' expression."""

_WINDOW = 1 << 13
"""Steps of a program after which its cost is weighed again."""
_IDLE = 64
"""A window that makes less does nothing but write the memo again and the like: a program has only a few of those."""

_damaged = (
    TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError, StructError, RecursionError
)  # fmt: skip


class Unpickler(Steps):
    """Reads the pickles of one file. Globals are shared between them; the memo is each pickle's own.

    `persistent` turns a persistent id (a tuple) into a value. `globals` collects every global named, in order.
    """

    def load(self, data: bytes | mmap.mmap, position: int = 0, end: int | None = None) -> tuple[Any, int]:
        """The value of the pickle at `position` and the position after it.

        Raises `TruncatedError` where the program needs bytes beyond `end`, CheckpointError where it makes no sense or
        asks for more than any checkpoint does.
        """
        end = len(data) if end is None else end
        try:
            try:
                value, after = self._run(data, position, end, end - position > PHRASES_FROM)
            except ElidedError:
                value, after = self._run(data, position, end, False)
        except UnknowableError as error:
            raise CheckpointError(
                f"{self.name} cannot be read as torch would: {error}", "Load it with torch and save it again."
            ) from None
        except MemoryError:
            raise self._too_much("more memory than there is") from None
        except _damaged:
            raise CheckpointError(
                f"{self.name} is damaged: its pickle program makes no sense", "Download or copy the file again."
            ) from None
        if after > end:
            raise self._truncated()
        return value, after

    def _run(self, data: bytes | mmap.mmap, position: int, end: int, phrases: bool) -> tuple[object, int]:
        stack: list[object] = []
        marks: list[list[object]] = []
        memo: dict[int, object] = {}
        persistent = self._persistent
        u32 = _U32.unpack_from
        # What is made is counted in objects of about 64 bytes, and weighed together with the stack and the memo from
        # time to time: so the memory that a program takes is bounded by `most`, and that by the size of the file. The
        # time goes by the steps, and those by what the file has of storages.
        made = 0
        most = self.most
        weighed = idle = 0
        skipped = position
        protocol = 0
        again = False
        take_phrase = Phrases(persistent).take if phrases and persistent is not None else None
        elided = False
        highest = 255  # in the memo, or above what BINPUT can reach
        try:
            while True:
                now = made + len(memo) + ((len(stack) + sum(map(len, marks))) >> 1)
                idle += now - weighed < _IDLE
                weighed = now
                if now > most or position - skipped > MAX_PROGRAM or idle > MAX_IDLE:
                    raise self._too_much("many millions of objects")
                self.steps += _WINDOW
                if self.steps > FREE_STEPS and self.steps > FREE_STEPS + self._more():
                    raise self._too_much("many millions of steps")
                for _ in range(_WINDOW):
                    # In the order of their frequency in what torch.save writes.
                    op = data[position]
                    position += 1
                    if op == 0x72:  # LONG_BINPUT
                        index = u32(data, position)[0]
                        memo[index] = stack[-1]
                        if index > highest:
                            highest = index
                        position += 4
                    elif op == 0x68:  # BINGET
                        stack.append(memo[data[position]])
                        position += 1
                    elif op == 0x4B:  # BININT1
                        stack.append(data[position])
                        position += 1
                    elif op == 0x28:  # MARK
                        if len(marks) > MAX_DEPTH:
                            raise self._too_much("thousands of levels of nesting")
                        if take_phrase is not None and stack and type(stack[-1]) is Global:
                            taken = take_phrase(data, position, stack[-1], memo, highest)
                            if taken is not None:
                                stack[-1], position, highest = taken
                                made += 1
                                elided = True
                                continue
                        marks.append(stack)
                        stack = []
                    elif op == 0x74:  # TUPLE
                        made += 1 + (len(stack) >> 3)
                        items = tuple(stack)
                        stack = marks.pop()
                        stack.append(items)
                    elif op == 0x52:  # REDUCE
                        made += 1
                        args = stack.pop()
                        function = stack[-1]
                        if type(function) is Global and function.build is not None and type(args) is tuple:
                            stack[-1] = built = function.build(args)
                            if type(built) is Mapping:  # the only one that copies what it is given
                                made += 3 + len(built)
                                if made > most:
                                    raise self._too_much("many millions of objects")
                        elif type(args) is not tuple:
                            raise TypeError("arguments that are no tuple")
                        else:
                            made += 1
                            stack[-1] = self._called(function, args)
                    elif op == 0x58:  # BINUNICODE
                        length = u32(data, position)[0]
                        position += 4
                        if length < SHORT_TEXT and position + length <= end:
                            text = str(data[position : position + length], "utf-8", "surrogatepass")
                            stack.append(text)
                            made += 1 if text.isascii() else 1 + (length >> 4)
                        else:
                            long, cost = self._text(data, position, length, end)
                            stack.append(long)
                            made += cost
                            skipped += length
                        position += length
                    elif op == 0x4D:  # BININT2
                        stack.append(data[position] | data[position + 1] << 8)
                        position += 2
                    elif op == 0x29:  # EMPTY_TUPLE
                        stack.append(())
                    elif op == 0x51:  # BINPERSID
                        if persistent is None:
                            raise self._lacks_storages()
                        stack[-1] = persistent(stack[-1])
                    elif op < 0x80:
                        if op == 0x6A:  # LONG_BINGET
                            stack.append(memo[u32(data, position)[0]])
                            position += 4
                        elif op == 0x71:  # BINPUT
                            memo[data[position]] = stack[-1]
                            position += 1
                        elif op == 0x4A:  # BININT
                            stack.append(_I32.unpack_from(data, position)[0])
                            position += 4
                        elif op == 0x4E:  # NONE
                            stack.append(None)
                        elif op == 0x7D:  # EMPTY_DICT
                            made += 4
                            stack.append({})
                        elif op == 0x5D:  # EMPTY_LIST
                            made += 2
                            stack.append([])
                        elif op == 0x75:  # SETITEMS
                            above = stack
                            stack = marks.pop()
                            made += 1 + (len(above) >> 1)
                            self._set_items(stack[-1], above)
                        elif op == 0x73:  # SETITEM
                            made += 1
                            last = stack.pop()
                            key = stack.pop()
                            self._set_items(stack[-1], [key, last])
                        elif op == 0x65:  # APPENDS
                            above = stack
                            stack = marks.pop()
                            made += 1 + (len(above) >> 1)
                            self._append(stack[-1], above)
                        elif op == 0x61:  # APPEND
                            made += 1
                            last = stack.pop()
                            self._append(stack[-1], [last])
                        elif op == 0x47:  # BINFLOAT
                            made += 1
                            stack.append(_F64.unpack_from(data, position)[0])
                            position += 8
                        elif op == 0x63:  # GLOBAL
                            stop = data.find(b"\n", data.find(b"\n", position, end) + 1, end)
                            if stop < 0:
                                raise self._truncated()
                            stack.append(self._named(data[position:stop], protocol))
                            position = stop + 1
                        elif op == 0x62:  # BUILD
                            made += 2
                            last = stack.pop()
                            made += self._build(stack[-1], last)
                        elif op == 0x30:  # POP: a value, or the mark if there is no value above it
                            made += 3
                            self.refused = self.refused or UNSUPPORTED % op
                            if stack:
                                stack.pop()
                            else:
                                stack = marks.pop()
                        elif op == 0x2E:  # STOP
                            self.leftover = len(stack) != 1 or bool(marks) or again
                            return stack.pop(), position
                        else:
                            if op == 0x70:  # PUT, with any index
                                take_phrase = None
                            stack, position, cost, passed = self._rare(
                                op, data, position, end, stack, marks, memo, protocol
                            )
                            made += cost
                            skipped += passed
                    elif op == 0x86:  # TUPLE2
                        made += 1
                        last = stack.pop()
                        stack[-1] = (stack[-1], last)
                    elif op == 0x85:  # TUPLE1
                        made += 1
                        stack[-1] = (stack[-1],)
                    elif op == 0x89:  # NEWFALSE
                        stack.append(False)
                    elif op == 0x94:  # MEMOIZE
                        if elided:
                            raise ElidedError
                        take_phrase = None  # the phrases count their places by LONG_BINPUT alone
                        memo[len(memo)] = stack[-1]
                        self.refused = self.refused or UNSUPPORTED % op
                    elif op == 0x8C:  # SHORT_BINUNICODE
                        self.refused = self.refused or UNSUPPORTED % op
                        length = data[position]
                        position += 1
                        if position + length > end:
                            raise self._truncated()
                        text = str(data[position : position + length], "utf-8", "surrogatepass")
                        stack.append(text)
                        made += 1 if text.isascii() else 1 + (length >> 4)
                        position += length
                    elif op == 0x87:  # TUPLE3
                        made += 1
                        last = stack.pop()
                        middle = stack.pop()
                        stack[-1] = (stack[-1], middle, last)
                    elif op == 0x88:  # NEWTRUE
                        stack.append(True)
                    elif op == 0x93:  # STACK_GLOBAL
                        name = stack.pop()
                        module = stack.pop()
                        if type(name) is not str or type(module) is not str:
                            raise ValueError("a global that is no text")
                        self.refused = self.refused or UNSUPPORTED % op
                        stack.append(self._global(module, name, protocol))
                    elif op == 0x81:  # NEWOBJ
                        made += 2
                        args = stack.pop()
                        if type(stack[-1]) is not Global or type(args) is not tuple:
                            raise TypeError("an object of no class")
                        stack[-1] = self._call(stack[-1], args)
                    elif op == 0x8A:  # LONG1
                        length = data[position]
                        stack.append(self._long(data, position + 1, length, end))
                        position += 1 + length
                    elif op == 0x95:  # FRAME
                        # A hint for buffered reading, whose bytes must be there.
                        if position + 8 + int.from_bytes(data[position : position + 8], "little") > end:
                            raise self._truncated()
                        position += 8
                        self.refused = self.refused or UNSUPPORTED % op
                    elif op == 0x80:  # PROTO
                        again = protocol != 0
                        protocol = data[position]
                        position += 1
                        if protocol > 5:
                            raise ValueError("an unknown pickle protocol")
                    else:
                        stack, position, cost, passed = self._rare(
                            op, data, position, end, stack, marks, memo, protocol
                        )
                        made += cost
                        skipped += passed
        except KeyError:
            if elided:  # most likely a memo index
                raise ElidedError from None
            raise
        except IndexError:
            if position >= end:
                raise self._truncated() from None
            raise
        except StructError:
            raise self._truncated() from None


_I32 = Struct("<i")
_U32 = Struct("<I")
_F64 = Struct(">d")
