"""Carrying out what was noted: in the memory itself when somebody looks at it, or on a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from ckptdiff.following.log.memory import (
    TARGET,
    Memory,
    Operation,
    Snapshot,
    Target,
    Write,
    placed,
)
from ckptdiff.following.origins.intervals import Shape
from ckptdiff.torch_private import set_grad_enabled, without_torch_dispatch, without_torch_function

_Contents = dict[tuple[int, int], torch.Tensor]


class plainly:  # noqa: N801 - a context
    """As torch is without the modes that follow it, without gradients, and without autocasting.

    A class, since it is entered for each of tens of thousands of tensors.
    """

    __slots__ = ("_autocast", "_dispatch", "_function", "_grad")

    def __enter__(self) -> None:
        self._dispatch, self._function = without_torch_dispatch(), without_torch_function()
        self._dispatch.__enter__()  # type: ignore[no-untyped-call]
        self._function.__enter__()
        self._grad = torch.is_grad_enabled()
        if self._grad:
            set_grad_enabled(False)
        self._autocast: Any = None
        if torch.is_autocast_enabled("cpu"):
            self._autocast = torch.autocast("cpu", enabled=False)
            self._autocast.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._autocast is not None:
            self._autocast.__exit__(*error)
        if self._grad:
            set_grad_enabled(True)
        self._function.__exit__(*error)
        self._dispatch.__exit__(*error)


def settle(memory: Memory) -> None:
    """Carry out what was noted, in the memory itself."""
    if not memory.writes:
        return
    with plainly():
        contents = _evaluated([(memory, memory.version)])
        release(memory, memory.version)
        content = contents[id(memory), memory.version]
        memory.bytes().copy_(content)
    memory.writes.clear()
    memory.settled = memory.version


def before_writing(memory: Memory) -> None:
    """Give the snapshots of settled memory, which is about to be written, copies of their own."""
    with plainly():
        for taken in memory.needed():
            taken.copy = placed(memory.bytes(), taken.shape, taken.dtype).clone()
    memory.snapshots.clear()


def wrote(memory: Memory, span: tuple[int, int]) -> None:
    """Note that settled memory was written, from one byte to another."""
    memory.version += 1
    memory.settled = memory.version
    if memory.digests:
        memory.watch(span)


def value(taken: Snapshot) -> torch.Tensor:
    """The values of a snapshot. They may be the memory itself: to be read, not written."""
    if taken.copy is not None:
        return taken.copy
    with plainly():
        return placed(_content(taken, _evaluated([(taken.memory, taken.version)])), taken.shape, taken.dtype)


def release(memory: Memory, version: int) -> None:
    """Before the memory holds `version`: copies for the snapshots of earlier ones."""
    earlier = [taken for taken in memory.needed() if taken.version < version]
    if not earlier:
        return
    contents = _evaluated([(taken.memory, taken.version) for taken in earlier])
    for taken in earlier:
        taken.copy = placed(_content(taken, contents), taken.shape, taken.dtype).clone()


def _content(taken: Snapshot, contents: _Contents) -> torch.Tensor:
    content = contents.get(taken.key)
    return taken.memory.bytes() if content is None else content


def _evaluated(wanted: Iterable[tuple[Memory, int]]) -> _Contents:
    """The contents of storages at versions, without recursion: a chain of a thousand operations is an ordinary one."""
    contents: _Contents = {}
    stack = list(wanted)
    while stack:
        memory, version = stack[-1]
        if (id(memory), version) in contents:
            stack.pop()
            continue
        if version == memory.settled:
            contents[id(memory), version] = memory.bytes()
            stack.pop()
            continue
        start, writes = _since(memory, version)
        if needs := _needs(memory, start, writes, contents):
            stack.extend(needs)
            continue
        contents[id(memory), version] = _played(memory, start, writes, contents)
        stack.pop()
    return contents


def _since(memory: Memory, version: int) -> tuple[int, list[Write]]:
    """The writes that make a version, from the last one that left nothing of what was there; and the version before."""
    writes = memory.writes[: version - memory.settled]
    for index in range(len(writes) - 1, -1, -1):
        if writes[index].covers:
            return memory.settled + index, writes[index:]
    return memory.settled, writes


def _needs(memory: Memory, start: int, writes: list[Write], contents: _Contents) -> list[tuple[Memory, int]]:
    needs = []
    for number, write in enumerate(writes):
        for taken in inputs(write.operation):
            if taken.copy is not None or taken.key in contents:
                continue
            itself = taken.memory is memory and taken.version == start + number
            if itself and (number or not write.covers):
                continue
            needs.append((taken.memory, taken.version))
    return needs


def _played(memory: Memory, start: int, writes: list[Write], contents: _Contents) -> torch.Tensor:
    if len(writes) == 1 and (copied := _copied(memory, writes[0])) is not None:
        return _content(copied, contents)[: memory.nbytes]
    first = writes[0]
    if first.covers:
        content = torch.empty(0 if first.fresh else memory.nbytes, dtype=torch.uint8)
    else:
        content = memory.bytes().clone()
    for number, write in enumerate(writes):

        def given(taken: Snapshot, version: int = start + number, content: torch.Tensor = content) -> torch.Tensor:
            if taken.copy is not None:
                return taken.copy
            if taken.memory is memory and taken.version == version and taken.key not in contents:
                return placed(content, taken.shape, taken.dtype)
            return placed(_content(taken, contents), taken.shape, taken.dtype)

        if write.fresh:
            content = _laid_out(_run(write.operation, given, None), write.target, memory.nbytes)
        else:
            _run(write.operation, given, placed(content, write.target.shape, write.target.dtype))
    return content


def _copied(memory: Memory, write: Write) -> Snapshot | None:
    """What a storage is a copy of, byte by byte, whose memory then does as well; None of any other."""
    operation, target = write.operation, write.target.shape
    if operation.function is not torch.ops.aten.copy_.default or not write.covers or operation.kwargs:
        return None
    taken = operation.args[1]
    if not isinstance(taken, Snapshot) or taken.copy is not None or taken.memory is memory:
        return None
    same = taken.dtype == write.target.dtype and taken.shape.size == target.size
    contiguous = taken.shape.contiguous and target.contiguous
    return taken if same and contiguous and not taken.shape.offset and not target.offset else None


def _laid_out(result: torch.Tensor, target: Target, nbytes: int) -> torch.Tensor:
    """A result's memory, laid out as that of the tensor which stood for it."""
    shape: Shape = target.shape
    same = result.storage_offset() == shape.offset and result.stride() == shape.stride and result.is_contiguous()
    if same and result.untyped_storage().nbytes() == nbytes:
        return torch.empty(0, dtype=torch.uint8).set_(result.untyped_storage(), 0, (nbytes,), (1,))
    content = torch.empty(nbytes, dtype=torch.uint8)
    placed(content, shape, target.dtype).copy_(result)
    return content


def _run(operation: Operation, given: Callable[[Snapshot], torch.Tensor], target: torch.Tensor | None) -> Any:
    args = [_real(argument, given, target) for argument in operation.args]
    kwargs = {name: _real(argument, given, target) for name, argument in operation.kwargs.items()}
    return operation.function(*args, **kwargs)


def _real(argument: Any, given: Callable[[Snapshot], torch.Tensor], target: torch.Tensor | None) -> object:
    # No function inside `_run`: one that calls itself is a cycle, which would keep the tensors until it is collected.
    if argument is TARGET:
        return target
    if isinstance(argument, Snapshot):
        return given(argument)
    if type(argument) in (list, tuple):
        return type(argument)(_real(item, given, target) for item in argument)
    return argument


def inputs(operation: Operation) -> Iterator[Snapshot]:
    """The snapshots among an operation's arguments."""
    stack: list[Any] = [*operation.args, *operation.kwargs.values()]
    while stack:
        argument = stack.pop()
        if isinstance(argument, Snapshot):
            yield argument
        elif type(argument) in (list, tuple):
            stack.extend(argument)
