"""torch's own loader as the oracle for the walk."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.outcome import Outcome
from ckptdiff.loaders.torch.answer import error_message, loads
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract


@dataclass
class Answer:
    """What torch said. The lists are there even where it raised: they are read off the frame it raised from."""

    missing: list[Any] | None
    unexpected: list[Any] | None
    error: str | None


def torch_says(model: nn.Module, state_dict: Any, strict: bool = True, assign: bool = False) -> Answer:
    """Really loads into `model`."""
    copied = state_dict if isinstance(state_dict, MappingProxyType) else copy.copy(state_dict)
    if hasattr(state_dict, "_metadata"):
        copied._metadata = copy.deepcopy(state_dict._metadata)
    try:
        with warnings.catch_warnings():
            # It has nothing to do with what is loaded, and depends on who loaded before.
            warnings.filterwarnings("ignore", message=".*non-meta parameter|Casting complex")
            result = nn.Module.load_state_dict(model, copied, strict=strict, assign=assign)
    except Exception as error:
        text = str(error)
        plain = type(error) is RuntimeError and text.startswith("Error(s) in loading")
        missing, unexpected = lists_of(error)
        return Answer(missing, unexpected, text if plain else f"{type(error).__name__}: {text}")
    return Answer(result.missing_keys, result.unexpected_keys, None)


def lists_of(error: BaseException) -> tuple[list[Any] | None, list[Any] | None]:
    """The lists of the call of `Module.load_state_dict` that an exception came out of."""
    trace = error.__traceback__
    while trace is not None:
        local = trace.tb_frame.f_locals
        if trace.tb_frame.f_code is nn.Module.load_state_dict.__code__ and "missing_keys" in local:
            return local["missing_keys"], local["unexpected_keys"]
        trace = trace.tb_next
    return None, None


def assert_agrees(
    model: nn.Module | Callable[[], nn.Module],
    state_dict: Any,
    assign: bool = False,
    *,
    untouched: bool = False,
    apart: bool = False,
) -> Outcome:
    """Our answer is torch's, for strict and not: lists, order and text. Returns our answer.

    `model` is a module that can be deep-copied, or a function that makes it anew. With `untouched`, nothing in it or
    in the state dict may be other than before.
    """
    fresh = (lambda: copy.deepcopy(model)) if isinstance(model, nn.Module) else model
    given = fresh()
    before = (state_of(given), state_of(state_dict), torch.get_rng_state().tolist()) if untouched else None
    ours = compare(extract(given), checkpoint_of(state_dict), assign=assign)
    if before is not None:
        assert (state_of(given), state_of(state_dict), torch.get_rng_state().tolist()) == before
    for strict in (True, False):
        theirs = torch_says(fresh(), copy.deepcopy(state_dict) if apart else state_dict, strict, assign)
        assert error_message(ours, strict) == theirs.error
        assert loads(ours, strict) == (theirs.error is None)
        if theirs.missing is not None:
            assert list(ours.problem_keys("missing")) == theirs.missing
            assert list(ours.problem_keys("unexpected")) == theirs.unexpected
    assert not ours.doubts
    return ours


def state_of(value: Any, seen: dict[int, int] | None = None) -> Any:
    """All there is to a value, deeply, as something that compares: attributes, tensors' contents, hooks, closures."""
    seen = {} if seen is None else seen
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, type)):
        return value
    if id(value) in seen:
        return ("seen", seen[id(value)])
    seen[id(value)] = len(seen)
    parts: list[Any] = [type(value), id(value)]
    if isinstance(value, torch.Tensor):
        parts += [value.requires_grad, value.dtype, value.device]
        if not is_lazy(value) and not value.is_inference():
            parts.append(value._version)
        if type(value) in (torch.Tensor, nn.Parameter) and value.layout is torch.strided and not value.is_nested:
            parts += [value.shape, value.stride(), state_of(vars(value), seen)]
            if not value.is_meta and not value.is_quantized:
                parts.append(bytes(value.detach().clone().contiguous().view(-1).view(torch.uint8).tolist()))
        return tuple(parts)
    if isinstance(value, dict):
        parts += [(state_of(key, seen), state_of(item, seen)) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        parts += [state_of(item, seen) for item in value]
    elif isinstance(value, (set, frozenset)):
        parts += sorted(map(repr, value))
    for cell in getattr(value, "__closure__", None) or ():
        try:
            parts.append(state_of(cell.cell_contents, seen))
        except ValueError:
            parts.append("empty")
    for name in ("__self__", "__func__", "__defaults__", "func", "args", "keywords"):
        if hasattr(type(value), name) and not isinstance(value, nn.Module):
            parts.append(state_of(getattr(value, name), seen))
    if hasattr(value, "__dict__") and not isinstance(value, type(torch)):
        parts.append(state_of(vars(value), seen))
    return tuple(parts)
