"""Following a program, when to stop it, and what is concluded then."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.claimed.claiming import KINDS
from ckptdiff.claimed.questions import Asked
from ckptdiff.errors import words_of
from ckptdiff.following.followed import Followed, following
from ckptdiff.following.mode import parts
from ckptdiff.following.readers.inert import Refused
from ckptdiff.keys import Globs
from ckptdiff.loaders.left import Told, left_in
from ckptdiff.loaders.outcome import Loader, Outcome
from ckptdiff.model.machines import hosts, on
from ckptdiff.patches import Patches, patches
from ckptdiff.places import is_url
from ckptdiff.suffixes import OLD, WEIGHTS
from ckptdiff.torch_private import DispatchMode, children_of, own_parameters, without_torch_dispatch
from ckptdiff.tracing.children import Replaced
from ckptdiff.tracing.lines import from_program, line_of_error, line_of_frame, line_of_program, shown, source_of
from ckptdiff.tracing.options import FIRST_CALL, TraceOptions
from ckptdiff.tracing.overlay import Overlay
from ckptdiff.tracing.paths import other_paths
from ckptdiff.tracing.program import Program
from ckptdiff.tracing.said import Said
from ckptdiff.tracing.saving import saved_aside
from ckptdiff.tracing.scene import Scene
from ckptdiff.tracing.surroundings import RANK, STAND_INS, no_network
from ckptdiff.tracing.trace import Trace, TracedError, TracedFile, TracedModel, TracedSave, TracedState, allowed
from ckptdiff.tracing.watch import Watch

_LOOKED_THROUGH = 200
"""Parameters of a module that are looked at to tell whether it holds something of a file."""
_COMPUTES = frozenset((
    "addmm", "bmm", "convolution", "embedding", "linear", "mm", "native_batch_norm", "native_layer_norm",
    "scaled_dot_product_attention",
))  # fmt: skip
"""Operations by which a model is known to be called, be it by its `forward`."""


class Stopped(BaseException):
    """Ends the program at the point it was to come to. No Exception, lest it be caught."""


class Tracing:
    """A program, or a block of code, while it is followed. `stop` is called when it is to end, in whatever thread; it
    may end the process. Where it returns, the code is left by an exception."""

    def __init__(self, options: TraceOptions, name: str, stop: Callable[[], None] | None = None) -> None:
        self._options = options
        self._name = name
        self._stop = stop
        self._place = options.place()
        self._notes: dict[str, None] = {}
        self._followed: Followed | None = None
        self._watch: Watch | None = None
        self._called: dict[int, int] = {}
        self._asked = Asked()
        self._said = Said()
        self._process = os.getpid()
        self.ended = "end"
        self.line = ""
        self.error: BaseException | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Follow what runs inside the block. torch is as it was afterwards."""
        machine = on(hosts(self._options.device), self._asked, "cpu")
        with following(trust=self._options.trust) as followed, machine, patches() as patched:
            self._followed, self._watch = followed, Watch(followed)
            self._watch.start(patched)
            scene = Scene(
                patched, self._watch, self._tell, Overlay(self._options.maps, self._tell, self._options.aside)
            )
            with patched.gathering():
                for stand_in in STAND_INS if self._options.network else (*STAND_INS, no_network):
                    stand_in(scene)
                other_paths(scene)
                saved_aside(scene)
            with patched.imports.watched(), self._stopping(patched):
                yield

    def run(self, program: Program) -> None:
        """Run a program, inside `active`, and note how it ends."""
        if program.launched:
            os.environ.update(RANK)
        try:
            with self._said.listening():
                program.run()
        except Stopped:
            return
        except Replaced as replaced:
            self.ended, self.line = "replaced by another program", line_of_error(replaced.__traceback__)
        except Refused as refused:
            self.ended = "raised"
            self.error = refused
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            self.ended, self.line = f"exit {code}", line_of_error(error.__traceback__)
            if code:
                self.error = error
        except BaseException as error:
            self.raised(error)
            with contextlib.suppress(OSError, ValueError):
                traceback.print_exception(type(error), error, from_program(error.__traceback__))

    def raised(self, error: BaseException) -> None:
        """Note that it ended in an error."""
        self.ended, self.line, self.error = "raised", line_of_error(error.__traceback__), error

    @contextlib.contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """End what runs inside the block when its time is over; 0 for no limit. For a process that `stop` ends."""
        main = threading.get_ident()

        def over() -> None:
            frame = sys._current_frames().get(main)
            self.ended, self.line = "time limit", line_of_frame(frame)
            if self._stop is not None:
                self._stop()

        timer = threading.Timer(seconds, over)
        timer.daemon = True
        if seconds:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _tell(self, sentence: str) -> None:
        self._notes[sentence] = None

    # When to stop

    @contextlib.contextmanager
    def _stopping(self, patched: Patches) -> Iterator[None]:
        if self._place is not None:
            previous = sys.gettrace()
            sys.settrace(self._tracing)
            patched.also(lambda: sys.settrace(previous))
        if self._options.until != FIRST_CALL:
            yield
            return
        call = nn.Module.__call__

        def called(module: nn.Module, *args: object, **kwargs: object) -> object:
            self._look(module)
            return call(module, *args, **kwargs)

        patched.attribute(nn.Module, "__call__", called)
        with _Forward(self):
            yield

    def _look(self, module: nn.Module) -> None:
        """Stop where a module that is called holds something of a file; any, where files were read in vain."""
        watch, followed = self._watch, self._followed
        assert watch is not None
        assert followed is not None
        read = len(followed.engine.read)
        if not read or self._called.get(id(module)) == read or self._is_constructing() or not self.is_here:
            return
        self._called[id(module)] = read
        if self._holds(module) or (_first_parameter(module) is not None and not any(map(self._holds, watch.modules()))):
            self._end(f"first call of {type(module).__name__}")

    def _holds(self, module: nn.Module) -> bool:
        engine = self._followed.engine if self._followed else None
        assert engine is not None
        with without_torch_dispatch():
            for count, tensor in enumerate(module.parameters()):
                if count == _LOOKED_THROUGH:
                    return False
                for part in parts(tensor):
                    if any(not is_url(file) for file, _ in engine.sources(part)):
                        return True
        return False

    def _is_constructing(self) -> bool:
        """Whether a module is called while another one is made, or while its weights are set."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_name == "__init__" and frame.f_code.co_argcount:
                owner = frame.f_locals.get(frame.f_code.co_varnames[0])
                if isinstance(owner, nn.Module):
                    return True
            frame = frame.f_back
        return False

    def computing(self) -> None:
        """Stop where an operation is that of a module whose `forward` was called directly."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if code.co_name == "forward" and code.co_argcount:
                owner = frame.f_locals.get(code.co_varnames[0])
                if isinstance(owner, nn.Module):
                    self._look(owner)
                    return
            frame = frame.f_back

    def _tracing(self, frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG002 - as sys.settrace calls it
        assert self._place is not None
        return self._tracing_line if os.path.realpath(frame.f_code.co_filename) == self._place[0] else None

    def _tracing_line(self, frame: FrameType, event: str, argument: object) -> object:  # noqa: ARG002
        assert self._place is not None
        if event == "line" and self.is_here and frame.f_lineno == self._place[1]:
            self._end(f"{shown(frame.f_code.co_filename)}:{frame.f_lineno}")
        return self._tracing_line

    @property
    def is_here(self) -> bool:
        """Whether this is the process that is followed, and not one that it was forked into."""
        return os.getpid() == self._process

    def _end(self, how: str) -> NoReturn:
        self.ended, self.line = how, line_of_program()
        if self._stop is not None:
            self._stop()
        raise Stopped(how)

    # What is concluded

    def of(self, module: nn.Module) -> TracedModel:
        """What checkpoints left in a module."""
        return self._model(module)

    def concluded(self, arguments: tuple[str, ...] = ()) -> Trace:
        """All that is known by now; `arguments` are those of the command line."""
        followed, watch = self._followed, self._watch
        assert followed is not None
        assert watch is not None
        with without_torch_dispatch():
            models = tuple(self._model(module) for module in self._roots())
        models = tuple(model for model in models if model.outcome.filled)
        states, saved = tuple(watch.restored), tuple(watch.saved)
        unread = tuple(followed.unread())
        doubts = tuple(doubt for model in models for doubt in model.outcome.doubts)
        error = self.error
        errors = tuple(
            TracedError(failure.text, failure.line, failure.error is not error)
            for failure in watch.failures
            if not failure.recovered
        )
        return Trace(
            self._name,
            self.ended,
            self.line,
            _text(error),
            errors,
            models,
            states,
            tuple(self._files(models, states, saved)),
            saved,
            self._unopened(arguments),
            tuple(kind for kind in self._options.good or () if kind not in {model.kind for model in models}),
            tuple(self._notes),
            tuple(followed.engine.looked),
            self._wanted(),
            unread,
            tuple(doubt for doubt in dict.fromkeys(doubts) if doubt not in unread),
            self._said.last,
            source_of(self.line),
            tuple(watch.children),
            Globs(self._options.allow).idle("allow", (key for model in models for key in model.outcome.filled)),
        )

    def _wanted(self) -> str:
        """The kind of device that the program did not find here, or that it may have ended for want of."""
        if self._options.device is not None:
            return ""
        kinds: list[str] = []
        if self.error is not None:
            kinds += self._asked.needs
            kinds += ["cuda" for word in ("CUDA", "NVIDIA") if word in str(self.error)]
        if not kinds and self.ended != "time limit" and not self._followed_any():
            kinds += [kind for question in self._asked.questions for kind in KINDS if f".{kind}." in question]
        return next(iter(kinds), "")

    def _followed_any(self) -> bool:
        return self._followed is not None and bool(self._followed.engine.read or self._followed.opened)

    def _roots(self) -> list[nn.Module]:
        """The modules that are part of no other, each with what it has of another's parameters counted there."""
        watch = self._watch
        assert watch is not None
        modules = watch.modules()
        known = {id(module) for module in modules}
        # A pickled module was made past its constructor. What somebody else has made is nobody's business.
        others = [item for item in gc.get_objects() if issubclass(type(item), nn.Module) and id(item) not in known]
        modules += [module for module in others if "_modules" in vars(module) and self._holds(module)]
        modules = [module for module in modules if "_modules" in vars(module)]
        inside = {id(child) for module in modules for child in children_of(module).values() if child is not None}
        roots = [module for module in modules if id(module) not in inside]
        sizes = {id(root): sum(1 for _ in root.parameters()) for root in roots}
        taken: set[int] = set()
        chosen: set[int] = set()
        for root in sorted(roots, key=lambda root: -sizes[id(root)]):
            own = {id(parameter) for parameter in root.parameters()}
            if own and own <= taken and id(root) not in watch.asked:
                continue  # a view of another model: a list of its layers, an optimizer's wrapper
            taken |= own
            chosen.add(id(root))
        return [root for root in roots if id(root) in chosen]

    def _model(self, module: nn.Module) -> TracedModel:
        followed, watch = self._followed, self._watch
        assert followed is not None
        assert watch is not None
        loaded = {
            f"{name}." if name else "": watch.keys[id(child)]
            for name, child in module.named_modules(remove_duplicate=False)
            if id(child) in watch.keys
        }
        loader = Loader("program", "", self._name, "followed")
        files = Checkpoint(", ".join(followed.files.order), "", {})
        outcome = left_in(module, followed, loader, Told(), files, reference=type(module).__name__).outcome
        late = {key for key in outcome.filled if _is_late(key, loaded)}
        outcome = replace(
            outcome,
            filled={key: item for key, item in outcome.filled.items() if key not in late},
            problems=tuple(problem for problem in outcome.problems if problem.key not in late),
        )
        kind = type(module).__name__
        good = self._options.good or {}
        may = allowed(tuple(outcome.filled), self._options.allow) | good.get(kind, frozenset())
        asked = bool(loaded) or _reached(outcome) or kind in good
        return TracedModel(kind, watch.lines.get(id(module), ""), outcome, asked, may)

    def _files(
        self, models: tuple[TracedModel, ...], states: tuple[TracedState, ...], saved: tuple[TracedSave, ...]
    ) -> Iterator[TracedFile]:
        followed = self._followed
        assert followed is not None
        used = {source for model in models for item in model.outcome.filled.values() for source in item.sources}
        used |= {source for save in saved for sources in save.tensors.values() for source in sources}
        optimizers = {file for state in states for file in state.sources}
        for file, keys in followed.files.order.items():
            unused = [
                key
                for key in keys
                if (file, key) not in used
                and followed.files.aliases.get((file, key)) not in used
                and not (file in optimizers and _is_state(key))
            ]
            yield TracedFile(file, len(keys), tuple(unused))

    def _unopened(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        followed = self._followed
        assert followed is not None
        unopened = []
        for argument in arguments:
            path = argument.partition("=")[2] if argument.startswith("-") else argument
            if path.lower().endswith((*WEIGHTS, *OLD)) and Path(path).is_file():
                known = followed.files.knows(path) or os.path.realpath(path) in map(os.path.realpath, followed.opened)
                if not known:
                    unopened.append(path)
        return tuple(unopened)


class _Forward(DispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operations that models compute with."""

    def __init__(self, tracing: Tracing) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracing = tracing

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        if func.overloadpacket.__name__ in _COMPUTES:
            self._tracing.computing()
        return func(*args, **(kwargs or {}))


def _first_parameter(module: nn.Module) -> nn.Parameter | None:
    """A parameter of a module, None where it has none."""
    return next(
        (value for node in module.modules() for value in own_parameters(node).values() if value is not None), None
    )


def _is_state(key: str) -> bool:
    return "/state/" in f"/{key}"


def _reached(outcome: Outcome) -> bool:
    return any(not is_url(file) for item in outcome.filled.values() for file, _ in item.sources)


def _is_late(key: str, loaded: dict[str, frozenset[str]]) -> bool:
    """Whether a key was made after what it is part of was loaded."""
    under = [prefix for prefix in loaded if key.startswith(prefix)]
    return bool(under) and not any(key[len(prefix) :] in loaded[prefix] for prefix in under)


def _text(error: BaseException | None) -> str | None:
    if error is None:
        return None
    if isinstance(error, Refused):
        return f"it needs an object of the class {error.name}, which a file names and nothing here makes"
    return words_of(error)
