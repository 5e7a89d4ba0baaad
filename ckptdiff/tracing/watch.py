"""What a program does with models and checkpoints: what it makes, what it loads into what, what it would save."""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ckptdiff.errors import words_of
from ckptdiff.following.followed import Followed
from ckptdiff.following.mode import parts
from ckptdiff.following.readers.named_files import named_tensors
from ckptdiff.patches import Patches
from ckptdiff.torch_private import children_of, non_persistent_buffers, own_buffers, own_parameters
from ckptdiff.tracing.lines import line_of_error, line_of_program
from ckptdiff.tracing.trace import TracedSave, TracedState

Sources = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Failure:
    """An error that loading raised: its text, the program's line, and the error itself.

    `subject` is what was loaded, or loaded into; `recovered`, that the same worked later.
    """

    text: str
    line: str
    error: BaseException = field(repr=False)
    subject: object = None
    recovered: bool = False


class Watch:
    """Notes on a program while it runs, under `following`."""

    def __init__(self, followed: Followed) -> None:
        self.followed = followed
        self.failures: list[Failure] = []
        self.restored: list[TracedState] = []
        self.saved: list[TracedSave] = []
        self.children: dict[str, None] = {}
        """Processes that the program started and that nobody follows."""
        self.asked: dict[int, nn.Module] = {}
        """The modules into which something of a file was loaded, or should have been."""
        self.lines: dict[int, str] = {}
        """Where each module was made, by identity."""
        self._made: list[weakref.ref[nn.Module]] = []
        self.keys: dict[int, frozenset[str]] = {}
        """The keys of those modules as they stood then, by identity."""

    def modules(self) -> list[nn.Module]:
        """Every module that is still there, and those into which something was loaded, in the order they were made."""
        alive = {id(module): module for reference in self._made if (module := reference()) is not None}
        return list((alive | self.asked).values())

    @contextlib.contextmanager
    def trying(self, subject: object) -> Iterator[None]:
        """Note what loading raises, and that it worked at last."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) and not any(failure.error is error for failure in self.failures):
                text = words_of(error)
                line = line_of_error(error.__traceback__) or line_of_program()
                self.failures.append(Failure(text, line, error, subject))
            raise
        for failure in self.failures:
            failure.recovered |= failure.subject == subject

    def sources(self, tensor: torch.Tensor) -> Sources:
        """Where a tensor comes from."""
        sources = (self.followed.engine.sources(part) for part in parts(tensor))
        return tuple(sorted(frozenset().union(*sources)))

    # What it looks at

    def start(self, patched: Patches) -> None:
        """Look at what the program does, until `patched` is undone."""
        self._modules_made(patched)
        self._loading(patched)
        self._state_loaders(patched)

    def _modules_made(self, patched: Patches) -> None:
        made, lines = self._made, self.lines
        initialise = nn.Module.__init__

        @functools.wraps(initialise)
        def __init__(self: nn.Module, *args: object, **kwargs: object) -> None:  # noqa: N807
            made.append(weakref.ref(self))
            lines[id(self)] = line_of_program(past=self)
            initialise(self, *args, **kwargs)

        patched.attribute(nn.Module, "__init__", __init__)

    def _loading(self, patched: Patches) -> None:
        def load_state_dict(module: nn.Module, state_dict: object, *args: object, **kwargs: object) -> object:
            if self._is_of_file(state_dict):
                self.asked[id(module)] = module
                self.keys[id(module)] = frozenset(names_of(module))
            with self.trying(id(module)):
                return original(module, state_dict, *args, **kwargs)

        original = patched.function(nn.Module.load_state_dict, load_state_dict)

        def reading(function: Callable[..., object]) -> None:
            def read(f: object, *args: object, **kwargs: object) -> object:
                with self.trying(os.path.realpath(f) if isinstance(f, (str, os.PathLike)) else id(f)):
                    return kept(f, *args, **kwargs)

            kept = patched.function(function, read)

        for function in (torch.load, torch.jit.load):
            reading(function)

    def _is_of_file(self, state_dict: object) -> bool:
        """Whether a state dict holds something of a file, or is what is left of one, which is nothing."""
        if not isinstance(state_dict, Mapping) or not self.followed.files.order:
            return False
        tensors = [value for value in state_dict.values() if isinstance(value, torch.Tensor)]
        return not tensors or any(self.sources(tensor) for tensor in tensors)

    def _state_loaders(self, patched: Patches) -> None:
        owners: list[Any] = [torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.amp.GradScaler]
        for owner in owners:
            self._state_loader(patched, owner.load_state_dict)

    def _state_loader(self, patched: Patches, function: Callable[..., object]) -> None:
        def load_state_dict(holder: object, state_dict: object, *args: object, **kwargs: object) -> object:
            kind, line, place = type(holder).__name__, line_of_program(), len(self.restored)
            with self.trying(id(holder)):
                try:
                    result = original(holder, state_dict, *args, **kwargs)
                except Exception as error:
                    failed = TracedState(kind, line, 0, 0, raised=words_of(error))
                    self.restored.insert(place, failed)
                    raise
            self.restored.insert(place, TracedState(kind, line, *self._counted(holder, state_dict)))
            return result

        original = patched.function(function, load_state_dict)

    def _counted(self, holder: object, state_dict: object) -> tuple[int, int, tuple[str, ...]]:
        """How many of a holder's entries were restored, of how many, and the files that their tensors come from."""
        if isinstance(holder, torch.optim.Optimizer):
            parameters = [parameter for group in holder.param_groups for parameter in group["params"]]
            tensors = [value for _, value in named_tensors({"": [dict(state) for state in holder.state.values()]})]
            files = {file for tensor in tensors for file, _ in self.sources(tensor)}
            return (
                sum(bool(holder.state.get(parameter)) for parameter in parameters),
                len(parameters),
                tuple(sorted(files)),
            )
        entries = len(state_dict) if isinstance(state_dict, Mapping) else 0
        return entries, entries, ()

    def note_saved(self, file: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        """Note what would have been written to a file, and where it comes from."""
        sources = {key: self.sources(tensor) for key, tensor in tensors.items()}
        self.saved.append(TracedSave(os.fspath(file), line_of_program(), sources))


def names_of(module: nn.Module) -> Iterator[str]:
    """The keys of a module's parameters and persistent buffers, without running code of its own."""
    stack = [("", module)]
    seen = {id(module)}
    while stack:
        prefix, node = stack.pop()
        transient = non_persistent_buffers(node)
        for name, value in (*own_parameters(node).items(), *own_buffers(node).items()):
            if isinstance(value, torch.Tensor) and name not in transient:
                yield prefix + name
        for name, child in children_of(node).items():
            if child is not None and id(child) not in seen:
                stack.append((f"{prefix}{name}.", child))
