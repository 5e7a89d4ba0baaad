"""A call into a library that loads: followed as it stands, while what the library shows of itself is picked up."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import torch
from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CkptdiffError, UsageError
from ckptdiff.following.followed import Followed, following
from ckptdiff.following.readers.inert import Refused, ensure_none_in
from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.function import given_to
from ckptdiff.loaders.left import Left, Told, left_in, left_nothing
from ckptdiff.loaders.outcome import Loader, Machine
from ckptdiff.model.build import build
from ckptdiff.model.reference import Reference
from ckptdiff.model.tree import ModuleTree
from ckptdiff.patches import patches
from ckptdiff.torch_private import lists_of_failed_call


@dataclass(slots=True)
class Seen:
    """What a call shows of itself as it goes: the model, as soon as there is one, and its lists."""

    followed: Followed
    module: nn.Module | None = None
    told: Told = field(default_factory=Told)

    def tell(self, **lists: Any) -> None:
        """Add lists of the library's own."""
        self.told = replace(self.told, **lists)


def called(
    asked: Asked,
    loader: Loader,
    prepare: Callable[[Followed], Callable[[Seen], None]],
    *libraries: str,
    checkpoint: Checkpoint | None = None,
) -> tuple[Left, Seen]:
    """What a call leaves. `prepare` makes it, models that it is given included; what it raises is no answer.

    `checkpoint` is what was read of the path, where that is more than one checkpoint.

    Raises CkptdiffError where the call needs an object that only code named in the file could make.
    """
    machine = Machine(torch.__version__, tuple((name, release(name)) for name in libraries))
    try:
        with quietly(), following(trust=asked.trust_checkpoint) as followed:
            call = prepare(followed)
            seen = Seen(followed)
            try:
                call(seen)
            except (Refused, CkptdiffError, KeyboardInterrupt):
                raise
            except BaseException as error:  # torch.distributed.checkpoint's own is no Exception
                followed.note(error)
        if seen.module is None:
            where = checkpoint or asked.path
            return left_nothing(followed, loader, seen.told, where, reference=asked.shown, machine=machine), seen
        ensure_none_in(seen.module)
        made = left_in(
            seen.module,
            followed,
            loader,
            seen.told,
            checkpoint or asked.path,
            reference=asked.shown,
            machine=machine,
        )
        return made, seen
    except Refused as refused:
        raise refused.told(loader.call) from None


def given_model(followed: Followed, asked: Asked) -> nn.Module:
    """The model to run on: built, or a copy of a live one. Raises UsageError for a mere description of one."""
    model = asked.model
    if isinstance(model, Reference) and model.kind != "snapshot":
        return build(model, asked.args, with_values=True).module
    if model is None or isinstance(model, (Reference, ModuleTree)):
        raise UsageError(
            f"{asked.shown or 'This'} is no model that a loader could run on.",
            "Name the model itself, such as model.py:Net.",
        )
    copied = given_to(followed, model)
    assert copied is not None
    return copied


def class_of_model(asked: Asked) -> type:
    """The class of the model that was named. Raises CkptdiffError where it does not build."""
    model = asked.model
    if isinstance(model, nn.Module):
        return type(model)
    if isinstance(model, Reference) and model.kind != "snapshot":
        return type(build(model, asked.args).module)
    raise UsageError(f"{asked.shown or 'This'} names no class.", "Name the model itself, such as model.py:Net.")


def release(package: str) -> str:
    """The version of a package as it is installed, "" where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what libraries log, warn of and draw to themselves: the report says it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@dataclass(slots=True)
class StateLoad:
    """One outermost call of `load_state_dict`: on which module, and with which lists it ended."""

    module: nn.Module
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    error: Exception | None = None
    strict: bool = True


@contextlib.contextmanager
def state_loads() -> Iterator[list[StateLoad]]:
    """Every outermost call of `nn.Module.load_state_dict` inside the block, its lists also where it raises."""
    calls: list[StateLoad] = []
    depth = 0
    original = nn.Module.load_state_dict

    @functools.wraps(original)
    def load_state_dict(self: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> object:
        nonlocal depth
        if depth:
            return original(self, state_dict, *args, **kwargs)
        made = StateLoad(self, strict=bool(args[0] if args else kwargs.get("strict", True)))
        calls.append(made)
        depth += 1
        try:
            result = original(self, state_dict, *args, **kwargs)
            made.missing, made.unexpected = map(tuple, (result.missing_keys, result.unexpected_keys))
            return result
        except Exception as error:
            made.error = error
            made.mismatched = tuple(_mismatched(self, state_dict))
            raise
        finally:
            depth -= 1

    try:
        with patches() as patched:
            patched.attribute(nn.Module, "load_state_dict", load_state_dict)
            yield calls
    finally:
        for call in calls:
            if call.error is not None:
                missing, unexpected, _ = lists_of_failed_call(call.error)
                call.missing, call.unexpected = tuple(missing), tuple(unexpected)


def _mismatched(module: nn.Module, state_dict: Any) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    if not isinstance(state_dict, Mapping):  # which is what it raised for
        return
    own = nn.Module.state_dict(module)
    for key, value in own.items():
        given = state_dict.get(key)
        if isinstance(given, torch.Tensor) and isinstance(value, torch.Tensor) and given.shape != value.shape:
            if value.dim() == 0 and tuple(given.shape) == (1,):  # of torch 0.3
                continue
            yield key, tuple(given.shape), tuple(value.shape)


@contextlib.contextmanager
def told_by_state_loads(seen: Seen, kind: type = nn.Module) -> Iterator[list[StateLoad]]:
    """Take the lists, and the module where there is none yet, from the last `load_state_dict` of it inside the block.

    A module that is none yet is one of a `kind`.
    """
    loads: list[StateLoad] = []
    try:
        with state_loads() as loads:
            yield loads
    finally:
        for load in reversed(loads):
            if load.module is seen.module or (seen.module is None and isinstance(load.module, kind)):
                seen.module = load.module
                seen.tell(
                    missing=load.missing,
                    unexpected=load.unexpected,
                    mismatched=load.mismatched,
                    ignored=load.error is None or not load.strict,
                )
                break


def spelled(options: object) -> str:
    """Options as they stand in a call, each after a comma."""
    return "".join(f", {name}={value!r}" for name, value in cast("dict[str, object]", options).items())
