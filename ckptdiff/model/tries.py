"""A model's constructor, called again and again with other arguments: what keys and shapes it would have.

Where the model could be built on the meta device, its tensors are made there and never initialised: a sketch, which
whoever goes by it holds against the model as it is built for good. A model of many more tensors than either side has,
and one that takes too long, is given up while it is being made.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from ckptdiff.claimed.questions import Asked
from ckptdiff.errors import CkptdiffError
from ckptdiff.model import libraries, user_code
from ckptdiff.model.build import Built
from ckptdiff.model.extract import extract
from ckptdiff.model.machines import on
from ckptdiff.model.reference import Reference
from ckptdiff.model.sandbox import contained
from ckptdiff.model.uncommitted import uncommitted
from ckptdiff.torch_private import tensor_makers, without_torch_function

Shapes = Mapping[str, tuple[int, ...]]

_APART = re.compile(
    r"pretrain|weights|checkpoint|ckpt|path|file|url|download|cache|save|load|device|cuda|gpu|dtype|seed|verbose|debug"
    r"|progress|compile|script|export",
    re.IGNORECASE,
)
"""Arguments that have nothing to do with sizes, and of which another value may fetch something or take long."""
_MOST_TIMES = 2
"""As many modules and tensors as the larger side may have, and more: what goes beyond is given up."""
_FEW = 100


class Enough(BaseException):
    """Raised within a constructor that makes too much or takes too long; not for it to catch."""


class Tries:
    """The constructor of a model that was built, to be called with other arguments within `trying`."""

    def __init__(self, reference: Reference, args: Mapping[str, object], built: Built, seconds: float) -> None:
        self._reference = reference
        self._args = args
        self._built = built
        self._seconds = seconds
        self._end = 0.0
        self._registered = 0
        self._most = 0

    def now(self) -> dict[str, object]:
        """The arguments that may be given, with the values that they have; those without one are left out."""
        values: dict[str, object] = {}
        for name, value in _parameters(self._reference, self._make(), self._args, self._built.module):
            if not _APART.search(name):
                values.setdefault(name, self._args.get(name, value))
        return values

    @contextlib.contextmanager
    def trying(self, keys: int) -> Iterator[Callable[[Mapping[str, object]], Shapes | None]]:
        """What gives the shapes of the model with some arguments replaced, None where it does not build or has far more
        than so many `keys`. Raises TimeoutError at the end of the time."""
        built, home = self._built, self._built.home
        usual = sum(1 for _ in built.module.modules())
        tree = len(extract(built.module).shapes())
        self._most = _MOST_TIMES * (usual + tree) * max(keys, tree) // max(tree, 1) + _FEW
        self._end = time.monotonic() + self._seconds
        with (
            contained(self._reference.target),
            _way(built.how) as pause,
            on(built.host, Asked(), "meta" if built.how == "meta" else "cpu"),
            user_code.importing(home, pause),
            libraries.offline(),
            _counted(self._count),
        ):
            yield self._shapes

    def _make(self) -> Callable[..., object]:
        """What makes the model of arguments: the user's class or function, or a library's."""
        home = self._built.home
        if home is None:
            return self._made_by_library
        # What was run from a file stays in `sys.modules`, under a name that nobody else has.
        module = home.modules.get(home.name) or sys.modules[home.name]
        attr = self._built.reference.rpartition(":")[2]
        make: Any = user_code.take(module, attr, self._reference.target)
        return cast("Callable[..., object]", make)

    def _made_by_library(self, **args: object) -> object:
        recipe = libraries.recipe(self._reference, args)
        return recipe.make(**recipe.args)

    def _shapes(self, values: Mapping[str, object]) -> Shapes | None:
        if time.monotonic() > self._end:
            raise TimeoutError
        self._registered = 0
        quiet = io.StringIO()
        try:
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                model = self._make()(**{**self._args, **values})
                return extract(model).shapes() if isinstance(model, nn.Module) else None
        except KeyboardInterrupt:
            raise
        except BaseException:  # SystemExit, Enough, and whatever else the user's code leaves with
            if time.monotonic() > self._end:
                raise TimeoutError from None
            return None

    def _count(self, *_: object) -> None:
        """Called with everything that a module is given."""
        self._registered += 1
        if self._registered > self._most or time.monotonic() > self._end:
            raise Enough


class _Sketch(TorchFunctionMode):
    """Puts new tensors on the meta device, and leaves out what would initialise them."""

    def __init__(self) -> None:
        super().__init__()
        self._makers = tensor_makers()
        self._idle = {getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and name[0] != "_"}
        self._idle |= {getattr(torch.Tensor, name) for name in dir(torch.Tensor) if _FILLING.fullmatch(name)}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._makers:
            if kwargs.get("device") is None:
                kwargs["device"] = "meta"
        elif func in self._idle:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


_FILLING = re.compile(r"(?:uniform|normal|zero|fill|clamp|erfinv|mul|div|add|sub|bernoulli|exponential|random)_")


@contextlib.contextmanager
def _way(how: str) -> Iterator[user_code.Pause]:
    if how == "uninitialized":
        with uncommitted() as (_, pause):
            yield pause
    else:
        with _Sketch() if how == "meta" else contextlib.nullcontext():
            yield without_torch_function


@contextlib.contextmanager
def _counted(count: Callable[..., None]) -> Iterator[None]:
    hooks = [
        register(count)
        for register in (
            register_module_module_registration_hook,
            register_module_parameter_registration_hook,
            register_module_buffer_registration_hook,
        )
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _parameters(
    reference: Reference, make: Callable[..., object], args: Mapping[str, object], module: nn.Module
) -> Iterator[tuple[str, object]]:
    """The named arguments and their defaults; those that are handed on to the class of the model among them."""
    if reference.kind == "hf":
        config: Any = getattr(module, "config", None)
        yield from (config.to_dict() if config is not None else {}).items()
        if hasattr(config, "num_labels"):
            yield "num_labels", config.num_labels
        return
    given: list[Any] = [make]
    if reference.kind in ("torchvision", "timm"):
        with contextlib.suppress(CkptdiffError):
            given = [libraries.recipe(reference, args).make]
    further = [vars(cls)["__init__"] for cls in type(module).__mro__ if "__init__" in vars(cls)]
    for callable_ in (*given, *further):
        try:
            parameters = inspect.signature(callable_).parameters.values()
        except (TypeError, ValueError):  # a callable written in C tells nothing
            return
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                if parameter.default is not parameter.empty:
                    yield parameter.name, parameter.default
                elif parameter.name in args:
                    yield parameter.name, args[parameter.name]
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            return
