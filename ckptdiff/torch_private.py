"""Every private name of torch that something here stands on, each behind a name of our own.

A release of torch may move or rename any of them without a word. Then this is the file to mend: the tests ask the
installed torch for each of them, what it means included (tests/model/test_torch_private.py). Names that stand in a
pickle are no part of this: they are the format, and stay what they are in the files that exist (`formats/pickles/`).
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import pathlib
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.overrides
import torch.utils.dlpack
from torch import nn
from torch.nn.modules import module as module_source
from torch.nn.modules.batchnorm import _NormBase as BatchNormBase
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNormBase
from torch.nn.modules.module import _IncompatibleKeys as IncompatibleKeys
from torch.nn.modules.module import _WrappedHook as WrappedHook
from torch.utils import _device
from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode
from torch.utils._python_dispatch import _disable_current_modes as without_modes

__all__ = [
    "BASE_LOADER",
    "BATCH_NORM_LOADER",
    "BUFFERS",
    "CHECKPOINT_WRAPPERS",
    "CHILDREN",
    "COMPUTING",
    "DISPATCH_MODES",
    "DLPACK_EXPORTERS",
    "INSTANCE_NORM_LOADER",
    "LOAD_METHOD",
    "NON_PERSISTENT",
    "OTHER_HOOKS",
    "PARAMETERS",
    "PICKLING",
    "POST_HOOKS",
    "PRE_HOOKS",
    "SHARERS",
    "TRACED_TENSORS",
    "VERSION",
    "VERSION_COUNTER",
    "BatchNormBase",
    "DispatchMode",
    "IncompatibleKeys",
    "InstanceNormBase",
    "WrappedHook",
    "children_of",
    "chosen_device",
    "distributed_classes",
    "empty_affine_quantized",
    "empty_per_channel_affine_quantized",
    "is_made_of_others",
    "lists_of_failed_call",
    "load_post_hooks",
    "load_pre_hooks",
    "metadata_of",
    "modes_active",
    "module_source",
    "module_version",
    "neg_view",
    "non_persistent_buffers",
    "own_buffers",
    "own_parameters",
    "part_of_file",
    "post_hook_error",
    "process_groups",
    "reference_count",
    "registration_hooks",
    "schema_of",
    "set_grad_enabled",
    "set_metadata",
    "storage_identity",
    "store_of_one",
    "taken_apart",
    "tensor_makers",
    "tensor_rebuilder",
    "typed_storage_parts",
    "wait_for",
    "without_modes",
    "without_torch_dispatch",
    "without_torch_function",
]  # fmt: skip

# How a module loads

LOAD_METHOD = "_load_from_state_dict"
"""`nn.Module`'s method that takes a module's own keys out of the state dict; the one that classes override."""
BASE_LOADER: Any = nn.Module._load_from_state_dict
"""torch's own, as it was when this was imported."""
BATCH_NORM_LOADER: object = BatchNormBase._load_from_state_dict
"""That of batch norms (torch/nn/modules/batchnorm.py), which adds a counter to state dicts of before version 2."""
INSTANCE_NORM_LOADER: Any = InstanceNormBase._load_from_state_dict
"""That of instance norms (torch/nn/modules/instancenorm.py), which rejects running statistics of before version 2."""

# What a module has registered, by the names of the dictionaries in it (torch/nn/modules/module.py, Module.__init__)

PARAMETERS, BUFFERS, CHILDREN = "_parameters", "_buffers", "_modules"
NON_PERSISTENT = "_non_persistent_buffers_set"
VERSION = "_version"
PRE_HOOKS, POST_HOOKS = "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"
OTHER_HOOKS = frozenset((
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks",
))  # fmt: skip
"""The hooks of a module that take no part in loading."""


def own_parameters(module: nn.Module) -> dict[str, Any]:
    """The parameters registered in a module itself, None among them."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Any]:
    """The buffers registered in a module itself, None among them, persistent or not."""
    return module._buffers


def children_of(module: nn.Module) -> dict[str, Any]:
    """The modules registered in a module, None among them."""
    return module._modules


def non_persistent_buffers(module: nn.Module) -> set[str]:
    """The names of a module's buffers that a state dict leaves out."""
    return module._non_persistent_buffers_set


def load_pre_hooks(module: nn.Module) -> Mapping[int, Any]:
    """What `register_load_state_dict_pre_hook` has put into a module."""
    return module._load_state_dict_pre_hooks


def load_post_hooks(module: nn.Module) -> Mapping[int, Any]:
    """What `register_load_state_dict_post_hook` has put into a module."""
    return module._load_state_dict_post_hooks


def module_version(module: nn.Module) -> Any:
    """The version that a module writes into a state dict's metadata, or None."""
    return getattr(module, VERSION, None)


def metadata_of(state_dict: object) -> Any:
    """The versions of the modules that `Module.state_dict` keeps as an attribute of what it returns, or None."""
    return getattr(state_dict, "_metadata", None)


def set_metadata(state_dict: Any, metadata: object) -> None:
    """Give a state dict the versions that `Module.load_state_dict` looks for."""
    state_dict._metadata = metadata


def registration_hooks() -> list[Any]:
    """The hooks that run wherever anything is registered in any module, a dictionary for each kind of thing."""
    kinds = (name for name in vars(module_source) if name.startswith("_global_"))
    return [vars(module_source)[name] for name in kinds if name.endswith("_registration_hooks")]


@functools.cache
def post_hook_error() -> str:
    """What the installed torch says of a post-hook that returns something, which it has worded in several ways; found
    in its source, since the text is nowhere else."""
    source = ast.parse(Path(inspect.getfile(nn.Module)).read_text("utf-8"))
    texts = (str(node.value) for node in ast.walk(source) if isinstance(node, ast.Constant))
    return next(text for text in texts if text.startswith("Hooks registered with ``register_load_state_dict_post_hook"))


def lists_of_failed_call(error: BaseException) -> tuple[list[Any], list[Any], list[Any]]:
    """The missing keys, the unexpected keys and the errors that `Module.load_state_dict` had noted when an exception
    came out of it: local variables of its, read out of the traceback."""
    trace: types.TracebackType | None = error.__traceback__
    while trace is not None:
        local = trace.tb_frame.f_locals
        if trace.tb_frame.f_code is nn.Module.load_state_dict.__code__ and "error_msgs" in local:
            return local["missing_keys"], local["unexpected_keys"], local["error_msgs"]
        trace = trace.tb_next
    return [], [], []


# Modes, and what passes them by

without_torch_function = torch._C.DisableTorchFunction
"""A context in which neither modes nor subclasses of Tensor hear of a call."""
without_torch_dispatch = torch._C._DisableTorchDispatch
"""A context in which no dispatch mode hears of an operator."""
set_grad_enabled: Any = torch._C._set_grad_enabled
"""Whether operations are noted for gradients from now on; what `torch.no_grad` calls twice, at a tenth of its cost."""
neg_view: Callable[[torch.Tensor], torch.Tensor] = torch._neg_view
"""A tensor over the same memory that says to be the negative of what is there, as the imaginary part of a conjugate."""
SHARERS = ("_share_fd_cpu_", "_share_filename_cpu_")
"""The methods of a storage that put it where other processes have it too, as a queue does."""
VERSION_COUNTER: object = getattr(torch.Tensor, "_version").__get__  # noqa: B009 - so that mypy does not read an attribute
"""The getter of the number of times that a tensor was written to."""
DLPACK_EXPORTERS = (
    (torch, "to_dlpack"), (torch._C, "_to_dlpack"), (torch._C, "_to_dlpack_versioned"),
    (torch.utils.dlpack, "to_dlpack"), (torch.utils.dlpack, "_to_dlpack"),
)  # fmt: skip
"""Where the functions that hand a tensor's memory out have been; a release has some of them."""
DISPATCH_MODES = "torch.utils._python_dispatch"
"""The module that dispatch modes are made with, `without_modes` among what is in it."""
TRACED_TENSORS = "torch._subclasses."
"""The package of the tensors with which torch traces code: fake and functional ones."""
COMPUTING = (
    "torch._decomp", "torch._functorch", "torch._library", "torch._meta_registrations", "torch._prims", "torch._refs",
    "torch._subclasses",
)  # fmt: skip
"""The packages in which torch computes in Python, on the meta device above all."""
PICKLING = ("__reduce_ex__", "_reduce_ex_internal")
"""The methods of Tensor (torch/_tensor.py) by which it is pickled and copied."""


def modes_active() -> bool:
    """Whether a mode that would hear of calls to torch is active in this thread."""
    return bool(torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack())


def tensor_makers() -> Any:
    """The functions that make tensors on the default device (torch/utils/_device.py)."""
    return _device._device_constructors()


def chosen_device() -> Any:
    """The device that `torch.set_default_device` was given, or None."""
    return _device.CURRENT_DEVICE


def schema_of(operator: Any) -> Any:
    """The schema of an operator as a dispatch mode is given it: its arguments and results, and what is written to."""
    return operator._schema


@functools.cache
def is_made_of_others(operator: Any) -> bool:
    """Whether an operator is a composition of others, which `taken_apart` calls in its place."""
    key = "CompositeImplicitAutograd"
    return isinstance(operator, torch._ops.OpOverload) and bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), key)  # type: ignore[no-untyped-call]
    )


def taken_apart(operator: Any, args: Any, kwargs: Any) -> Any:
    """What such an operator gives, by torch's own kernel: `operator.decompose` may have another in Python, of other
    rounding."""
    return operator._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


def wait_for(result: Any) -> None:
    """Wait for what a collective gives: a tensor, or its `torch.distributed.Work` as an object of TorchScript's."""
    if isinstance(result, torch.Tensor):
        torch.ops._c10d_functional.wait_tensor(result)
    else:
        torch._C._distributed_c10d.Work.unbox(result).wait()


# Tensors and storages


def reference_count(tensor: torch.Tensor) -> int:
    """How many references torch itself holds to a tensor, by which `torch.utils.swap_tensors` refuses."""
    return int(tensor._use_count())  # type: ignore[attr-defined]


empty_affine_quantized: Callable[..., torch.Tensor] = torch._empty_affine_quantized
"""A quantized tensor of any values, with one scale (torch/_utils.py, `_rebuild_qtensor`, makes them so)."""
empty_per_channel_affine_quantized: Callable[..., torch.Tensor] = torch._empty_per_channel_affine_quantized
"""The same with scales along an axis."""


def storage_identity(storage: torch.UntypedStorage) -> int:
    """The same number for all Python objects of one storage."""
    return int(storage._cdata)


def typed_storage_parts(storage: torch.storage.TypedStorage) -> tuple[torch.UntypedStorage, str, int]:
    """A typed storage's bytes, the name of the legacy class that a pickle names for it, and its number of elements."""
    return storage._untyped_storage, storage._pickle_storage_type(), storage._size()  # type: ignore[no-untyped-call]


def tensor_rebuilder(*, typed: bool) -> Callable[..., torch.Tensor]:
    """The function that a pickle names for making a tensor: of a legacy storage class, or of bytes and a dtype."""
    rebuild: Any = torch._utils._rebuild_tensor_v2 if typed else torch._utils._rebuild_tensor_v3
    return rebuild  # type: ignore[no-any-return]


# Files

FILE_READER = (torch._C, "PyTorchFileReader")
"""Where the class is found that reads single records out of a torch file."""
FILE_WRITER = (torch._C, "PyTorchFileWriter")
"""And the one that writes them."""


def tables_of_functions() -> tuple[Any, ...]:
    """The functions of torch that put others of its functions in a table once (`functools.cache`)."""
    names = (
        "get_ignored_functions",
        "get_default_nowrap_functions",
        "get_testing_overrides",
        "_get_overridable_functions",
    )
    return tuple(getattr(torch.overrides, name) for name in names)


def script_builtins() -> dict[int, str]:
    """The functions that TorchScript knows by identity, with the operator of each: its own table, not a copy."""
    table: dict[int, str] | None = torch.jit._builtins._get_builtin_table()  # type: ignore[no-untyped-call]
    return table or {}


def part_of_file(file: Any) -> tuple[str, int, int] | None:
    """Path, first byte and length, where a file is torch.distributed.checkpoint's view of a part of another one."""
    if type(file).__name__ != "_ReaderView":
        return None
    name = getattr(getattr(file, "base_stream", None), "name", None)
    return (os.fspath(name), file.offset, file.len) if isinstance(name, (str, os.PathLike)) else None


def distributed_classes() -> dict[tuple[str, str], Any]:
    """Module and name → what torch.distributed.checkpoint's `.metadata` is made of: none does more than hold values."""
    from torch.distributed.checkpoint import filesystem, metadata
    from torch.serialization import _get_layout

    names = ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
             "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING", "_StorageInfo",
             "_StoragePrefix")  # fmt: skip
    kinds = [getattr(source, name, None) for source in (metadata, filesystem) for name in names]
    classes = {(item.__module__, item.__qualname__): item for item in (*kinds, torch.Size, _get_layout) if item}
    dtypes = {("torch", name): item for name, item in vars(torch).items() if isinstance(item, torch.dtype)}
    paths = {
        (module, f"{name}Path"): getattr(pathlib, f"Pure{name}Path")
        for module in ("pathlib", "pathlib._local")
        for name in ("Posix", "Windows")
    }
    return classes | dtypes | paths


def allowed_globals() -> dict[str, Any]:
    """What `torch.load(weights_only=True)` finds of itself for a pickle's names, and nothing that a program added."""
    from torch._weights_only_unpickler import _get_allowed_globals

    return dict(_get_allowed_globals())


# torch.distributed

CHECKPOINT_WRAPPERS = "torch.distributed.algorithms._checkpoint."
"""The package of `checkpoint_wrapper`, whose hooks take a prefix from keys and do nothing else."""


def store_of_one() -> Any:
    """What a process group of this process alone meets in."""
    return torch._C._distributed_c10d.HashStore()


def process_groups() -> list[Any]:
    """The process groups of this process; `torch.distributed` is imported and initialized."""
    distributed: Any = sys.modules["torch.distributed"]
    return list(distributed.distributed_c10d._world.pg_map)


def coo_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The indices and values of a sparse tensor, coalesced or not: `indices()` raises for one that is not."""
    return tensor._indices(), tensor._values()


def coo_tensor(like: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A sparse tensor of other values where one has its own."""
    return torch.sparse_coo_tensor(like._indices(), values, like.size())
