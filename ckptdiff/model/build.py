"""From a reference to an `nn.Module`, in the cheapest way its code allows.

Three ways are tried in turn: on the meta device, where tensors have no memory; on the CPU with large tensors left
untouched, which the system then never commits; and as anybody would. A way counts only if nothing happened that may
have let the code go another way than plainly; so all three give the same state-dict schema.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ckptdiff.claimed.host import Machine
from ckptdiff.claimed.questions import Asked
from ckptdiff.errors import CkptdiffError, ModelError, UsageError
from ckptdiff.model import libraries as sources
from ckptdiff.model import model_choice as obvious
from ckptdiff.model import suspects, user_code
from ckptdiff.model.kernels import Kernels, Unmade
from ckptdiff.model.machines import HERE, Host, hosts, on
from ckptdiff.model.meta_building import on_meta
from ckptdiff.model.past_modes import Watch
from ckptdiff.model.reference import Reference, parse_reference
from ckptdiff.model.sandbox import contained
from ckptdiff.model.uncommitted import uncommitted
from ckptdiff.spelling import option, options
from ckptdiff.torch_private import without_torch_function

How = Literal["meta", "uninitialized", "plain"]

_WAYS: tuple[How, ...] = ("meta", "uninitialized", "plain")


@dataclass(frozen=True, slots=True)
class Built:
    """A model as its code built it. `how` names the way; `notes` says why not a cheaper one; `remarks`, where
    it is not what was asked for.

    Parameters and buffers have their shapes, dtypes and ties, but only after `plain` their values. After `meta`,
    """

    module: nn.Module
    reference: str
    how: How
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    ready: bool = False
    """Whether the reference names the module itself, rather than what makes it."""
    host: Host = HERE
    """The machine that it was built on."""
    home: user_code.Home | None = field(default=None, repr=False, compare=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run more of the model's code, its load hooks say: contained as the build was, and finding what it imports."""
        with contained(self.reference), user_code.importing(self.home):
            yield


@dataclass(frozen=True, slots=True)
class _Failure:
    """What became of one way, kept as text so that the model it left behind can be freed."""

    error: CkptdiffError
    cause: str
    doubts: tuple[str, ...]
    final: bool
    lacking: bool = False
    """Whether it was for a package that something can stand in for."""


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be built, on which machine, and with what in the place of packages that are not there."""

    reference: Reference
    home: user_code.Home | None
    args: Mapping[str, object]
    host: Host
    asked: Asked
    kernels: Kernels


def build(
    reference: Reference | str,
    args: Mapping[str, object] | None = None,
    *,
    with_values: bool = False,
    host: Host | None = None,
    asked: Asked | None = None,
) -> Built:
    """Build the model a reference names, with keyword arguments `args`; plainly at once if its values are wanted; as on
    `host`, noting in `asked` what it asks of the machine.

    Its code runs in this process, contained as far as a process allows (see `sandbox.contained`).

    Raises ModelError when there is no such model or its code fails, UsageError when the reference or the arguments do
    not fit. KeyboardInterrupt passes.
    """
    if isinstance(reference, str):
        reference = parse_reference(reference)
    if reference.kind == "snapshot":
        raise UsageError(
            f"{reference.text} is a snapshot, not a model's code.", "It is read without building anything."
        )
    kernels, ways = Kernels(), _WAYS[-1:] if with_values else _WAYS
    order = _Order(reference, home_of(reference), args or {}, host or hosts(None), asked or Asked(), kernels)
    while True:
        try:
            built = _built_in(ways, order)
            kernels.made(built.module)
        except _Lacking:
            continue
        except ModelError:
            if (refusal := kernels.refusal()) is not None:
                raise refusal from None
            raise
        finally:
            kernels.forget()
        if kernels.needed and (refusal := kernels.refusal()) is not None:
            raise refusal
        return built


class _Lacking(Exception):  # noqa: N818 - another way is tried
    """Something can stand in for what could not be imported."""


def _built_in(ways: tuple[How, ...], order: _Order) -> Built:
    """The model, in the first way that counts. Raises ModelError where it has none, _Lacking where it may yet."""
    notes: list[str] = []
    failures: list[_Failure] = []
    for way in ways:
        outcome = _attempt(order, way)
        if isinstance(outcome, Built):
            return replace(outcome, notes=tuple(notes), home=order.home)
        if order.home is not None:
            order.home.forget()
        if way == "uninitialized":
            gc.collect()  # what was written after all, before memory is needed in earnest
        if outcome.lacking:
            raise _Lacking
        repeated = bool(failures) and not outcome.doubts and failures[-1].cause == outcome.cause
        if outcome.final or repeated or way == _WAYS[-1]:
            raise outcome.error
        failures.append(outcome)
        notes.append(f"Not built {_LABELS[way]}: {(outcome.doubts or (outcome.cause,))[0]}.")
    raise AssertionError("the last way returns or raises")


_LABELS = {"meta": "on the meta device", "uninitialized": "with untouched memory"}


@contextlib.contextmanager
def _way(how: How) -> Iterator[tuple[Watch | None, user_code.Pause]]:
    """Prepare torch for one way of building; yields what watches over it and what suspends the way."""
    if how == "meta":
        with on_meta() as state:
            yield state
    elif how == "uninitialized":
        with uncommitted() as state:
            yield state
    else:
        yield None, contextlib.nullcontext


def _attempt(order: _Order, how: How) -> Built | _Failure:
    reference, home, host = order.reference, order.home, order.host
    doubts: list[str] = []
    stage = _Stage(f"{reference.target}: importing it" if home else f"{reference.text}: looking it up")
    try:
        with (
            contained(reference.target),
            _way(how) as (watch, pause),
            on(host, order.asked, "meta" if how == "meta" else "cpu") as machine,
            user_code.importing(home, pause := _paused(pause, machine)),
            order.kernels.finder.found(),
        ):
            built: Built | None = None
            try:
                built = _make(reference, home, order.args, how, pause, stage)
            finally:  # for the code may have failed by what it saw
                if watch is not None:
                    doubts = [*watch.doubts, *_suspicions(home, built, watch, how)]
                    if getattr(watch, "names_meta", False):
                        doubts.append("code of the model's own puts tensors on the meta device")
            if doubts:
                raise _Doubtful
            return replace(built, host=host)
    except KeyboardInterrupt:
        raise
    except _Doubtful:
        return _Failure(ModelError(f"{reference.text}: building it failed."), doubts[0], tuple(doubts), final=False)
    except CkptdiffError as error:
        error.__traceback__ = None
        return _Failure(error, error.message, tuple(doubts), final=not doubts)
    except BaseException as error:  # SystemExit, and whatever else the user's code leaves with
        cause, shown = _one_line(error), failed(stage.doing, error)
        final = isinstance(error, (SyntaxError, ImportError)) and not doubts
        return _Failure(shown, cause, tuple(doubts), final, order.kernels.stands_in(shown, error))


def _paused(pause: user_code.Pause, machine: Machine | None) -> user_code.Pause:
    """What suspends a way of building, and the claims of a machine with it."""
    if machine is None:
        return pause

    @contextlib.contextmanager
    def both() -> Iterator[None]:
        with machine.paused(), without_torch_function(), pause():
            yield

    return both


def _suspicions(home: user_code.Home | None, built: Built | None, watch: Watch, how: How) -> list[str]:
    """What the code of a model may have seen of the way it was built, as far as its source tells."""
    modules = {} if home is None else home.imported()
    if built is not None:
        modules.update({module.__name__: module for module in suspects.modules_of(built.module)})
    modules.update((name, sys.modules[name]) for name in watch.addressed if name in sys.modules)
    return suspects.suspicious(modules.values(), meta=how == "meta", addressed=bool(watch.addressed))


class _Doubtful(Exception):  # noqa: N818 - a way out, not an error
    """The build went through, but perhaps not as it would have plainly."""


class _Stage:
    """What is being done, for the message if it fails."""

    def __init__(self, doing: str) -> None:
        self.doing = doing


def home_of(reference: Reference) -> user_code.Home | None:
    """Where the user's code that a reference names is imported from; None where a library defines the model."""
    if reference.kind == "module":
        return user_code.Home(Path.cwd(), reference.target)
    if reference.kind != "file":
        return None
    path = Path(reference.target).expanduser()
    if path.is_dir():
        raise ModelError(f"{reference.target} is a directory.", "Name the Python file that defines the model.")
    if not path.is_file():
        raise ModelError(f"{reference.target}: there is no such file.", _neighbour(path))
    return user_code.Home.of_file(path)


def _neighbour(path: Path) -> str:
    with contextlib.suppress(OSError):
        close = user_code.did_you_mean(path.name, [other.name for other in path.parent.glob("*.py")])
        if close:
            return f"Did you mean `{path.with_name(close)}`?"
    return "Check the path; it is relative to the current directory."


def _make(
    reference: Reference,
    home: user_code.Home | None,
    args: Mapping[str, object],
    how: How,
    pause: user_code.Pause,
    stage: _Stage,
) -> Built:
    if home is None:
        with pause():
            recipe = sources.recipe(reference, args)
        stage.doing = f"{reference.text}: building it"
        with sources.offline():
            return _built(reference.text, _call(recipe.make, recipe.args, reference.text), how, recipe.remarks)
    present = home.name in sys.modules  # the caller's own, which is not run again
    module = home.load()
    where = reference.target
    attr = reference.attr or obvious.obvious(module, Path(reference.target).expanduser(), where, args)
    name = f"{where}:{attr}"
    value = user_code.take(module, attr, where)
    if isinstance(value, nn.Module):
        if args:
            raise UsageError(
                f"{name} is a module already made, which takes no {option('args')}.", "Name its class or a factory."
            )
        outside = present or not user_code.is_users(getattr(module, "__file__", None), home.directory)
        return replace(_built(name, value, "plain" if outside else how, ()), ready=True)
    if isinstance(value, type) and not issubclass(value, (nn.Module, Unmade)):
        raise ModelError(f"{name} is a class, but no nn.Module.", "Name a subclass of nn.Module or a function.")
    if not callable(value):
        raise ModelError(
            f"{name} is of type {type(value).__name__}, which is no model.",
            "Name an nn.Module instance, a subclass, or a function that returns one.",
        )
    stage.doing = f"{where}: building {attr}"
    return _built(name, _call(value, args, name), how, ())


def _built(name: str, value: object, how: How, remarks: tuple[str, ...]) -> Built:
    if isinstance(value, nn.Module):
        return Built(value, name, how, remarks=remarks)
    hint = "Write a function that returns the nn.Module alone."
    if value is None:
        hint = "Does the function end with `return model`?"
    elif isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) for item in value.values()):
        hint = "That looks like a state dict; return the module itself."
    raise ModelError(f"{name} returned {_described(value)}, not an nn.Module.", hint)


def _described(value: object) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"an {kind}" if kind[0].lower() in "aeiou" else f"a {kind}"


def _call(make: Callable[..., object], args: Mapping[str, object], name: str) -> object:
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # a callable written in C tells nothing
        return make(**args)
    try:
        signature.bind(**args)
    except TypeError:
        raise _misfit(signature, args, name) from None
    return make(**args)


def _misfit(signature: inspect.Signature, args: Mapping[str, object], name: str) -> CkptdiffError:
    """What is wrong with arguments that `signature` refuses."""
    named = {
        parameter.name: parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    unknown = [] if takes_any else [arg for arg in args if arg not in named]
    if unknown:
        close = user_code.did_you_mean(unknown[0], list(named))
        hint = f"Did you mean `{close}`? " if close else ""
        listed = ", ".join(f"`{parameter}`" for parameter in named.values())
        return UsageError(
            f"{name} takes no argument `{unknown[0]}`.", hint + (f"It takes {listed}." if named else "It takes none.")
        )
    positional = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind == parameter.POSITIONAL_ONLY and parameter.default is parameter.empty
    ]
    if positional:
        return ModelError(
            f"{name} takes `{positional[0]}` by position only, which {option('args')} cannot give.",
            "Write a function without arguments that calls it.",
        )
    missing = [key for key, value in named.items() if value.default is value.empty and key not in args]
    listed = " and ".join(f"`{key}`" for key in missing)
    usage = options(args=dict.fromkeys(missing, "..."))
    return ModelError(
        f"{name} needs {listed}, which {'have' if len(missing) > 1 else 'has'} no default.", f"Add {usage}."
    )


def failed(doing: str, error: BaseException) -> ModelError:
    """What is said where code of the user's raised while something was done with it."""
    return ModelError(f"{doing} failed: {_one_line(error)}", _hint(error), detail=shortened_traceback(error))


def _one_line(error: BaseException) -> str:
    """An exception as `Type: message`, on one line of bearable length."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    try:
        text = " ".join(str(error).split())
    except Exception:  # a user's __str__ may do anything
        text = ""
    text = text[:300] + "…" if len(text) > 300 else text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _hint(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "Keep what ends the program under `if __name__ == '__main__':`."
    if isinstance(error, ModuleNotFoundError):
        return f"Install `{error.name}` in this environment, or run from the directory it is in."
    if isinstance(error, EOFError):
        return "A model's code cannot ask for input here."
    if isinstance(error, MemoryError):
        return "The model could only be built plainly, and its weights do not fit into memory."
    return "The error is in the model's own code, or in the arguments it was given."


_INTERNAL = (str(Path(__file__).resolve().parents[1]) + os.sep, str(Path(torch.__file__).resolve().parent) + os.sep)


def shortened_traceback(error: BaseException) -> str:
    """The last frames of a traceback that lie in the user's code, and the exception, as Python prints them."""
    summary = traceback.TracebackException.from_exception(error, limit=-200)
    frames = [frame for frame in summary.stack if not frame.filename.startswith((*_INTERNAL, "<frozen importlib"))]
    lines = traceback.StackSummary.from_list(frames[-12:]).format() if frames else []
    if lines:
        lines.insert(0, "Traceback (most recent call last):\n")
    return "".join([*lines, *summary.format_exception_only()]).rstrip()
