"""The values of pairs of tensors, read once on all cores: which are equal, and the figures of those that are not.

A tensor is compared in pieces, whose blocks fit in the processor's cache. Equal blocks cost a read of both and a
comparison of bytes; only where bytes differ numpy is imported.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.flat_bytes import Blocks, Fill, nbytes_of, parts_of
from ckptdiff.contents.spreading import MOST_THREADS, Progress, cores
from ckptdiff.tensors import DTYPES, TensorInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ckptdiff.difference.figures import Figures, Tolerance
    from ckptdiff.difference.measuring import Measuring

_BLOCK = 1 << 18
"""Bytes of a block of either side."""
_PIECE = 16 << 20
"""Bytes of a tensor that one thread takes at a time."""
_RUN = 16 << 20
"""Bytes of a remote file that one thread reads one after the other."""
_FEW = 4 << 20
"""Bytes that are not worth a thread."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor of A, and the one of B that it is held against, which has its shape."""

    key: str
    other: str
    before: TensorInfo
    after: TensorInfo


@dataclass(frozen=True, slots=True)
class _Task:
    """A piece of a dense part of a pair: bytes of the first side, values at these places."""

    pair: int
    part: int
    start: int
    stop: int
    measured: bool = False
    """Whether figures are wanted though nothing in it differs."""
    at_once: bool = False
    """Whether they are taken while it is read first: it is known to differ, or reading it again is dear."""


def compare_pairs(
    a: Checkpoint,
    b: Checkpoint,
    pairs: Sequence[Pair],
    tolerance: Tolerance | None,
    progress: Progress | None = None,
    suspected: Collection[str] = (),
) -> list[Figures | None]:
    """The figures of each pair, None where they are the same bits. `suspected` are keys of pairs that likely differ.

    Raises CheckpointError where a file is damaged.
    """
    comparison = _Comparison(a, b, pairs, tolerance, progress, frozenset(suspected))
    return comparison.run()


class _Comparison:
    def __init__(
        self,
        a: Checkpoint,
        b: Checkpoint,
        pairs: Sequence[Pair],
        tolerance: Tolerance | None,
        progress: Progress | None,
        suspected: frozenset[str],
    ) -> None:
        self._a, self._b, self._pairs = a, b, pairs
        self._remote = bool(a.remotes or b.remotes)
        self._suspected = suspected
        self._tolerance = tolerance
        self._progress = progress
        self._parts = [tuple(zip(parts_of(p.before), parts_of(p.after), strict=False)) for p in pairs]
        self._done = 0
        self._total = sum(nbytes_of(before) + nbytes_of(after) for parts in self._parts for before, after in parts)

    def run(self) -> list[Figures | None]:
        measured: list[tuple[_Task, Figures]] = []
        alike: list[_Task] = []
        for task, differing in self._spread(self._tasks()):
            if differing is None:
                alike.append(task)
            else:
                measured.append((task, differing))
        changed = {task.pair for task, differing in measured if differing.differs or not task.at_once}
        measured = [(task, differing) for task, differing in measured if task.pair in changed]
        again = [_measured(task) for task in alike if task.pair in changed and task.stop > task.start]
        for task, differing in self._spread(again):
            assert differing is not None
            measured.append((task, differing))
        # In the order of the pieces, so that sums are the same every time.
        figures: dict[int, Figures] = {}
        for task, differing in sorted(measured, key=lambda pair: (pair[0].pair, pair[0].part, pair[0].start)):
            self._add(figures, task, differing)
        return [figures.get(place) for place in range(len(self._pairs))]

    def _add(self, figures: dict[int, Figures], task: _Task, measured: Figures) -> None:
        if task.part != self._main(task.pair):  # the scales of integers, the indices of values: another scale
            from ckptdiff.difference.figures import Figures

            measured = Figures(count=measured.count, beyond=measured.count)
        if task.pair in figures:
            figures[task.pair].add(measured)
        else:
            figures[task.pair] = measured

    def _main(self, pair: int) -> int:
        """Which part has the values that figures are about."""
        return 0 if self._pairs[pair].before.layout == "strided" else len(self._parts[pair]) - 1

    def _tasks(self) -> list[_Task]:
        tasks = []
        with Blocks(self._a) as here, Blocks(self._b) as there:
            for place, parts in enumerate(self._parts):
                soon = self._remote or self._pairs[place].key in self._suspected
                for number, (before, after) in enumerate(parts):
                    count = nbytes_of(before)
                    whole = not (here.is_direct(before) and there.is_direct(after))
                    step = max(count, 1) if whole else _PIECE
                    at_once = soon and before.dtype == after.dtype
                    tasks += [
                        _Task(place, number, start, min(start + step, count), at_once=at_once)
                        for start in range(0, count, step)
                    ]
        return tasks

    def _spread(self, tasks: Sequence[_Task]) -> Iterable[tuple[_Task, Figures | None]]:
        """What comes of the tasks, as they are done."""
        amount = sum(task.stop - task.start for task in tasks)
        most = MOST_THREADS if self._remote else min(cores(), MOST_THREADS)
        threads = 1 if amount < _FEW else min(most, len(tasks))
        if threads <= 1:
            with _Worker(self) as worker:
                for task in tasks:
                    yield task, worker.do(task)
                    self._told(task)
            return
        yield from self._in_threads(tasks, threads)

    def _in_threads(self, tasks: Sequence[_Task], threads: int) -> Iterable[tuple[_Task, Figures | None]]:
        waiting = iter(_runs(tasks, _RUN if self._remote else 0))
        lock = threading.Lock()
        given_up = threading.Event()
        answers: SimpleQueue[tuple[_Task, Figures | None] | BaseException | None] = SimpleQueue()

        def work() -> None:
            try:
                with _Worker(self) as worker:
                    while not given_up.is_set():
                        with lock:
                            run = next(waiting, None)
                        if run is None:
                            break
                        for task in run:
                            if not given_up.is_set():
                                answers.put((task, worker.do(task)))
            except BaseException as error:
                answers.put(error)
            else:
                answers.put(None)

        running = [threading.Thread(target=work, name="ckptdiff-diff", daemon=True) for _ in range(threads)]
        for thread in running:
            thread.start()
        left = threads
        try:
            while left:
                answer = answers.get()
                if answer is None:
                    left -= 1
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    yield answer
                    self._told(answer[0])
        finally:
            given_up.set()
            for thread in running:
                thread.join()

    def _told(self, task: _Task) -> None:
        if self._progress is not None and not task.measured:
            before, after = self._parts[task.pair][task.part]
            self._done += task.stop - task.start
            self._done += (task.stop - task.start) * nbytes_of(after) // max(nbytes_of(before), 1)
            self._progress(self._done, self._total)


class _Worker:
    """One thread's files and buffers."""

    def __init__(self, comparison: _Comparison) -> None:
        self._pairs = comparison._pairs
        self._parts = comparison._parts
        self._tolerance = comparison._tolerance
        self._here, self._there = Blocks(comparison._a), Blocks(comparison._b)
        self._one, self._two = bytearray(_BLOCK), bytearray(_BLOCK)
        self._open: tuple[int, int] = (-1, -1)
        self._fills: tuple[Fill, Fill] | None = None
        self._measured: Measuring | None = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.__exit__(None, None, None)
        self._there.__exit__(None, None, None)

    def do(self, task: _Task) -> Figures | None:
        """The figures of a piece; None where its bits are the same and none are asked for."""
        pair = self._pairs[task.pair]
        before, after = self._parts[task.pair][task.part]
        if self._open != (task.pair, task.part):
            self._here.let_go()
            self._there.let_go()
            here = self._read(self._here, pair.key, before, task.part)
            self._fills = here, self._read(self._there, pair.other, after, task.part)
            self._open = (task.pair, task.part)
        assert self._fills is not None
        if before.dtype != after.dtype:
            return self._cast(task, before, after, *self._fills)
        if task.measured:
            return self._unchanged(before, task.start, task.stop, self._fills[0])
        return self._same_dtype(task, before, *self._fills)

    def _within(self) -> Tolerance:
        from ckptdiff.difference.figures import Tolerance

        return Tolerance() if self._tolerance is None else self._tolerance

    @staticmethod
    def _read(blocks: Blocks, key: str, tensor: TensorInfo, part: int) -> Fill:
        return blocks.of(key, tensor) if not part else blocks.stored(tensor)

    def _same_dtype(self, task: _Task, tensor: TensorInfo, here: Fill, there: Fill) -> Figures | None:
        before, after = self._one, self._two
        figures: Figures | None = None
        if task.at_once:
            from ckptdiff.difference.figures import Figures

            figures = Figures()
        place = task.start
        while place < task.stop:
            count = min(_BLOCK, task.stop - place)
            if count < len(before):
                before, after = bytearray(count), bytearray(count)
            here(place, memoryview(before))
            there(place, memoryview(after))
            if figures is not None or before != after:
                if figures is None:
                    figures = self._unchanged(tensor, task.start, place, here)
                    if place > task.start:
                        here(place, memoryview(before))
                self._measure(tensor, place, before, after, figures)
            place += count
        return figures

    def _measure(self, tensor: TensorInfo, place: int, before: bytearray, after: bytearray, figures: Figures) -> None:
        from ckptdiff.difference.numerals import numeral

        kind = numeral(tensor.dtype)
        values = place // kind.width * kind.per_byte
        self._measuring().add(memoryview(before), memoryview(after), kind, values, figures)

    def _measuring(self) -> Measuring:
        if self._measured is None:
            from ckptdiff.difference.measuring import Measuring

            self._measured = Measuring(self._within())
        return self._measured

    def _unchanged(self, tensor: TensorInfo, start: int, stop: int, here: Fill) -> Figures:
        from ckptdiff.difference.figures import Figures
        from ckptdiff.difference.numerals import numeral

        figures = Figures()
        for place in range(start, stop, _BLOCK):
            buffer = memoryview(self._one)[: stop - place]
            here(place, buffer)
            self._measuring().add_unchanged(buffer, numeral(tensor.dtype), figures)
        return figures

    def _cast(self, task: _Task, before: TensorInfo, after: TensorInfo, here: Fill, there: Fill) -> Figures:
        from ckptdiff.difference.casting import measure_cast
        from ckptdiff.difference.figures import Figures
        from ckptdiff.difference.numerals import numeral

        left, right = numeral(before.dtype), numeral(after.dtype)
        widths = (DTYPES[before.dtype].bits, DTYPES[after.dtype].bits)
        figures = Figures()
        step = 1 << 16
        for first in range(task.start * 8 // widths[0], task.stop * 8 // widths[0], step):
            last = min(first + step, task.stop * 8 // widths[0])
            buffers = []
            for fill, bits in ((here, widths[0]), (there, widths[1])):
                buffer = memoryview(bytearray((last - first) * bits // 8))
                fill(first * bits // 8, buffer)
                buffers.append(buffer)
            figures.add(measure_cast(buffers[0], buffers[1], (left, right), first, self._within()))
        return figures


def _runs(tasks: Sequence[_Task], size: int) -> Iterator[list[_Task]]:
    """Tasks that follow one another, together of about as many bytes."""
    run: list[_Task] = []
    amount = 0
    for task in tasks:
        run.append(task)
        amount += task.stop - task.start
        if amount >= size:
            yield run
            run, amount = [], 0
    if run:
        yield run


def _measured(task: _Task) -> _Task:
    return _Task(task.pair, task.part, task.start, task.stop, measured=True)
