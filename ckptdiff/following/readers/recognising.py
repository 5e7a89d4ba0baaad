"""Where values were before that come by an unknown way: as bytes, through a stream, a data base, a list of numbers.

They are known again by their bits: as those of a whole that the code had taken out, else as bytes of a file that the
code opened; what was bytes on its way, also piece by piece as bytes of memory that is followed. What is too short or
too plain to be told is not.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ckptdiff.following.kept_values import bytes_of
from ckptdiff.following.log import replay
from ckptdiff.following.log.memory import Memory, is_flat
from ckptdiff.following.origins.intervals import Interval, Origins
from ckptdiff.following.origins.labels import Origin, Source
from ckptdiff.following.readers.opened_files import reading

if TYPE_CHECKING:
    from ckptdiff.following.arrays.array import Array
    from ckptdiff.following.readers.named_files import Files

Way = Literal["bytes", "array", "numbers"]
_SEED = 16
"""Bytes by which a piece is looked for."""
_MOST = 1 << 28
"""Bytes up to which something is looked for."""
_BUDGET = 1 << 31
"""Bytes of memory that are gone through in one run."""
_KINDS = "biufcV"
"""Of arrays, those of numbers, and of records of them."""
_WORD = 4
_TELLING_WORDS = 4


def recognised(files: Files, made: object, way: Way, given: object = None) -> bool:
    """Whether a new tensor's values are known again, and are noted to come from where they were before.

    `way` is what they were last: numbers may be the same by chance, and a table that the code computes as an array may
    lie in the file as well, which is a doubt. `given` is what a tensor of numbers is made of.
    """
    if not isinstance(made, torch.Tensor) or not is_flat(made) or made.device.type != "cpu":
        return False
    if made.is_quantized or not made.numel() or not made.is_contiguous():
        return False
    if way == "numbers" and not (made.is_floating_point() and files.engine.kept.has_numbers(given)):
        return False
    content, itemsize = bytes_of(made)
    origins = origins_of(files, content, way, given)
    memory = files.engine.memory(made) if origins is not None else None
    if origins is None or memory is None:
        return False
    _put(memory, int(made.storage_offset()) * itemsize, len(content), origins)
    if way == "array":  # numpy's memory too
        memory.foreign = True
        memory.watch()
    return True


def recognised_array(files: Files, made: Any, given: object = None) -> Array | None:
    """A plain numpy array as one of the run, where its values are known again; else None. `given` are the numbers that
    it is made of, if it is."""
    if given is not None and not files.engine.kept.has_numbers(given):
        return None
    if made.dtype.kind not in _KINDS or made.dtype.hasobject or not made.flags.c_contiguous or not made.size:
        return None
    way: Way = "bytes" if given is None else "numbers"
    origins = origins_of(files, made.reshape(-1).view("u1").data, way, given)
    return None if origins is None else _as_array(files, made, origins)


def _as_array(files: Files, made: Any, origins: Origins) -> Array | None:
    """A plain array as one of the run, whose bytes come from somewhere; None for one without memory."""
    from ckptdiff.following.arrays.array import known
    from ckptdiff.following.arrays.array_memory import memory_of

    memory, first = memory_of(files.engine, made)
    if memory is None:
        return None
    _put(memory, first, made.nbytes, origins)
    array: Array = known(made, files.engine, ())
    return array


def made_of_words(files: Files, made: Any, words: object) -> Array | None:
    """An array of numbers that were words of a text as one of the run, where the code opened a text with just these;
    else None."""
    listed = list(words) if isinstance(words, (list, tuple)) else [words]
    rows: list[Any] = listed if all(isinstance(row, (list, tuple)) for row in listed) else [listed]
    if not made.size or made.dtype.kind not in "biuf" or not made.flags.c_contiguous:
        return None
    path = None
    for row in rows:
        telling = all(type(word) is str for word in row) and (len(row) == 1 or len(set(row)) >= _TELLING_WORDS)
        path = _text_of(files, row) if telling else None
        if path is None:
            return None
    if path is None:
        return None
    name = Path(path).name  # not taken for read: of other words of it nothing is known
    return _as_array(files, made, _whole(files, (name, "numbers"), made.nbytes))


def _text_of(files: Files, words: list[str]) -> str | None:
    """The path of the text that has some words in it, until too much was gone through for others."""
    return files.text_of(words) if files.engine.searched <= _BUDGET else None


def note_decoded(files: Files, made: bytes, text: Any) -> None:
    """Bytes were written as base64 or in hexadecimal: where the code opened a text with just these, they come from
    there."""
    if len(made) < _SEED or not (files.opened.texts or files.opened.read):
        return
    word = text if isinstance(text, str) else bytes(text).decode("ascii", "replace")
    path = _text_of(files, [word])
    if path is not None:
        label = _whole(files, (files.name(path), "bytes"), len(made)).intervals[0].label
        files.engine.kept.keep_bytes(made, 1, [(0, len(made), label, 0)])


def origins_of(files: Files, content: bytes | memoryview, way: Way, given: object = None) -> Origins | None:
    """Where some bytes come from, None where that cannot be told; `given` are the numbers that they are, if any."""
    engine = files.engine
    if way == "numbers" and (entry := engine.kept.found_list(given)) is not None:
        return _whole(files, entry, len(content))
    telling = _tells(content)
    if way == "numbers" and not telling:
        return None
    origins = engine.kept.found_bytes(content, numbers=way == "numbers")
    if origins is not None or not telling or len(content) > _MOST or engine.searched > _BUDGET:
        return origins
    if way == "bytes" and (origins := _in_memory(files, bytes(content))) is not None:
        return origins
    unpacked = way == "numbers" and engine.kept.has_numbers(given, unpacked=True)
    place = files.part_of(content) or (_otherwise(files, given) if unpacked else None)
    if place is None:
        return None
    if way != "bytes" and not unpacked:  # a table that the code computes may lie in the file as well
        engine.looked[place] = None
        return None
    return _whole(files, place, len(content))


def _whole(files: Files, source: Source, count: int) -> Origins:
    """Bytes that all come from one part of a file."""
    files.engine.read[source] = None
    given = files.order.setdefault(source[0], [])
    if source[1] not in given:
        given.append(source[1])
    return Origins([Interval(0, count, files.engine.labels.of(Origin(frozenset((source,)))), 0, 1)])


def _otherwise(files: Files, given: object) -> tuple[str, str] | None:
    """Where numbers lie in a file in another width or order of bytes than they have by now."""
    if "numpy" not in sys.modules:
        return None
    import numpy as np

    for kind in ("<f8", ">f4", "<f4", ">f8", "<f2"):
        if (place := files.part_of(np.array(given, kind).reshape(-1).view("u1").data)) is not None:
            return place
    return None


def _put(memory: Memory, first: int, count: int, origins: Origins) -> None:
    memory.origins.replace([(first, first + count)], origins.moved(first))


def _tells(content: bytes | memoryview) -> bool:
    """Whether some bytes are unlike any others: not too few, and not the same over and over."""
    words = {bytes(content[at : at + _WORD]) for at in range(0, min(len(content), 1 << 12), _WORD)}
    return len(content) >= _SEED and len(words) >= _TELLING_WORDS


def _in_memory(files: Files, content: bytes) -> Origins | None:
    """Bytes as pieces of memory that is followed, one after the other."""
    held = dict(_followed(files))
    files.engine.searched += sum(map(len, held.values()))
    intervals: list[Interval] = []
    at = 0
    while at < len(content):
        seed = content[at : at + _SEED]
        if len(seed) < _SEED or not _tells(memoryview(seed)):
            return None
        somewhere = next(((memory, place) for memory in held if (place := held[memory].find(seed)) >= 0), None)
        files.engine.searched += sum(map(len, held.values()))
        if somewhere is None or files.engine.searched > _BUDGET:
            return None
        memory, place = somewhere
        length = _same(content, at, held[memory], place)
        intervals += [
            part._replace(low=part.low - place + at, high=part.high - place + at)
            for part in memory.origins.at(place, place + length)
        ]
        at += length
    return Origins(intervals)


def _followed(files: Files) -> Iterator[tuple[Memory, bytes]]:
    """Memory in which something of a file lies, and what it holds."""
    total = 0
    for memory in list(files.engine.memories.values()):
        if not memory.origins or not memory.address:
            continue
        total += memory.nbytes
        if total > _MOST:
            return
        replay.settle(memory)
        with reading():
            held = ctypes.string_at(memory.address, memory.nbytes)
        yield memory, held


def _same(content: bytes, at: int, there: bytes, place: int) -> int:
    """How many bytes are the same from there on."""
    low, high = _SEED, min(len(content) - at, len(there) - place)
    while low < high:
        middle = (low + high + 1) // 2
        if content[at + low : at + middle] == there[place + low : place + middle]:
            low = middle
        else:
            high = middle - 1
    return low
