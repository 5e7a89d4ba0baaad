"""Names that code may use on copies of modules as on the modules themselves, and whose code is trusted to."""

from __future__ import annotations

import collections
import enum
import functools
import logging
import os
import re
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ckptdiff.torch_private import (
    BUFFERS,
    CHECKPOINT_WRAPPERS,
    CHILDREN,
    DISPATCH_MODES,
    NON_PERSISTENT,
    PARAMETERS,
    POST_HOOKS,
    PRE_HOOKS,
    IncompatibleKeys,
)

# Whose code is not looked into: it has been compared with real loading, and deals in keys and tensors.
TRUSTED = ("torch", "torchvision", "timm", "transformers", "accelerate")
NOT_TRUSTED = ("torch.distributed", DISPATCH_MODES, "torch.multiprocessing")
TRUSTED_AFTER_ALL = CHECKPOINT_WRAPPERS
PLAIN_MODULES = frozenset((
    "re", "math", "collections", "itertools", "functools", "operator", "warnings", "logging", "typing", "string",
    "copy", "numpy", "numbers", "textwrap", "einops", "packaging", "__future__",
))  # fmt: skip
PLAIN_BUILTINS = frozenset((
    "abs", "all", "any", "bool", "bytes", "callable", "chr", "complex", "dict", "divmod", "enumerate", "filter",
    "float", "format", "frozenset", "getattr", "hasattr", "int", "isinstance", "issubclass", "iter", "len", "list",
    "map", "max", "min", "next", "ord", "pow", "print", "range", "repr", "reversed", "round", "set", "setattr", "slice",
    "sorted", "str", "sum", "super", "tuple", "type", "zip", "__name__", "__class__",
))  # fmt: skip
# Of tensors: what tells where they lie and what was done to them.
OF_MEMORY = frozenset((
    "_version", "data_ptr", "_cdata", "untyped_storage", "storage", "_typed_storage", "type", "_base", "_is_view",
    "is_shared", "share_memory_", "is_set_to", "grad_fn", "_backward_hooks", "__array_interface__",
    "__cuda_array_interface__", "__dlpack__", "numpy", "__weakref__", "__deepcopy__", "__reduce_ex__", "_use_count",
    "__getattribute__", "__subclasses__", "__globals__", "__dict__", "__hash__", "__repr__", "__reduce__",
    "_C", "overrides", "_python_dispatch", "DisableTorchFunction", "DisableTorchFunctionSubclass",
    "_disable_current_modes", "_getframe", "grad", "is_leaf", "retain_grad", "retains_grad", "register_hook",
    "requires_grad_", "backends",
))  # fmt: skip
RANDOM = re.compile(
    r"(rand|randn|randint|randperm)(_like)?|random_?|.*normal_?|.*uniform_?|bernoulli_?|multinomial|poisson|exponential_"
    r"|geometric_|cauchy_|.*dropout\w*|.*seed|[gs]et_rng_state|init|reset_parameters|orthogonal_|sparse_|Generator|\w*_generator"
)
# Changes settings of torch's for the whole process.
SETTING = re.compile(r"_?set_(?!extra_state)\w+|use_deterministic\w*|enable_\w+|disable_\w+")
# What is not the same in another process either, or under another caller.
OF_PROCESS = frozenset((
    "getpid", "getppid", "gettid", "get_native_id", "active_count", "main_thread", "environ", "_getframe",
    "_current_frames", "currentframe", "extract_stack", "walk_stack", "tb_frame", "f_back",
))  # fmt: skip
LEGACY = re.compile(r"(Float|Double|Half|BFloat16|Byte|Char|Short|Int|Long|Bool)Tensor")
# What looks past any copy: frames, addresses, all objects there are, threads.
PAST_COPIES = frozenset((
    "gc", "weakref", "ctypes", "threading", "_thread", "concurrent.futures", "queue", "multiprocessing", "asyncio",
    "inspect", "signal", "subprocess", "socket",
))  # fmt: skip
STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
LEGACY_REASON = "asks for a legacy tensor type"
# What torch's loader consults of a module by name.
CONSULTED = (PARAMETERS, BUFFERS, CHILDREN, NON_PERSISTENT, PRE_HOOKS, POST_HOOKS, "__class__")
OF_METACLASSES = {"__getattribute__", "__getattr__", "__instancecheck__", "__name__", "__qualname__"}
MOST_VALUES = 2000


TELLING_TEXTS = OF_MEMORY | {"random"}


@functools.cache
def harmless() -> frozenset[str]:
    """Names that mean the same on copies, whatever they are asked of."""
    kinds = (
        str, bytes, dict, list, set, tuple, int, float, slice, range, collections.OrderedDict, collections.Counter,
        collections.defaultdict, re.Pattern, re.Match, torch.Tensor, nn.Module, nn.Parameter, torch.Size,
        logging.Logger, IncompatibleKeys, Exception,
    )  # fmt: skip
    names = {name for kind in kinds for name in dir(kind)}
    names |= {
        "_metadata", *CONSULTED, "training", "missing_keys", "unexpected_keys", "warning_once",
        "__name__", "args", "weight", "bias", "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip
    return frozenset(names - OF_MEMORY)


def reaches(value: object, parts: dict[int, object]) -> bool:
    """Whether a value is, holds or refers to one of some objects, as far as can be seen within bounds."""
    seen: set[int] = set()
    todo = [value]
    while todo and len(seen) < MOST_VALUES:
        current = todo.pop()
        if id(current) in parts:
            return True
        if id(current) in seen or is_constant(current) or isinstance(current, (type, types.ModuleType)):
            continue
        seen.add(id(current))
        if isinstance(current, (weakref.ref, weakref.WeakMethod)):
            todo.append(current())
        elif isinstance(current, weakref.ProxyTypes):
            todo.append(getattr(current, "__self__", None))
        elif isinstance(current, dict):
            todo.extend((*current.keys(), *current.values()))
        elif isinstance(current, (list, tuple, set, frozenset, collections.deque)):
            todo.extend(current)
        else:
            todo.extend((getattr(current, "__dict__", None), getattr(current, "__closure__", None)))
            if isinstance(current, types.CellType):
                todo.extend(content(current))
    return False


def content(cell: types.CellType) -> Iterator[object]:
    """What a variable of a closure holds, if anything as yet."""
    try:
        yield cell.cell_contents
    except ValueError:
        return


def is_constant(value: Any) -> bool:
    """Whether a value never changes and is the same wherever it is copied to."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return len(value) < 100 and all(map(is_constant, value))
    return kind in CONSTANTS or isinstance(value, enum.Enum)


CONSTANTS = frozenset((
    type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis), type(NotImplemented), re.Pattern,
    torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format,
))  # fmt: skip


def root(name: str) -> str:
    """The package of a dotted name."""
    return name.partition(".")[0]


def is_trusted(name: str | None) -> bool:
    """Whether a module of that name has been compared with real loading."""
    if name is None or root(name) not in TRUSTED:
        return False
    return name.startswith(TRUSTED_AFTER_ALL) or not name.startswith(NOT_TRUSTED)


def is_installed(name: str | None) -> bool:
    """Whether a module of that name is Python's own or a package's, or none that could be looked into."""
    file = getattr(sys.modules.get(name or ""), "__file__", None)
    parts = Path(file).parts if file else ()
    return not file or "site-packages" in parts or "dist-packages" in parts or file.startswith(STANDARD_LIBRARY)


def is_distributed(name: str | None) -> bool:
    """Whether code of a module of that name may act for several processes."""
    return name is not None and name.startswith("torch.distributed") and not is_trusted(name)


# Where Python says that a function lies that it made itself, for a namedtuple say.
MADE_BY_PYTHON = ("<frozen ",)
TORCH = str(Path(torch.__file__).parent) + os.sep


def is_torchs(value: object) -> bool:
    """Whether a function or class is torch's own, and not something put in its place."""
    value = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
    code = getattr(value, "__code__", None)
    if code is not None:
        return str(code.co_filename).startswith((TORCH, *MADE_BY_PYTHON))
    module = getattr(value if isinstance(value, type) else type(value), "__module__", "") or ""
    return root(module) in ("builtins", "torch", "collections", "functools", "itertools", "typing", "contextlib")


def is_torchs_or_trusted(code: types.CodeType) -> bool:
    """Whether code lies where the libraries lie that are trusted; a module can call itself what it likes."""
    return str(code.co_filename).startswith(("<", *places()))


def places() -> Iterable[str]:
    """Where the libraries lie that are trusted."""
    for name in TRUSTED:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            yield str(Path(file).parent) + os.sep
