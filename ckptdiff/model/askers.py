"""Who asks a tensor something: whether the answer can reach code that would go another way by it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType, FunctionType

import torch

from ckptdiff.torch_private import COMPUTING, PICKLING

# Libraries whose models are made to be built on meta (transformers loads every model that way).
_MADE_FOR_META = ("torchvision", "transformers", "timm")
# Parts of torch that ask in order to compute, and tell nobody. (`torch.typename` and `torch.save` do.)
_COMPUTING = (
    "torch.nn.",
    "torch.optim.",
    "torch.ao.",
    "torch.distributions.",
    "torch.fx.",
    "torch.func.",
    "torch.library",
    *COMPUTING,
)
# torch's own methods of Tensor and Storage, which ask on behalf of whoever calls them.
_ON_BEHALF = (
    "torch._tensor",
    "torch.overrides",
    "torch.storage",
    "torch.nn.parameter",
    "ckptdiff.claimed.claiming",
    "ckptdiff.claimed.host",
    "ckptdiff.model.meta_building",
    "ckptdiff.model.past_modes",
    "ckptdiff.model.uncommitted",
)
_CALLING_BACK = {torch.Tensor.backward, torch.autograd.grad}
# What a library's function is called that makes or changes a model and gives nothing else back.
_MAKERS = {"__init__", "post_init", "init_weights", "initialize_weights", "tie_weights", "from_config", "_from_config"}


def asker() -> str:
    """The module of the code, further up the stack, that gets the answer to a question just asked; "" where that is a
    library's model, which does not go by it, or where a tensor is only copied."""
    frame: FrameType | None = sys._getframe(1)
    pickled = False
    while frame is not None and _module(frame) in _ON_BEHALF:
        if _module(frame) == "torch.nn.parameter" and frame.f_code.co_name not in PICKLING:
            return ""  # a lazy parameter takes its shape
        pickled |= frame.f_code.co_name in PICKLING
        frame = frame.f_back
    if frame is None:
        return "a thread"
    name = _module(frame)
    if pickled:
        return "" if name == "copy" else name
    if name.startswith(_COMPUTING):
        return ""
    if name.partition(".")[0] in _MADE_FOR_META:
        return "" if _is_makers(frame) else name
    return name


def called_by() -> str:
    """The module of the code that called the mode which asks; claims of a GPU between them do not count."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _module(frame).startswith("ckptdiff.claimed."):
        frame = frame.f_back
    return "" if frame is None else _module(frame)


def hidden_code(func: Callable[..., object], classes: Iterable[type]) -> str:
    """What runs others' code where no mode sees it, in a torch function called with such subclasses of Tensor;
    "" if nothing does."""
    if func in _CALLING_BACK:
        return "hooks of backward"
    if isinstance(func, FunctionType) and func.__module__.partition(".")[0] not in ("torch", *_MADE_FOR_META):
        return f"{func.__module__}.{func.__qualname__}"
    for cls in classes:
        if cls.__module__.partition(".")[0] not in ("torch", *_MADE_FOR_META):
            return f"{cls.__module__}.{cls.__qualname__}"
    return ""


def _is_makers(frame: FrameType) -> bool:
    """Whether what a library's function has learnt stays in the library: it is called to make a model."""
    entry: FrameType = frame
    caller: FrameType | None = frame
    while caller is not None:
        name = _module(caller)
        top = name.partition(".")[0]
        if top in _MADE_FOR_META:
            entry = caller
        elif top == "ckptdiff":
            return True
        elif top not in ("torch", *sys.stdlib_module_names):
            break
        caller = caller.f_back
    if entry.f_code.co_name in _MAKERS:
        return True
    return ".models" in _module(entry) and entry.f_code.co_name not in ("device", "get_device", "get_parameter_device")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
