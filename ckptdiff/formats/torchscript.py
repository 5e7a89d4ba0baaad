"""The state dict of a TorchScript archive.

Its pickle holds the modules' attributes; which of them are parameters and buffers is said by the first lines of each
class in `code/` (torch/csrc/jit/serialization/python_print.cpp):

    class Conv2d(Module):
      __parameters__ = ["weight", "bias", ]
      __buffers__ = []

Only these lines are read, as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from math import prod
from typing import Any

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.pickles.machine import Unpickler
from ckptdiff.formats.pickles.modules import MAX_DEPTH, MAX_KEYS, MAX_MODULES
from ckptdiff.formats.pickles.stand_ins import Global, Instance, Mapping, Tensor
from ckptdiff.formats.zip_archive import ZipArchive
from ckptdiff.tensors import DTYPES

MAX_CODE = 64 << 20
MAX_CLASSES = 100_000
MAX_NAME = 4096
MAX_NAMES = 1_000_000

_ATTRIBUTE = re.compile(r'\s+(?:(\w+)\s*:|__annotations__\s*\[\s*"([^"]*)"\s*\]\s*=)\s*([^=]+)')
"""`name : Type`, or the other way for a name that is none of Python's; with a value behind it, it is a constant."""


_LISTED = re.compile(r"\s+__(parameters|buffers)__\s*=\s*\[")
_WELL_LISTED = re.compile(r'[^\[]*\[\s*(?:"[^"]*"\s*,\s*)*(?:"[^"]*"\s*)?\]\s*')


class _Class:
    """A module class as the archive declares it; `attributes` are all of its names in order."""

    __slots__ = ("attributes", "buffers", "parameters")

    def __init__(self) -> None:
        self.parameters: list[str] = []
        self.buffers: list[str] = []
        self.attributes: list[str] = []


def state_dict(archive: ZipArchive, root_folder: str, root: object) -> Mapping:
    """What `torch.jit.load(path).state_dict()` holds, in its order: parameters, buffers, then child modules."""
    classes = _classes(archive, root_folder)
    folded = {path.lower() for path in classes}
    entries = Mapping()
    entries.type_name = "collections.OrderedDict"
    versions: dict[str, dict[str, object]] = {}
    entries.attributes = {"_metadata": versions}
    stack: list[tuple[str, Any, int]] = [("", root, 0)]
    characters = 0
    while stack:
        prefix, module, depth = stack.pop()
        declared = classes.get(_path(module))
        if declared is None:
            continue
        if type(module.state) is not dict:
            if declared.parameters or declared.buffers:
                raise _refused(archive, f"{prefix[:-1] or 'its module'} is restored by code of its own")
            continue
        characters += sum(len(prefix) + len(name) for name in module.state if type(name) is str)
        characters += len(declared.parameters) + len(declared.buffers) + len(declared.attributes)
        if len(versions) > MAX_MODULES or depth > MAX_DEPTH or characters > MAX_KEYS:
            raise CheckpointError(f"{archive.source.name} is damaged: its modules are nested without end")
        versions[prefix[:-1]] = {"version": 1}
        state = module.state
        for name, value in state.items():
            path = _path(value)
            if path not in classes and path.lower() in folded:
                raise _refused(archive, f"the class of {prefix}{name} is found by a name of other case")
        lacking = [name for name in declared.attributes if name not in state]
        if lacking:
            raise _refused(archive, f"{prefix}{lacking[0]} has no value")
        for names in (declared.parameters, declared.buffers):
            chosen = set(names)
            for name in declared.attributes:
                if name not in chosen:
                    continue
                if type(state[name]) is Tensor:
                    entries[f"{prefix}{name}"] = state[name]
                elif state[name] is not None:
                    raise _refused(archive, f"{prefix}{name} is no tensor")
        children = [
            (f"{prefix}{name}.", state[name], depth + 1)
            for name in declared.attributes
            if _path(state[name]) in classes
        ]
        stack.extend(reversed(children))
    return entries


def remarks(
    archive: ZipArchive, root_folder: str, entries: Mapping, persistent: Callable[[object], object]
) -> tuple[str, ...]:
    """How much lies in constants, where that is no less than a tenth of what the state dict holds.

    torch.jit.freeze turns parameters into constants, which are in no state dict. Raises CheckpointError for a program
    that has nothing but them, or nothing at all.
    """
    name = archive.source.name
    try:
        data = archive.read(archive.records[f"{root_folder}constants.pkl"], MAX_CODE)
        constants, _ = Unpickler(name, persistent).load(data)
    except CheckpointError:
        constants = ()
    count, nbytes = _extent(constants if type(constants) in (tuple, list) else ())
    frozen = f"{count} {'tensor' if count == 1 else 'tensors'}, {nbytes:,} bytes"
    if not entries and count:
        raise CheckpointError(
            f"{name} is a TorchScript program whose weights are frozen into constants ({frozen}): it has no state dict",
            "Save the model before torch.jit.freeze, or its state dict.",
        )
    if not entries:
        raise CheckpointError(
            f"{name} is a TorchScript program without parameters and buffers", "Give the checkpoint of the weights."
        )
    if nbytes * 10 < _extent(entries.values())[1] or not count:
        return ()
    return (f"{name} has {frozen} in constants, which are in no state dict: parts of it may be frozen",)


def _extent(values: Iterable[object]) -> tuple[int, int]:
    """How many of the values are tensors, and how many bytes they have."""
    sizes = [
        prod(value.shape) * DTYPES[value.dtype].bits // 8
        for value in values
        if type(value) is Tensor and type(value.shape) is tuple and all(type(size) is int for size in value.shape)
    ]
    return len(sizes), sum(sizes)


def _path(value: object) -> str:
    return value.cls.path if type(value) is Instance and type(value.cls) is Global else ""


def _refused(archive: ZipArchive, why: str) -> CheckpointError:
    return CheckpointError(
        f"{archive.source.name} is damaged, or beyond reading without running it: {why[:200]}",
        'Load it with torch.jit.load(path, map_location="cpu") and save its state_dict() with torch.save.',
    )


def _classes(archive: ZipArchive, root_folder: str) -> dict[str, _Class]:
    """Dotted name of each module class → what its first lines declare."""
    classes: dict[str, _Class] = {}
    folder = f"{root_folder}code/"
    read = 0
    for name, record in archive.records.items():
        if not name.startswith(folder) or not name.endswith(".py"):
            if name.lower().startswith(folder.lower()) and name.lower().endswith(".py"):
                raise _refused(archive, f"{name} is found by a name of other case")
            continue
        read += record.size
        module = name[len(folder) : -len(".py")].replace("/", ".")
        try:
            text = str(archive.read(record, MAX_CODE - min(read - record.size, MAX_CODE)), "utf-8")
        except UnicodeDecodeError:
            raise _refused(archive, f"{name} is no text") from None
        current: _Class | None = None
        for line in text.split("\n"):
            if line.startswith("class "):
                current = None
                line = line.rstrip()
                if line.endswith("(Module):"):
                    if len(classes) > MAX_CLASSES or len(line) > MAX_NAME:
                        raise _refused(archive, "it has more classes than any module")
                    path = f"{module}.{line[6:-9]}"
                    if path in classes:
                        raise _refused(archive, f"two classes are called {path}")
                    current = classes[path] = _Class()
            elif current is None:
                continue
            elif line.startswith("  def "):
                current = None
            elif (listed := _LISTED.match(line)) is not None:
                if _WELL_LISTED.fullmatch(line) is None:
                    raise _refused(archive, f"{name} makes no sense")
                (current.parameters if listed[1] == "parameters" else current.buffers).extend(_names(line))
            elif (attribute := _ATTRIBUTE.fullmatch(line)) is not None:
                current.attributes.append(attribute[1] or attribute[2])
    return classes


def _names(line: str) -> list[str]:
    """The strings of `  __buffers__ = ["a", "b", ]`. Attribute names hold no quotes."""
    return line.split('"', 2 * MAX_NAMES)[1::2]
