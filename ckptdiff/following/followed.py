"""Running code and telling what it filled."""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckptdiff.claimed.host import in_thread
from ckptdiff.errors import words_of
from ckptdiff.following.engine import Engine
from ckptdiff.following.log.replay import plainly
from ckptdiff.following.looking import watch_addresses, watch_classes, watch_looks, watch_storages
from ckptdiff.following.mode import Following, parts
from ckptdiff.following.origins.intervals import Piece, covered, distinct_labels
from ckptdiff.following.origins.labels import Source
from ckptdiff.following.readers.inert import Refused, held_in
from ckptdiff.following.readers.named_files import Files
from ckptdiff.following.readers.opened_files import in_this_thread, is_followed, watched
from ckptdiff.following.readers.recognising import made_of_words, origins_of
from ckptdiff.following.readers.tensor_files import READERS
from ckptdiff.following.readers.told_numbers import watch_functions
from ckptdiff.generators import generators_kept_once
from ckptdiff.patches import Kept, Patches
from ckptdiff.torch_private import tables_of_functions, tensor_makers


@dataclass(frozen=True, slots=True)
class Fill:
    """What became of one tensor of a model's state dict."""

    by: Literal["file", "part", "initial"]
    sources: tuple[Source, ...] = ()
    steps: tuple[str, ...] = ()
    filled: tuple[tuple[int, int], ...] = ()
    """Where only a part was filled: first element and end of every stretch that was, in row-major order."""
    numel: int = 0
    overwritten: str = ""
    """The line of code that replaced something from a file by something else."""
    doubt: str = ""
    """The line of code that wrote to it, from no file, after it had looked at values of files."""


@dataclass(slots=True)
class Followed:
    """What code did: what it returned or raised, and the engine that knows every storage."""

    engine: Engine
    files: Files
    result: object = None
    raised: str | None = None
    error: BaseException | None = field(default=None, repr=False)
    ended: bool = False
    """Whether all has run, so that no reader will read any more what was opened."""

    def call(self, function: Callable[..., object], *args: object, **kwargs: object) -> object:
        """Call what is followed, and note what it returns or raises. An interrupt is no answer, and goes on."""
        try:
            self.result = function(*args, **kwargs)
        except (Refused, KeyboardInterrupt):
            raise
        except BaseException as error:  # torch.distributed.checkpoint raises one that is no Exception
            self.note(error)
        return self.result

    def note(self, error: BaseException) -> None:
        """Take an error for what the code raised. Raises Refused where an object that only holds was at hand."""
        held = held_in(error)
        if held is not None:
            raise Refused(held) from error
        self.error = error
        self.raised = words_of(error)

    def doubts(self, fills: Mapping[str, Fill]) -> Iterator[str]:
        """Sentences on what is not known, where not all of a model was filled from files that are."""
        seen = {**self.engine.looked, **self.engine.exposed, **self.engine.numbers.taken}
        looked = ", ".join([f"{key} of {file}" if key else file for file, key in seen][:3])
        values = f"values ({looked})" if looked else "values of files"
        for key, fill in fills.items():
            if fill.doubt and fill.by != "file":
                yield f"{key}: {fill.doubt} wrote to it after the code had looked at {values}."
        if self.files.stray:
            yield f"{self.files.stray} is read by a thread that ran before, and what that did is not known."
        if self.files.opened.torn:
            yield f"{self.files.opened.torn} was written to after it had been read, and what it gave is not known."
        if all(fill.by == "file" for fill in fills.values()):
            return
        if self.engine.by_address:
            yield f"{self.engine.by_address} reached memory by its address, and what it wrote there is not known."
        if self.files.opened.child:
            yield f"{self.files.opened.child} started a process of its own, and what came from there is not known."
        if self.ended:
            yield from self.unread()

    @property
    def opened(self) -> Mapping[str, None]:
        """The files of weights that code has opened by itself."""
        return self.files.opened.read

    def unread(self) -> Iterator[str]:
        """Doubts about files that were opened past every reader."""
        said = {*self.files.past_readers, *(Path(path).name for path in self.files.opened.past_python)}
        for path in self.opened:
            real = os.path.realpath(path)
            if real not in self.files.opened.written and os.path.isfile(real) and not self.files.is_read(path):  # noqa: PTH113
                said.add(Path(path).name)
        for name in sorted(said):
            yield f"{name} was opened by the code itself, and what it took from it is not known."

    def state_dict(self, module: nn.Module) -> dict[str, object]:
        """A module's state dict as code would be given it, with what hooks make for it followed too."""
        with Following(self.engine):
            state_dict = module.state_dict(keep_vars=True)
        if self.engine.looked:  # what a hook makes just now of numbers that were looked at
            own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
            for value in state_dict.values():
                made = type(value) is torch.Tensor and id(value) not in own and not value._is_view()
                if made and self.engine.known(value) is None:
                    self.engine.doubt_new(value, "its state_dict()")
        return state_dict

    def fills(self, module: nn.Module) -> Mapping[str, Fill]:
        """For every tensor of a module's state dict, where its values come from."""
        fills: dict[str, Fill] = {}
        state_dict = self.state_dict(module)
        for key, value in state_dict.items():
            if isinstance(value, torch.Tensor):
                fills[key] = self.fill(value)
        return fills

    def fill(self, tensor: torch.Tensor) -> Fill:
        """Where a tensor's values come from."""
        if is_lazy(tensor):  # it has none, and no size
            return Fill("initial")
        engine = self.engine
        if (whole := self._whole(tensor)) is not None:
            return whole
        sources: set[Source] = set()
        steps: dict[str, None] = {}
        total = filled = 0
        stretches: tuple[tuple[int, int], ...] = ()
        line = doubt = ""
        consists = parts(tensor)
        for part in consists:
            memory = engine.known(part)
            if memory is not None:
                engine.check(memory)
            got = engine.pieces(part)
            for label in sorted(distinct_labels(got)):
                origin = engine.labels.origins[label]
                sources.update(origin.sources)
                steps.update(dict.fromkeys(origin.steps))
            total += part.numel()
            filled += min(covered(got), part.numel())
            if len(consists) == 1 and covered(got) < part.numel():
                stretches = _stretches(got)
            if memory is not None:
                line = memory.overwritten[-1][2] if memory.overwritten else line
                doubt = memory.after_look or doubt
            elif engine.looked and engine.looked.is_unseen(part):
                doubt = "a constructor such as torch.FloatTensor"
        by: Literal["file", "part", "initial"] = "file" if filled == total else "part" if filled else "initial"
        if not total:
            by = "file"  # there is nothing to fill
        return Fill(by, tuple(sorted(sources)), tuple(steps), stretches if by == "part" else (), total, line, doubt)

    def _whole(self, tensor: torch.Tensor) -> Fill | None:
        """The answer of fill() for a tensor that came from one place as it is, as nearly all do."""
        memory = self.engine.known(tensor) if type(tensor) in _ORDINARY else None
        if memory is None or memory.overwritten or memory.after_look or memory.digests:
            return None
        got = self.engine.pieces(tensor)
        if len(got) != 1:
            return None
        first, end, label, _ = got[0]
        if first or end != tensor.numel() or not isinstance(label, int) or not label:
            return None
        origin = self.engine.labels.origins[label]
        return Fill("file", tuple(sorted(origin.sources)), origin.steps, (), end)


_ORDINARY = (torch.Tensor, nn.Parameter)


def _stretches(got: Sequence[Piece]) -> tuple[tuple[int, int], ...]:
    stretches: list[tuple[int, int]] = []
    for first, end, label, _ in got:
        if not isinstance(label, int):
            import numpy as np

            edges = np.flatnonzero(np.diff(np.concatenate(([0], (label != 0).astype(np.int8), [0])))) + first
            spans = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
        else:
            spans = [(first, end)]
        for low, high in spans:
            if stretches and stretches[-1][1] == low:
                stretches[-1] = (stretches[-1][0], high)
            else:
                stretches.append((low, high))
    return tuple(stretches)


@contextlib.contextmanager
def following(*, trust: bool = False, tells: bool = False) -> Iterator[Followed]:
    """Follow what runs inside the block. torch is as it was afterwards, name by name.

    `tells`: single numbers of files are of a class of their own, so that it is known what is made of them. That is for
    code of which nothing stays: what goes on afterwards is to have plain ones.
    """
    engine = Engine()
    files = Files(engine, trust=trust, tells=tells)
    followed = Followed(engine, files)
    engine.by_bytes = lambda content: origins_of(files, content, "bytes")
    engine.by_words = partial(made_of_words, files)
    patched = Patches(taking_back=True)
    kept = contextlib.ExitStack()
    kept.enter_context(generators_kept_once())
    kept.enter_context(_true_tables())
    try:
        with patched.gathering():
            for reader in READERS:
                reader(patched, files)
            watch_looks(patched, engine)
            watch_storages(patched, engine)
            watch_classes(patched)
            watch_addresses(patched, engine)
            watch_functions(patched)
            if "numpy" in sys.modules:
                from ckptdiff.following.array_watch import watch_arrays
                from ckptdiff.following.arrays.compiled import watch_compiled

                watch_arrays(patched, files)
                watch_compiled(patched, engine)
            _follow_threads(patched, engine)
            engine.draws.watch(patched, plainly)
        with watched(files.opened), patched.imports.watched(), Following(engine):
            yield followed
        followed.ended = True
        files.opened.look(files.is_read)
    finally:
        files.opened.watch.close()
        patched.undo()
        kept.close()


@contextlib.contextmanager
def _true_tables() -> Iterator[None]:
    """The tables that torch makes once of its own functions are to have no other that stands for one meanwhile."""
    tensor_makers()  # by which `torch.device("meta")` goes: it is asked inside, too
    made_here = [table for table in tables_of_functions() if not table.cache_info().currsize]
    try:
        yield
    finally:
        for table in made_here:
            table.cache_clear()


def ask(function: Callable[..., object], *args: object, trust: bool = False, **kwargs: object) -> Followed:
    """Call a function that loads weights, and tell what it did. Raises Refused for what the file may not make."""
    with following(trust=trust, tells=True) as followed:
        followed.files.opened.ask(*(arg for arg in args if isinstance(arg, (str, os.PathLike))))
        followed.call(function, *args, **kwargs)
    return followed


def _follow_threads(patched: Patches, engine: Engine) -> None:
    """Modes hold for one thread: enter them in those that start meanwhile, and for what a pool's are given, which may
    have run before."""

    def followed(function: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            if is_followed():
                return function(*args, **kwargs)
            with in_thread(), in_this_thread(), Following(engine):
                return function(*args, **kwargs)

        return run

    def starting(kept: Kept) -> Callable[..., object]:
        return lambda function, *rest, **options: kept.value(followed(function), *rest, **options)

    for name in ("start_new_thread", "start_joinable_thread"):
        if hasattr(_thread, name):
            kept = Kept(getattr(_thread, name))
            patched.everywhere(kept, starting(kept))

    def submit(pool: object, function: Callable[..., object], /, *args: object, **kwargs: object) -> object:
        return given(pool, followed(function) if is_followed() else function, *args, **kwargs)

    given = patched.function(ThreadPoolExecutor.submit, submit)
