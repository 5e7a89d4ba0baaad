"""Any function that loads weights: it runs as it stands, followed, and what it leaves in the model is the answer."""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ckptdiff.errors import CkptdiffError, ModelError, UsageError
from ckptdiff.following.followed import Followed, following
from ckptdiff.following.mode import parts
from ckptdiff.following.readers.inert import Refused, ensure_none_in
from ckptdiff.loaders.left import Left, Told, checkpoint_at, left_in
from ckptdiff.loaders.outcome import Loader, Outcome
from ckptdiff.model import user_code
from ckptdiff.model.build import failed, home_of
from ckptdiff.model.kernels import Kernels
from ckptdiff.model.reference import parse_reference
from ckptdiff.model.sandbox import contained

Load = Callable[..., object]


def ask(
    loader: str | Load,
    model: Callable[[], nn.Module] | nn.Module | None,
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    reference: str = "",
) -> Outcome:
    """The answer alone of `left_by`."""
    return left_by(loader, model, path, trust=trust, reference=reference).outcome


def left_by(
    loader: str | Load,
    model: Callable[[], nn.Module] | nn.Module | None,
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    reference: str = "",
) -> Left:
    """What a function, `load(model, path)` or `load(path)` where it takes one argument, would leave in a model.

    `model` is a live module, which stays as it is, or a function that builds one, or None where `load` returns it. With
    `trust`, objects that the file names are rebuilt by the code it names.

    Raises UsageError where `load` leaves no model to look at, CkptdiffError where it needs what the file may not make.
    """
    load: Load = ask
    kernels = Kernels()
    before = checkpoint_at(path)  # which the code may write to, or delete
    try:
        with following(trust=trust, tells=True) as followed:
            followed.files.opened.ask(path)
            if before is not None and before.opened is not None:
                followed.files.contents[os.path.realpath(path)] = before.opened
            given = given_to(followed, model)
            with resolved(loader, kernels) as load:
                result = followed.call(load, *((path,) if given is None or _takes_one(load) else (given, path)))
        made = _model_of(result)
        left = given if made is None else made  # which may be empty, and then is as false as a list
        if left is None:
            if followed.raised is not None:
                raise ModelError(
                    f"{_name(load)} raised before there was a model to look at: {followed.raised}",
                    "Pass the model it fills, or see what it needs.",
                )
            raise UsageError(
                f"{_name(load)} returned {type(result).__name__}, no module, and was given none.",
                "Let it return the model, or pass the model as the first argument.",
            )
        ensure_none_in(left)
        missing, unexpected = _lists(result)
        arguments = "(path)" if _takes_one(load) else "(model, path)"
        lines = (f"{_bound(result, left)}{{loader}}{arguments}",)
        call = f"{_name(load)}{arguments}"
        called = Loader("function", "", call, "followed", lines, takes_model=not _takes_one(load))
        answer = left_in(left, followed, called, Told(missing, unexpected or ()), before or path, reference=reference)
        doubts = (*answer.outcome.doubts, *kernels.doubts())
        return replace(answer, outcome=replace(answer.outcome, doubts=doubts)) if kernels.lacked else answer
    except Refused as refused:
        raise refused.told(_name(load)) from None


@contextlib.contextmanager
def resolved(loader: str | Load, kernels: Kernels | None = None) -> Iterator[Load]:
    """The function that `file.py:function` or `package.module:function` names, with room for its code to run; a
    function as it is. `kernels` stand in for packages that only its import needs.

    Raises UsageError for a text of neither form, ModelError where there is no such file or function, or its import
    fails.
    """
    if not isinstance(loader, str):
        yield loader
        return
    reference = parse_reference(loader)
    home = home_of(reference) if reference.attr else None
    if home is None:
        raise UsageError(f"{loader} names no function.", "Write for example load.py:load_weights.")
    kernels = kernels or Kernels()
    with contained(reference.target), user_code.importing(home), kernels.finder.found():
        module = sys.modules.get(home.name) or _imported(home, reference.target, kernels)
        load = user_code.take(module, reference.attr, reference.target)
        if not callable(load):
            raise UsageError(f"{loader} is a {type(load).__name__}, not a function.", "Name a function that loads.")
        yield load


def _imported(home: user_code.Home, shown: str, kernels: Kernels) -> ModuleType:
    try:
        return kernels.loaded(home.load, shown)
    except (Refused, CkptdiffError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit, and whatever else
        raise failed(f"{shown}: importing it", error) from None


def given_to(followed: Followed, model: Callable[[], nn.Module] | nn.Module | None) -> nn.Module | None:
    """The model to run on: built, or a copy of a live one, whose values are copied when somebody looks at them."""
    if model is None or not isinstance(model, nn.Module):
        return None if model is None else model()
    computed = _computed(model)
    for tensor in (*model.parameters(), *model.buffers(), *computed):
        for part in parts(tensor):
            followed.engine.memory(part)
    try:
        return _copied(model, computed)
    except Exception as error:
        raise ModelError(
            f"A copy of the {type(model).__name__} to try it on cannot be made: {type(error).__name__}: {error}",
            "Pass a reference such as model.py:Net, or a function that returns the model.",
        ) from None


def _computed(model: nn.Module) -> list[torch.Tensor]:
    """What modules keep beside their parameters that was computed of them: the `weight` of torch.nn.utils.weight_norm,
    spectral_norm and prune, which torch refuses to copy (Tensor.__deepcopy__). No view, which is to stay one."""
    attributes = (value for module in model.modules() for value in vars(module).values())
    tensors = (value for value in attributes if isinstance(value, torch.Tensor))
    return [tensor for tensor in tensors if not tensor.is_leaf and not tensor._is_view()]


def _copied(model: nn.Module, computed: Iterable[torch.Tensor]) -> nn.Module:
    """A copy, of which nothing is the model's own. torch gives a parametrized module a class of its own, and a copy has
    the same one, from which taking the parametrization away would take it from the model as well."""
    made = copy.deepcopy(model, {id(value): value.detach().requires_grad_().clone() for value in computed})
    for module in made.modules():
        if is_parametrized(module):
            kind: Any = type(module)
            names = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind)(kind.__name__, kind.__bases__, names)
    return made


def _takes_one(load: Load) -> bool:
    try:
        parameters = inspect.signature(load).parameters.values()
    except (TypeError, ValueError):
        return False
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in parameters if parameter.kind in kinds]
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    if len(required) != 1 or len(positional) == 1:
        return len(required) == 1
    return positional[0].name not in _MODELS  # load(model, path="w.pth"), but load(path, device="cpu")


_MODELS = frozenset(("model", "module", "net", "network", "m"))


def _model_of(result: object) -> nn.Module | None:
    """The module that a loader returned, alone or first among other things."""
    if isinstance(result, nn.Module):
        return result
    if isinstance(result, (tuple, list)):
        return next((item for item in result if isinstance(item, nn.Module)), None)
    return None


def _bound(result: object, left: nn.Module) -> str:
    """What takes the model out of what a loader returned, in front of its call."""
    if result is left:
        return "model = "
    names = ["model" if item is left else "_" for item in result] if isinstance(result, (tuple, list)) else []
    return f"{', '.join(names)}{',' if len(names) == 1 else ''} = " if "model" in names else ""


def _name(load: Load) -> str:
    return getattr(load, "__name__", None) or type(load).__name__


def _lists(result: object) -> tuple[list[str] | None, list[str] | None]:
    """The missing and unexpected keys that a loader returned, as `load_state_dict` and `from_pretrained` do."""
    for item in (result, *(result if isinstance(result, (tuple, list)) else ())):
        lists = item if isinstance(item, dict) else {name: getattr(item, name, None) for name in _LISTS}
        missing, unexpected = (lists.get(name) for name in _LISTS)
        if isinstance(missing, (list, set, tuple)) and isinstance(unexpected, (list, set, tuple)):
            return _ordered(missing), _ordered(unexpected)
    return None, None


_LISTS = ("missing_keys", "unexpected_keys")


def _ordered(keys: Any) -> list[str]:
    return sorted(map(str, keys)) if isinstance(keys, set) else [str(key) for key in keys]
