"""nn.Module → ModuleTree: read off what `load_state_dict` consults, without touching the module."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckptdiff.errors import ModelError
from ckptdiff.model.tree import (
    EXTRA_STATE,
    OVERRIDE,
    POST_HOOK,
    PRE_HOOK,
    Dialect,
    Loader,
    ModuleNode,
    ModuleTree,
    Slot,
)
from ckptdiff.model.user_code import display_name
from ckptdiff.tensors import TensorInfo
from ckptdiff.torch_private import (
    BASE_LOADER,
    BATCH_NORM_LOADER,
    INSTANCE_NORM_LOADER,
    LOAD_METHOD,
    POST_HOOKS,
    PRE_HOOKS,
    children_of,
    module_version,
    non_persistent_buffers,
    own_buffers,
    own_parameters,
)

_LOADERS: dict[Any, Loader] = {
    BASE_LOADER: "plain",
    BATCH_NORM_LOADER: "batchnorm",
    INSTANCE_NORM_LOADER: "instancenorm",
}
_HAD_TORCHS = getattr(BASE_LOADER, "__code__", None) is not None and (
    BASE_LOADER.__code__.co_filename == nn.Module.register_buffer.__code__.co_filename
)
_DTYPE_NAMES: dict[torch.dtype, str] = {}
# Named dimensions, which recent releases of torch have no more.
has_names: Callable[[torch.Tensor], bool] = getattr(torch.Tensor, "has_names", lambda _: False)


def dtype_name(dtype: torch.dtype) -> str:
    """torch's name of a dtype without the `torch.` prefix."""
    name = _DTYPE_NAMES.get(dtype)
    if name is None:
        name = _DTYPE_NAMES[dtype] = str(dtype).removeprefix("torch.")
    return name


def class_name(cls: type) -> str:
    """The dotted name of a class as Python prints it: bare for builtins."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


PLAIN_CLASSES = {cls: class_name(cls) for cls in (torch.Tensor, nn.Parameter)}


def tensor_info(tensor: torch.Tensor) -> TensorInfo:
    """What there is to know of a tensor without its values. An uninitialized one has shape ()."""
    cls = type(tensor)
    type_name = PLAIN_CLASSES.get(cls)
    if type_name is None or tensor.is_nested or tensor.layout is not torch.strided:
        return _unusual_tensor_info(tensor, type_name or class_name(cls))
    stride = None if tensor.is_contiguous() else tuple(tensor.stride())
    return TensorInfo(
        dtype_name(tensor.dtype), tuple(tensor.shape), stride, int(tensor.storage_offset()), type_name=type_name
    )


def _unusual_tensor_info(tensor: torch.Tensor, type_name: str) -> TensorInfo:
    layout = str(tensor.layout).removeprefix("torch.")
    if is_lazy(tensor):
        return TensorInfo(dtype_name(tensor.dtype), (), type_name=type_name)
    if tensor.is_nested:
        # A nested tensor has no shape; its number of dimensions is all there is to say.
        return TensorInfo(dtype_name(tensor.dtype), (-1,) * tensor.dim(), layout="nested", type_name=type_name)
    try:
        stride = None if layout != "strided" or tensor.is_contiguous() else tuple(tensor.stride())
    except Exception:  # a subclass answers as it likes
        stride = None
    return TensorInfo(dtype_name(tensor.dtype), tuple(tensor.shape), stride, layout=layout, type_name=type_name)


def registered(module: nn.Module, name: str) -> Any:
    """A module's own parameter or buffer of that name, or None. Those of a ScriptModule are in no ordinary dict."""
    for members in (own_parameters(module), own_buffers(module)):
        if name in members:
            return members[name]
    return None


def extract(module: nn.Module, reference: str = "", built: str = "live") -> ModuleTree:
    """The ModuleTree of an instantiated module, which is left as it is.

    A module registered under several names becomes one ModuleNode. Iterative, since deep trees exceed Python's
    recursion limit. Nodes hold their module, for the code of custom ones.
    """
    identities: dict[int, int] = {}
    nodes: dict[int, ModuleNode] = {}
    stack: list[tuple[nn.Module, bool]] = [(module, False)]
    while stack:
        current, children_done = stack.pop()
        if id(current) in nodes:
            continue
        children = [child for child in children_of(current).values() if child is not None]
        for child in children:
            if not isinstance(child, nn.Module):
                raise ModelError(
                    f"A {class_name(type(current))} has a {class_name(type(child))} among its modules.",
                    "torch cannot load into such a module either; register an nn.Module or None.",
                )
        if children and not children_done:
            stack.append((current, True))
            stack.extend((child, False) for child in reversed(children) if id(child) not in nodes)
        else:
            nodes[id(current)] = _node(current, nodes, identities)
    loader = getattr(type(module), "load_state_dict", None)
    return ModuleTree(
        nodes[id(module)],
        reference or class_name(type(module)),
        built,
        torch.__version__,
        installed_dialect(),
        overrides_load_state_dict=loader is not nn.Module.load_state_dict or "load_state_dict" in vars(module),
    )


def _node(module: nn.Module, nodes: dict[int, ModuleNode], identities: dict[int, int]) -> ModuleNode:
    cls = type(module)
    local: dict[str, Slot] = {}
    none: list[str] = []
    non_persistent: dict[str, TensorInfo] = {}
    custom: list[str] = []
    not_saved, children = non_persistent_buffers(module), children_of(module)
    for name, parameter in own_parameters(module).items():
        if parameter is None:
            none.append(name)
        else:
            local[name] = _slot(parameter, "parameter", identities)
    for name, buffer in own_buffers(module).items():
        if name in not_saved:
            if isinstance(buffer, torch.Tensor):
                non_persistent[name] = tensor_info(buffer)
        elif buffer is None:
            none.append(name)
        elif isinstance(buffer, torch.Tensor):
            local[name] = _slot(buffer, "buffer", identities)
        else:
            raise ModelError(
                f"The buffer {name} of {class_name(cls)} is no tensor but a {class_name(type(buffer))}.",
                "torch cannot load into such a module either; register a tensor or None.",
            )

    loader = _loader(module)
    if loader == "custom":
        custom.append(OVERRIDE)
    if getattr(module, PRE_HOOKS, None):
        custom.append(PRE_HOOK)
    if getattr(module, POST_HOOKS, None):
        custom.append(POST_HOOK)
    extra_state = getattr(cls, "set_extra_state", nn.Module.set_extra_state) is not nn.Module.set_extra_state
    if extra_state:
        custom.append(EXTRA_STATE)
    return ModuleNode(
        class_name=cls.__name__,
        qualified_name=f"{display_name(cls.__module__)}.{cls.__qualname__}",
        local=local,
        children={name: _child(child, nodes, name, cls) for name, child in children.items()},
        none_parameters=tuple(none),
        non_persistent=non_persistent,
        version=module_version(module),
        loader=loader,
        custom=tuple(custom),
        odd_names=any(
            not isinstance(name, str) or "." in name for names in (local.keys(), children.keys()) for name in names
        ),
        track_running_stats=bool(getattr(module, "track_running_stats", False)),
        live=module,
    )


def _loader(module: nn.Module) -> Loader:
    if LOAD_METHOD in vars(module):
        return "custom"
    loader = _class_loader(type(module))
    if loader in ("batchnorm", "instancenorm") and not counts_batches_as_usual(module):
        # Their version rules put the module's own buffer into the state dict, which is then whatever it is.
        return "custom"
    return loader


def _class_loader(cls: type) -> Loader:
    """The loader of a class, of which every `super()._load_from_state_dict` on the way to torch's must be torch's.

    Somebody may have put a method of their own into one of torch's classes, before this module was imported or after.
    """
    methods = [vars(parent)[LOAD_METHOD] for parent in cls.__mro__ if LOAD_METHOD in vars(parent)]
    if not _HAD_TORCHS or methods[-1] is not BASE_LOADER:
        return "custom"
    if any(_LOADERS.get(_hashable(method)) is None for method in methods):
        return "custom"
    return _LOADERS[methods[0]]


def _hashable(method: object) -> object:
    return method if isinstance(method, types.FunctionType) else None


def counts_batches_as_usual(module: nn.Module) -> bool:
    """Whether a norm's `num_batches_tracked`, where it has one, is the scalar buffer it was made with."""
    name = "num_batches_tracked"
    buffers = own_buffers(module)
    if name not in buffers or not hasattr(module, "track_running_stats"):
        return False
    counter = buffers[name]
    return counter is None or (type(counter) is torch.Tensor and counter.dim() == 0)


def _child(child: nn.Module | None, nodes: dict[int, ModuleNode], name: str, parent: type) -> ModuleNode | None:
    if child is None:
        return None
    try:
        return nodes[id(child)]
    except KeyError:
        raise ModelError(
            f"A {class_name(parent)} contains itself, by way of its child {name}.",
            "torch would recurse without end on such a module; remove the cycle.",
        ) from None


def _slot(tensor: torch.Tensor, kind: Any, identities: dict[int, int]) -> Slot:
    identity = identities.setdefault(id(tensor), len(identities))
    info = tensor_info(tensor)
    ordinary = (
        type(tensor) in PLAIN_CLASSES
        and info.layout == "strided"
        and (info.stride is None or not _overlaps(info))
        and not (tensor.is_quantized or tensor.is_inference() or has_names(tensor))
    )
    return Slot(info, kind, identity, is_lazy(tensor), tensor.requires_grad, ordinary)


def _overlaps(info: TensorInfo) -> bool:
    """Whether several elements are one place in memory, so that torch refuses to write (at::has_internal_overlap)."""
    return any(size > 1 and step == 0 for size, step in zip(info.shape, info.stride or (), strict=True))


@functools.cache
def installed_dialect() -> Dialect:
    """How the installed torch differs from others, found by asking it.

    Not by way of `Module.load_state_dict`, which somebody may have replaced by a method that asks us.
    """
    module = nn.Module()
    module.register_buffer("scalar", torch.zeros(()))
    errors: list[str] = []
    BASE_LOADER(module, {"scalar": torch.zeros(2)}, "", {}, True, [], [], errors)
    return Dialect(vector_into_scalar=not errors)
