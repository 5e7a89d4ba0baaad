"""The run of some code: what it sees of storages, and what becomes of each operation on them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import torch

from ckptdiff.following.file_numbers import FileNumbers
from ckptdiff.following.in_arrays import InArrays
from ckptdiff.following.kept_values import KeptValues, bytes_of
from ckptdiff.following.log import noting, replay
from ckptdiff.following.log.calls import (
    base_of_foreach,
    brings_numbers,
    collect,
    is_itself,
    is_whole,
    line_of_code,
    nbytes,
    written_by,
)
from ckptdiff.following.log.collectives import carried_out
from ckptdiff.following.log.draws import Draws
from ckptdiff.following.log.memory import Memory, is_flat, shape_of
from ckptdiff.following.log.operations import Args, Function, Kwargs, Traits, may_be_noted, traits
from ckptdiff.following.log.plain_tensors import copied
from ckptdiff.following.origins import probing, provenance
from ckptdiff.following.origins.intervals import Piece, Shape, covered, distinct_labels, paint, relabelled, uniform
from ckptdiff.following.origins.labels import Source
from ckptdiff.following.storages import Storages
from ckptdiff.torch_private import schema_of

_STRIDED = torch.strided
SMALL = 16 * 1024
"""Bytes up to which an operation on settled memory is rather carried out than noted."""
_READ_AT_ONCE = 1 << 20
"""Bytes of a file up to which they are read for what others may do to them; memory that was written is there anyway."""


class Engine(Storages):
    """What becomes of the storages that matter: of what code looks at, and of what it does with tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.exposed: dict[Source, None] = {}
        """The tensors of files whose memory code outside torch has seen: it may have looked at values."""
        self.by_address = ""
        """The line of code that reached memory of which nothing is known by its address, once files had been read."""
        self.numbers = FileNumbers()
        self.draws = Draws()
        self.kept = KeptValues()
        """What the code has written somewhere, and may read again."""
        self.searched = 0
        """Bytes of memory that were gone through for values that came by an unknown way."""
        self.in_arrays = InArrays()
        self.lock = threading.RLock()

    # What code sees

    def put_away(self, tensors: Iterable[torch.Tensor]) -> None:
        """Code writes tensors somewhere, from where it may read them again."""
        for tensor in tensors:
            self.settle([tensor])
            self.kept.keep(self, tensor)

    def expose(self, tensors: Iterable[torch.Tensor]) -> None:
        """Code outside torch gets hold of the memory of tensors, and may read and write there unseen."""
        for tensor in tensors:
            memory = self.memory(tensor)
            if memory is None:
                continue
            self.settle([tensor], foreign=True)
            labels = memory.origins.labels(*shape_of(tensor).span)
            for label in labels:
                self.exposed.update(dict.fromkeys(self.labels.origins[label].sources))
            if not memory.digests and (not labels or memory.version or memory.nbytes <= _READ_AT_ONCE):
                memory.watch()

    def exposed_at(self, address: int, count: int) -> set[int]:
        """Code reaches memory by its address; returns the labels that lie there."""
        memory = self.enclosing(address, 1)
        if memory is None or memory.storage is None:
            if self.read and not self.by_address:
                self.by_address = line_of_code()
            return set()
        with replay.plainly():
            self.expose([memory.bytes()])
        memory.watch()
        low = address - memory.address
        return memory.origins.labels(low, low + count)

    def moved_to(self, address: int, count: int, labels: set[int]) -> None:
        """Bytes of some labels were put at an address."""
        memory = self.enclosing(address, 1)
        if memory is not None and memory.storage is not None:
            first = address - memory.address
            shape = Shape(first, (count,), (1,), 1, count, True)
            paint(memory.origins, shape, uniform(self.labels.union(labels), count))
            memory.watch()

    def let_pass(self, function: Function, args: Args, kwargs: Kwargs) -> None:
        """A class of tensors does an operation in its own way: what it writes may come from there."""
        for tensor in written_by(traits(function), args, kwargs):
            memory = self.memory(tensor)
            if memory is not None:
                memory.after_look = memory.after_look or line_of_code()
        tensors: list[torch.Tensor] = []
        collect(args, tensors)
        self.settle(tensors, foreign=True)
        self.exposed.update((source, None) for tensor in tensors for source in self.sources(tensor))

    def doubt_new(self, made: object, line: str = "") -> None:
        """A tensor was made of Python's numbers, which may be some that code has seen."""
        if isinstance(made, torch.Tensor) and (memory := self.memory(made)) is not None and not memory.origins:
            memory.after_look = line or line_of_code()

    def take_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Code looks at all the values of tensors, and may make others of the same."""
        tensors = list(tensors)
        self.look(tensors)
        for tensor in tensors:
            if pieces := self.pieces(tensor):
                self.kept.keep_bytes(*bytes_of(tensor), pieces, numbers=True)

    def look(self, tensors: Iterable[torch.Tensor]) -> None:
        """Note that code looks at values."""
        for tensor in tensors:
            self.look_at(distinct_labels(self.pieces(tensor)))

    def look_at(self, labels: Iterable[int]) -> None:
        """Note that code looks at values of some origins."""
        for label in labels:
            self.looked.update(dict.fromkeys(self.labels.origins[label].sources))

    # Operations

    def run(self, function: Function, args: Args, kwargs: Kwargs) -> Any:
        """What becomes of one operation on ordinary tensors."""
        if copied(self, function, args, kwargs, SMALL):
            return args[0]
        tensors: list[torch.Tensor] = []
        collect(args, tensors)
        if kwargs:
            collect(kwargs.values(), tensors)
        involved: list[Memory] = []
        for tensor in tensors:
            memory = self.known(tensor)
            if memory is not None:
                involved.append(memory)
            elif tensor.layout is not _STRIDED and self.holds(tensor):
                return self._carry_out(function, args, kwargs, tensors, traits(function))
        known = traits(function)
        passes = known.kind == "view" and not known.moves_storage
        if not passes:
            for tensor in tensors:
                if (memory := self.known(tensor)) is not None and memory.digests:
                    self.check(memory, shape_of(tensor).span)
        if self.looked and not passes:
            for tensor in tensors:
                if self.known(tensor) is None and self.looked.is_unseen(tensor):
                    self.doubt_new(tensor)
                    involved += [memory] if (memory := self.known(tensor)) is not None else []
        result = self._become(function, args, kwargs, tensors, involved, known)
        if self.looked and not passes:
            self.looked.made(result)
        if self.numbers and known.kind != "view":
            if not known.random:
                self._numbered(function, args, kwargs, result, tensors, known)
            elif isinstance(own := kwargs.get("generator"), torch.Generator) and self.numbers.source_of(
                own.initial_seed()
            ):
                self._pass_on(line_of_code(), result, args, kwargs, known)
        seen = self.exposed or self.looked or self.in_arrays or self.numbers.taken
        if seen and (known.makes or known.kind not in ("view", "nothing")):
            line = next((memory.after_look for memory in involved if memory.after_look), "")
            if not line and self.exposed and involved and known.written and brings_numbers(args):
                line = line_of_code()
            if line:
                self._pass_on(line, result, args, kwargs, known)
            elif self.looked and brings_numbers((*args, *kwargs.values())):
                self._pass_on(line_of_code(), result, args, kwargs, known, beside=True)
        return result

    def _numbered(
        self,
        function: Function,
        args: Args,
        kwargs: Kwargs,
        result: object,
        tensors: list[torch.Tensor],
        traits: Traits,
    ) -> None:
        """What was made with a number that a file gave may be made of the file."""
        taken = self.numbers.take(function, args, kwargs)
        if not taken and traits.kind == "copy" and len(tensors) == 2 and self.known(tensors[1]) is None:
            taken = self.numbers.in_tensor(tensors[1])
        if taken:
            self._pass_on(line_of_code(), result, args, kwargs, traits)

    def _pass_on(
        self, line: str, result: object, args: Args, kwargs: Kwargs, traits: Traits, *, beside: bool = False
    ) -> None:
        """What was made with something that may be made of values that code has seen, may be so too; where that stands
        `beside` elements of files, only what has others."""
        outputs = written_by(traits, args, kwargs)
        collect([result], outputs)
        for tensor in outputs:
            memory = self.memory(tensor)
            if memory is not None and not (beside and covered(self.pieces(tensor)) == tensor.numel()):
                memory.after_look = memory.after_look or line

    def _become(
        self,
        function: Function,
        args: Args,
        kwargs: Kwargs,
        tensors: list[torch.Tensor],
        involved: list[Memory],
        traits: Traits,
    ) -> object:
        if traits.random and (done := noting.draw(self, function, args, kwargs, tensors, traits)) is not None:
            return done
        if not involved:
            if self.looked or (self.exposed and brings_numbers(args)):
                self._note_plain(traits, args, kwargs)
            large = traits.kind == "fill" and nbytes(tensors[0]) > noting.LARGE and not tensors[0].is_nested
            if traits.makes or large:
                noted, result = noting.note(self, function, args, kwargs, traits)
                if noted:
                    return result
            return function(*args, **kwargs)
        if traits.kind == "view":
            return self._view(function, args, kwargs, tensors, traits)
        if traits.kind == "nothing" and not traits.makes:
            return function(*args, **kwargs)
        if traits.name.startswith(("_foreach_", "_fused_")) and isinstance(args[0], (list, tuple)) and len(args[0]) > 1:
            return self._one_by_one(function, args, kwargs)
        if traits.name.startswith("_foreach_") and (base := base_of_foreach(function, args)) is not None:
            result = self.run(base, tuple(arg[0] if isinstance(arg, (list, tuple)) else arg for arg in args), kwargs)
            return [result] if schema_of(function).returns else None
        if traits.makes:
            noted, result = noting.note(self, function, args, kwargs, traits)
            return result if noted else function(*args, **kwargs)
        small = not any(memory.writes for memory in involved) and all(nbytes(tensor) <= SMALL for tensor in tensors)
        later = not small and may_be_noted(traits, tensors) and not any(memory.foreign for memory in involved)
        if later and not provenance.hangs_on_values(self, traits, tensors):
            noted, result = noting.note(self, function, args, kwargs, traits)
            if noted:
                return result
        return self._carry_out(function, args, kwargs, tensors, traits)

    def _note_plain(self, traits: Traits, args: Args, kwargs: Kwargs) -> None:
        """Note what is written, from no file, by code that has looked at values: it may be what it has seen."""
        if traits.written and traits.kind != "view" and not (traits.kind == "copy" and is_itself(*args[:2])):
            for tensor in written_by(traits, args, kwargs):
                if (memory := self.memory(tensor)) is not None:
                    memory.after_look = line_of_code()

    def _view(
        self, function: Function, args: Args, kwargs: Kwargs, tensors: list[torch.Tensor], traits: Traits
    ) -> object:
        if not traits.moves_storage:
            return function(*args, **kwargs)
        with self.moving(tensors[0].untyped_storage()):
            return function(*args, **kwargs)

    def _one_by_one(self, function: Function, args: tuple[Any, ...], kwargs: Kwargs) -> object:
        """An operation on lists of tensors, on each of them by itself: they have nothing to do with one another."""
        count = len(args[0])

        def at(position: int, argument: object) -> object:
            if isinstance(argument, (list, tuple)) and len(argument) == count:
                return [argument[position]]
            if isinstance(argument, torch.Tensor) and argument.dim() == 1 and argument.numel() == count:
                return argument[position : position + 1]  # one number for each
            return argument

        results = []
        for position in range(count):
            own = tuple(at(position, argument) for argument in args)
            named = {name: at(position, item) for name, item in kwargs.items()}
            results.append(self.run(function, own, named))
        return [item for result in results for item in result] if schema_of(function).returns else None

    def _carry_out(
        self, function: Function, args: Args, kwargs: Kwargs, tensors: list[torch.Tensor], traits: Traits
    ) -> object:
        """Have an operation done now, on values."""
        written = written_by(traits, args, kwargs)
        blank = traits.kind == "fill" and len(written) == 1 and is_whole(written[0])
        for tensor in tensors:
            if tensor.layout is not _STRIDED:
                self.settle([tensor])
            memory = self.known(tensor)
            if memory is not None and memory.writes:
                if blank and tensor is written[0]:
                    self._forget_pending(memory)
                else:
                    replay.settle(memory)
        if traits.looks:
            self.look(tensors)
        for tensor in written:
            if (memory := self.known(tensor)) is not None:
                replay.before_writing(memory)
        same = traits.kind in ("copy", "fill", "clone", "cat", "pointwise", "placing")
        label = 0 if blank and len(tensors) == 1 else provenance.after(self, tensors, traits)
        placing = traits.kind == "placing"
        placed = provenance.placed_labels(self, function, args, kwargs, traits) if placing and label else None
        where = placed.pieces if placed is not None else None
        if label and traits.picks:
            where = provenance.after_picking(self, function, args, kwargs, traits)
        nested = any(tensor.is_nested for tensor in tensors)
        unsure = not same or nested or (placing and where is None)
        reached = None
        if label and unsure and not nested:
            reached = probing.reached(self, function, args, kwargs, tensors, traits)
        result = carried_out(function, args, kwargs)
        outputs: list[torch.Tensor] = []
        collect([result], outputs)

        def new(tensor: torch.Tensor, number: int, of: list[torch.Tensor] | None) -> list[Piece]:
            if nested or tensor.is_nested:
                return provenance.of_nested(self, traits, args, kwargs, tensor)
            if placed is not None and placed.chosen is not None:
                got = provenance.told_by_files(self, tensor, placed)
            elif same and not unsure:
                got = provenance.moved(self, traits, args, kwargs, tensor, where)
            elif of is not None and number < len(of) and of[number].size() == tensor.size():
                got = probing.labelled(of[number], label)
            elif traits.name == "_to_dense" and not is_flat(tensors[0]):
                got = relabelled(self.pieces(tensors[0]), lambda label: self.labels.after(label, traits.step))
            else:
                got = uniform(label, tensor.numel())
            return provenance.left_of(self, tensor, got)

        for number, tensor in enumerate(written):
            if (memory := self.known(tensor)) is not None or label:
                memory = memory or self.memory(tensor)
                if memory is None:
                    continue
                replay.wrote(memory, shape_of(tensor).span)
                self.paint(memory, tensor, new(tensor, number, reached.written if reached else None))
        if label:
            for number, tensor in enumerate(outputs):
                if any(tensor is other for other in written):
                    continue
                if not is_flat(tensor):
                    self._loose[id(tensor)] = tensor, label
                elif (memory := self.memory(tensor)) is not None and not memory.origins:
                    paint(memory.origins, shape_of(tensor), new(tensor, number, reached.returned if reached else None))
        return result

    def _forget_pending(self, memory: Memory) -> None:
        """All of the memory is about to be filled: nothing of what was noted matters, but to snapshots."""
        replay.release(memory, memory.version + 1)
        memory.writes.clear()
        memory.settled = memory.version

    def paint(self, memory: Memory, tensor: torch.Tensor, new: list[Piece]) -> None:
        shape = shape_of(tensor)
        low, high = shape.span
        if not new and self.looked:
            memory.after_look = line_of_code()
        if not new and memory.origins.any(low, high):
            memory.overwritten.append((low, high, line_of_code()))
        paint(memory.origins, shape, new)
