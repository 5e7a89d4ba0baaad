"""The state dict of a TorchScript archive.

Its pickle holds the modules' attributes; which of them are parameters and buffers is said by the first lines of each
class in `code/` (torch/csrc/jit/serialization/python_print.cpp):

    class Conv2d(Module):
      __parameters__ = ["weight", "bias", ]
      __buffers__ = []

Only these lines are read, as text.
"""

from __future__ import annotations

from typing import Any

from ckptdiff.checkpoint.modules import MAX_DEPTH, MAX_KEYS, MAX_MODULES
from ckptdiff.checkpoint.values import Global, Instance, Mapping, Tensor
from ckptdiff.checkpoint.zip_archive import ZipArchive
from ckptdiff.errors import CheckpointError

MAX_CODE = 64 << 20

_Names = tuple[list[str], list[str]]


def state_dict(archive: ZipArchive, root_folder: str, root: object) -> Mapping:
    """What `torch.jit.load(path).state_dict()` holds, in its order: parameters, buffers, then child modules."""
    classes = _classes(archive, root_folder)
    found = Mapping()
    found.type_name = "collections.OrderedDict"
    versions: dict[str, dict[str, object]] = {}
    found.attributes = {"_metadata": versions}
    stack: list[tuple[str, Any, int]] = [("", root, 0)]
    characters = 0
    while stack:
        prefix, module, depth = stack.pop()
        names = classes.get(_path(module))
        if names is None or type(module.state) is not dict:
            continue
        characters += sum(len(prefix) + len(name) for name in module.state if type(name) is str)
        if len(versions) > MAX_MODULES or depth > MAX_DEPTH or characters > MAX_KEYS:
            raise CheckpointError(f"{archive.source.name} is damaged: its modules are nested without end")
        versions[prefix[:-1]] = {"version": 1}
        state = module.state
        for name in (*names[0], *names[1]):
            if type(state.get(name)) is Tensor:
                found[f"{prefix}{name}"] = state[name]
        children = [
            (f"{prefix}{name}.", value, depth + 1)
            for name, value in state.items()
            if type(name) is str and _path(value) in classes
        ]
        stack.extend(reversed(children))
    return found


def _path(value: object) -> str:
    return value.cls.path if type(value) is Instance and type(value.cls) is Global else ""


def _classes(archive: ZipArchive, root_folder: str) -> dict[str, _Names]:
    """Dotted name of each module class → the names of its parameters and of its buffers."""
    classes: dict[str, _Names] = {}
    folder = f"{root_folder}code/"
    read = 0
    for name, record in archive.records.items():
        if not name.startswith(folder) or not name.endswith(".py"):
            continue
        read += record.size
        module = name[len(folder) : -len(".py")].replace("/", ".")
        text = str(archive.read(record, MAX_CODE - min(read - record.size, MAX_CODE)), "utf-8", "replace")
        current: _Names | None = None
        for line in text.split("\n"):
            if line.startswith("class ") and line.endswith("(Module):"):
                current = classes[f"{module}.{line[6:-9]}"] = ([], [])
            elif current is not None and line.startswith("  __parameters__ = ["):
                current[0].extend(_names(line))
            elif current is not None and line.startswith("  __buffers__ = ["):
                current[1].extend(_names(line))
    return classes


def _names(line: str) -> list[str]:
    """The strings of `  __buffers__ = ["a", "b", ]`. Attribute names hold no quotes."""
    return line.split('"')[1::2]
