"""Running code and telling what it filled."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ckptdiff.following.engine import Engine
from ckptdiff.following.inert import Refused
from ckptdiff.following.labels import Source
from ckptdiff.following.looking import watch_looks
from ckptdiff.following.mode import Following, parts
from ckptdiff.following.opened_files import watched
from ckptdiff.following.origins import covered, distinct_labels
from ckptdiff.following.readers import READERS, Files
from ckptdiff.following.replay import plainly
from ckptdiff.generators import generators_kept
from ckptdiff.patches import Patches
from ckptdiff.torch_private import without_torch_dispatch


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
    result: Any = None
    raised: str | None = None
    error: BaseException | None = field(default=None, repr=False)
    doubts: dict[str, None] = field(default_factory=dict)
    opened: Mapping[str, None] = field(default_factory=dict)
    """The files of weights that code has opened by itself."""

    def unread(self) -> Iterator[str]:
        """Doubts about files that were opened past every reader."""
        for path in self.opened:
            if not self.files.knows(path) and Path(path).is_file():
                yield f"{Path(path).name} was opened by the code itself, and what it took from it is not known."

    def fills(self, module: nn.Module) -> Mapping[str, Fill]:
        """For every tensor of a module's state dict, where its values come from."""
        found: dict[str, Fill] = {}
        with without_torch_dispatch():
            state_dict = module.state_dict(keep_vars=True)
        for key, value in state_dict.items():
            if isinstance(value, torch.Tensor):
                found[key] = self.fill(value)
        return found

    def fill(self, tensor: torch.Tensor) -> Fill:
        """Where a tensor's values come from."""
        engine = self.engine
        sources: set[Source] = set()
        steps: dict[str, None] = {}
        total = filled = 0
        stretches: tuple[tuple[int, int], ...] = ()
        line = doubt = ""
        consists = parts(tensor)
        for part in consists:
            got = engine.pieces(part)
            for label in sorted(distinct_labels(got)):
                origin = engine.labels.origins[label]
                sources.update(origin.sources)
                steps.update(dict.fromkeys(origin.steps))
            total += part.numel()
            filled += min(covered(got), part.numel())
            if len(consists) == 1 and covered(got) < part.numel():
                stretches = _stretches(got)
            memory = engine.known(part)
            if memory is not None:
                line = memory.overwritten[-1][2] if memory.overwritten else line
                doubt = memory.after_look or doubt
        by: Literal["file", "part", "initial"] = "file" if filled == total else "part" if filled else "initial"
        if not total:
            by = "file"  # there is nothing to fill
        return Fill(by, tuple(sorted(sources)), tuple(steps), stretches if by == "part" else (), total, line, doubt)


def _stretches(got: Any) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for first, end, label, _ in got:
        if not isinstance(label, int):
            import numpy as np

            edges = np.flatnonzero(np.diff(np.concatenate(([0], (label != 0).astype(np.int8), [0])))) + first
            spans = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
        else:
            spans = [(first, end)]
        for low, high in spans:
            if found and found[-1][1] == low:
                found[-1] = (found[-1][0], high)
            else:
                found.append((low, high))
    return tuple(found)


@contextlib.contextmanager
def following(*, trust: bool = False) -> Iterator[Followed]:
    """Follow what runs inside the block. torch is as it was afterwards, name by name."""
    engine = Engine()
    files = Files(engine, trust=trust)
    followed = Followed(engine, files)
    patched = Patches()
    kept = contextlib.ExitStack()
    kept.enter_context(generators_kept())
    try:
        for reader in READERS:
            reader(patched, files)
        watch_looks(patched, engine)
        if "numpy" in sys.modules:
            from ckptdiff.following.arrays import watch_arrays

            watch_arrays(patched, engine)
        _follow_threads(patched, engine)
        engine.draws.watch(patched, plainly)
        with watched() as followed.opened, Following(engine):
            yield followed
        followed.doubts.update(dict.fromkeys(followed.unread()))
    finally:
        patched.undo()
        kept.close()


def ask(function: Callable[..., Any], *args: Any, trust: bool = False, **kwargs: Any) -> Followed:
    """Call a function that loads weights, and tell what it did."""
    with following(trust=trust) as followed:
        try:
            followed.result = function(*args, **kwargs)
        except Refused:
            raise
        except BaseException as error:
            followed.error = error
            followed.raised = f"{type(error).__name__}: {error}"
    return followed


def _follow_threads(patched: Patches, engine: Engine) -> None:
    """Modes hold for one thread: enter them in those that start meanwhile."""
    run = threading.Thread.run

    def followed_run(self: threading.Thread) -> None:
        with Following(engine):
            run(self)

    patched.attribute(threading.Thread, "run", followed_run)
