"""What no mode of torch can see code do, looked for in the source of the code that built a model.

`isinstance(tensor, torch.FloatTensor)` is answered in C, and so is what a generator is asked for its state; and code
may switch the modes off. Such code may go another way when a model is built without memory.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from torch import nn

from ckptdiff.torch_private import children_of

_KINDS = ("Float", "Double", "Half", "BFloat16", "Byte", "Char", "Short", "Int", "Long", "Bool")
_LEGACY = {f"{kind}Tensor" for kind in _KINDS}
_LEGACY_WORD = re.compile(rf"\b(?:{'|'.join(_KINDS)})Tensor\b")
_CHECKS = re.compile(r"\bisinstance\b|\bissubclass\b|__instancecheck__|\bmatch\b")
_GENERATOR = re.compile(r"\bdefault_generator\b|\btorch\.Generator\b|\bimport Generator\b")
_STATE = re.compile(r"\b(?:get_state|clone_state|graphsafe_get_state)\b")
_POINTERS = re.compile(
    r"\b(?:ctypes|cffi|ffi|numba|cupy|triton|pycuda|Cython|mmap|memoryview|frombuffer|from_address|from_blob"
    r"|__array_interface__|_new_with_weak_ptr|_construct_storage_from_data_pointer|CDLL)\b|/proc/self/mem"
)
_MODES = re.compile(
    r"\b(?:DisableTorchFunction|_DisableTorchDispatch|_disable_current_modes|_get_current_\w+_mode\w*"
    r"|_len_torch_\w+_stack|_pop_\w*mode\w*|CURRENT_DEVICE|_GLOBAL_DEVICE_CONTEXT)\b"
)
# Calls that take a tensor type and convert by it, as they do on any device.
_CONVERSIONS = {"type", "set_default_tensor_type", "cast", "Optional"}
_LIBRARIES = ("torch", "torchvision", "transformers", "timm", "numpy", "ckptdiff")


def suspicious(modules: Iterable[ModuleType], *, meta: bool, addressed: bool = False) -> list[str]:
    """What the code of these modules may have looked at, a sentence each: on the meta device if `meta`, else on
    untouched memory; by its address if some are `addressed`."""
    suspects: list[str] = []
    for module in modules:
        source = _source(getattr(module, "__file__", None))
        if not source:
            continue
        if meta and _LEGACY_WORD.search(source) and _CHECKS.search(source) and _checks_legacy_type(source):
            suspects.append(f"{module.__name__} may ask whether a tensor is a torch.FloatTensor or the like")
        if addressed and _POINTERS.search(source):
            suspects.append(f"{module.__name__} may read memory by its address")
        if _GENERATOR.search(source) and _STATE.search(source):
            suspects.append(f"{module.__name__} may ask for the state of torch's random numbers")
        if _MODES.search(source):
            suspects.append(f"{module.__name__} may look past torch's modes")
    return suspects


def modules_of(model: nn.Module) -> Iterator[ModuleType]:
    """The modules that define the classes of a model's parts, without those of libraries that are known."""
    names: set[str] = set()
    seen: set[int] = set()
    stack: list[nn.Module | None] = [model]  # torch's own walk calls itself, and deep models are ordinary ones
    while stack:
        part = stack.pop()
        if isinstance(part, nn.Module) and id(part) not in seen:
            seen.add(id(part))
            names.update(cls.__module__ for cls in type(part).__mro__)
            stack.extend(children_of(part).values())
    for name in sorted(names):
        if name.partition(".")[0] not in (*_LIBRARIES, *sys.stdlib_module_names) and name in sys.modules:
            yield sys.modules[name]


def _source(file: str | None) -> str:
    if file is None or not file.endswith(".py"):
        return ""
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@functools.lru_cache(maxsize=256)
def _checks_legacy_type(source: str) -> bool:
    """Whether a type such as `torch.FloatTensor` is used other than by calling it, converting to it, or annotating."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return True
    names = set(_LEGACY)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names if alias.name in _LEGACY)
    return any(_is_checked(node, names) for node in _unexcused(tree))


def _is_checked(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _LEGACY
    if isinstance(node, ast.Name):
        return node.id in names and isinstance(node.ctx, ast.Load)
    return isinstance(node, ast.Constant) and node.value in _LEGACY


def _unexcused(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that are called, in annotations, or arguments of conversions."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns"):
                continue
            if isinstance(node, ast.Call):
                if name == "func":
                    todo.extend(ast.iter_child_nodes(value))
                    continue
                if getattr(node.func, "attr", getattr(node.func, "id", "")) in _CONVERSIONS:
                    continue
            todo.extend(item for item in (value if isinstance(value, list) else [value]) if isinstance(item, ast.AST))
