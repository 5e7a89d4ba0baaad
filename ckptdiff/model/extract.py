"""nn.Module → ModuleTree: read off what `load_state_dict` consults, without touching the module."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckptdiff.claimed.claims import claim_of
from ckptdiff.errors import ModelError
from ckptdiff.garbage import uncollected
from ckptdiff.model.tree import (
    EXTRA_STATE,
    NOTHING,
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
    BUFFERS,
    INSTANCE_NORM_LOADER,
    LOAD_METHOD,
    PARAMETERS,
    POST_HOOKS,
    PRE_HOOKS,
    VERSION,
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
_CPU = torch.device("cpu")
# Named dimensions, which recent releases of torch have no more.
has_names: Callable[[torch.Tensor], bool] = getattr(torch.Tensor, "has_names", lambda _: False)
NAMES_DIMENSIONS = hasattr(torch.Tensor, "has_names")
_STRIDED = torch.strided
_CHILDLESS: dict[str, Any] = {}

_new = tuple.__new__  # by position, which takes half as long as by name


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


def _placed(info: TensorInfo, tensor: torch.Tensor) -> TensorInfo:
    """What is known of a model's tensor, with the device that it is on, or says that it is on."""
    try:
        device = claim_of(tensor) or tensor.device
        return info if device == _CPU else info._replace(device=str(device))
    except Exception:  # a subclass answers as it likes
        return info


class Described:
    """Tensors that differ in nothing but their values, described once: a model may have a hundred thousand.

    `placed` says where a description has a tensor to be.
    """

    def __init__(self, placed: Callable[[TensorInfo, torch.Tensor], TensorInfo]) -> None:
        self._placed = placed
        self._by_kind: dict[tuple[object, ...], dict[torch.Size, TensorInfo]] = {}
        # The last one's kind, since the next is likely to differ in its shape alone.
        self._kind: tuple[object, ...] = (None, None, None)
        self._by_shape: dict[torch.Size, TensorInfo] = {}

    def usual(self, tensor: torch.Tensor) -> TensorInfo | None:
        """The description of a plain, contiguous tensor; None of any other."""
        cls, dtype = type(tensor), tensor.dtype
        if (
            cls not in PLAIN_CLASSES
            or tensor.layout is not _STRIDED
            or tensor.is_nested
            or not tensor.is_contiguous()
            or tensor.storage_offset()
        ):
            return None
        device = claim_of(tensor) or tensor.device
        last = self._kind
        if not (cls is last[0] and dtype is last[1] and device == last[2]):
            if tensor.is_quantized:
                return None
            self._kind = cls, dtype, device
            self._by_shape = self._by_kind.setdefault(self._kind, {})
        shape = tensor.shape
        info = self._by_shape.get(shape)
        if info is None:
            info = self._by_shape[shape] = self._placed(tensor_info(tensor), tensor)
        return info


def registered(module: nn.Module, name: str) -> Any:
    """A module's own parameter or buffer of that name, or None. Those of a ScriptModule are in no ordinary dict."""
    for members in (own_parameters(module), own_buffers(module)):
        if name in members:
            return members[name]
    return None


def extract(module: nn.Module, reference: str = "", built: str = "live") -> ModuleTree:
    """The ModuleTree of an instantiated module, which is left as it is.

    A module registered under several names becomes one ModuleNode. Nodes hold their module, for the code of custom
    ones.
    """
    loader = getattr(type(module), "load_state_dict", None)
    with uncollected():
        root = _Extraction().node_of(module)
    return ModuleTree(
        root,
        reference or class_name(type(module)),
        built,
        torch.__version__,
        installed_dialect(),
        overrides_load_state_dict=loader is not nn.Module.load_state_dict or "load_state_dict" in vars(module),
    )


class _ClassFacts(NamedTuple):
    """What every module of one class has in common."""

    name: str
    qualified_name: str
    loader: Loader
    sets_extra_state: bool
    keeps_attributes: bool
    """What `nn.Module.__init__` has put into a module's own dictionary is what asking the module for it gives."""
    version: Any
    """`_version`, where the module has none of its own."""


class _Extraction:
    """One reading of a tree. What is known of a class, and of tensors alike, is known once."""

    def __init__(self) -> None:
        self._nodes: dict[int, ModuleNode] = {}
        self._identities: dict[int, int] = {}
        self._classes: dict[type, _ClassFacts] = {}
        self._described = Described(_placed)

    def node_of(self, module: nn.Module) -> ModuleNode:
        """The node of a module, after all below it. Iterative, since deep trees exceed Python's recursion limit."""
        nodes = self._nodes
        begun: set[int] = set()
        stack = [module]
        while stack:
            current = stack[-1]
            children = children_of(current)
            if children and id(current) not in nodes and id(current) not in begun:
                begun.add(id(current))
                before = len(stack)
                stack.extend(self._waiting(current, children, begun))
                if len(stack) > before:
                    continue
            stack.pop()
            if id(current) not in nodes:
                nodes[id(current)] = self._node(current, children)
        return nodes[id(module)]

    def _waiting(self, module: nn.Module, children: Mapping[str, nn.Module | None], begun: set[int]) -> list[nn.Module]:
        """The children that have children of their own, the last one first. The others, which wait for nobody and are
        most of a model, have their nodes afterwards."""
        nodes = self._nodes
        waiting: list[nn.Module] = []
        for name, child in children.items():
            if child is None or id(child) in nodes:
                continue
            if not isinstance(child, nn.Module):
                raise ModelError(
                    f"A {class_name(type(module))} has a {class_name(type(child))} among its modules.",
                    "torch cannot load into such a module either; register an nn.Module or None.",
                )
            if not children_of(child):
                nodes[id(child)] = self._node(child, _CHILDLESS)
            elif id(child) in begun:
                raise ModelError(
                    f"A {class_name(type(module))} contains itself, by way of its child {name}.",
                    "torch would recurse without end on such a module; remove the cycle.",
                )
            else:
                waiting.append(child)
        waiting.reverse()
        return waiting

    def _node(self, module: nn.Module, children: Mapping[str, nn.Module | None]) -> ModuleNode:
        cls = type(module)
        facts = self._classes.get(cls)
        if facts is None:
            facts = self._classes[cls] = _class_facts(cls)
        own = vars(module)
        if facts.keeps_attributes and PARAMETERS in own and BUFFERS in own:
            parameters, buffers, version = own[PARAMETERS], own[BUFFERS], own.get(VERSION, facts.version)
            pre_hooks, post_hooks = own.get(PRE_HOOKS), own.get(POST_HOOKS)
        else:
            parameters, buffers, version = own_parameters(module), own_buffers(module), module_version(module)
            pre_hooks, post_hooks = getattr(module, PRE_HOOKS, None), getattr(module, POST_HOOKS, None)
        local: dict[str, Slot] = {}
        none: list[str] = []
        slot = self._slot
        for name, parameter in parameters.items():
            if parameter is None:
                none.append(name)
            else:
                local[name] = slot(parameter, "parameter")
        non_persistent = self._add_buffers(module, buffers, local, none) if buffers else NOTHING
        loader = facts.loader
        if loader != "plain" or LOAD_METHOD in own:
            loader = _loader(module, loader)
        custom: tuple[str, ...] = ()
        if pre_hooks or post_hooks or loader == "custom" or facts.sets_extra_state:
            custom = _custom(loader, pre_hooks, post_hooks, facts)
        below: Mapping[str, ModuleNode | None] = _CHILDLESS
        if children:
            nodes = self._nodes
            below = {name: None if child is None else nodes[id(child)] for name, child in children.items()}
        return _new(
            ModuleNode,
            (
                facts.name,
                facts.qualified_name,
                local,
                below,
                tuple(none),
                non_persistent,
                version,
                loader,
                custom,
                _odd(local) or (bool(below) and _odd(below)),
                # Consulted by the rules of norms only; to look for it where it is not is dear.
                loader != "plain" and bool(getattr(module, "track_running_stats", False)),
                module,
            ),
        )

    def _add_buffers(
        self, module: nn.Module, buffers: Mapping[str, Any], local: dict[str, Slot], none: list[str]
    ) -> Mapping[str, TensorInfo]:
        """Add a module's persistent buffers to what is its own; returns the others."""
        non_persistent: dict[str, TensorInfo] = {}
        not_saved = non_persistent_buffers(module)
        for name, buffer in buffers.items():
            if name in not_saved:
                if isinstance(buffer, torch.Tensor):
                    non_persistent[name] = tensor_info(buffer)
            elif buffer is None:
                none.append(name)
            elif isinstance(buffer, torch.Tensor):
                local[name] = self._slot(buffer, "buffer")
            else:
                raise ModelError(
                    f"The buffer {name} of {class_name(type(module))} is no tensor but a {class_name(type(buffer))}.",
                    "torch cannot load into such a module either; register a tensor or None.",
                )
        return non_persistent

    def _slot(self, tensor: torch.Tensor, kind: Literal["parameter", "buffer"]) -> Slot:
        identities = self._identities
        identity = identities.setdefault(id(tensor), len(identities))
        info = self._described.usual(tensor)
        if info is not None:
            ordinary = True
        else:
            info = _placed(tensor_info(tensor), tensor)
            if type(tensor) not in PLAIN_CLASSES:
                return Slot(info, kind, identity, is_lazy(tensor), tensor.requires_grad, ordinary=False)
            ordinary = info.layout == "strided" and (info.stride is None or not _overlaps(info))
            ordinary = ordinary and not tensor.is_quantized
        ordinary = ordinary and not (tensor.is_inference() or (NAMES_DIMENSIONS and has_names(tensor)))
        return _new(Slot, (info, kind, identity, False, tensor.requires_grad, ordinary))


def _class_facts(cls: type) -> _ClassFacts:
    sets_extra_state = getattr(cls, "set_extra_state", nn.Module.set_extra_state) is not nn.Module.set_extra_state
    qualified_name = f"{display_name(cls.__module__)}.{cls.__qualname__}"
    version = getattr(cls, VERSION, None)
    asked: Any = cls.__getattribute__
    keeps_attributes = (
        asked is object.__getattribute__
        and not any(hasattr(cls, name) for name in (PARAMETERS, BUFFERS, PRE_HOOKS, POST_HOOKS))
        and (version is None or type(version) is int)
    )
    return _ClassFacts(cls.__name__, qualified_name, _class_loader(cls), sets_extra_state, keeps_attributes, version)


def _custom(loader: Loader, pre_hooks: object, post_hooks: object, facts: _ClassFacts) -> tuple[str, ...]:
    takes_part = (
        (OVERRIDE, loader == "custom"),
        (PRE_HOOK, pre_hooks),
        (POST_HOOK, post_hooks),
        (EXTRA_STATE, facts.sets_extra_state),
    )
    return tuple(name for name, present in takes_part if present)


def _odd(names: Iterable[str]) -> bool:
    """Whether a name contains a dot or is no text."""
    try:
        return "." in "".join(names)
    except TypeError:
        return True


def _loader(module: nn.Module, loader: Loader) -> Loader:
    """The loader of one module, whose class has this one."""
    if LOAD_METHOD in vars(module):
        return "custom"
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
