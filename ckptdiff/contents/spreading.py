"""Work on each tensor of a checkpoint, on all cores: reading and hashing let other threads run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.flat_bytes import Blocks
from ckptdiff.tensors import TensorInfo

Progress = Callable[[int, int], None]
Count = Callable[[int], None]
_R = TypeVar("_R")

_FEW = 4 << 20
"""Bytes that are not worth a thread."""
MOST_THREADS = 8


def cores() -> int:
    """Those that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def for_each_tensor(
    checkpoint: Checkpoint,
    tensors: Mapping[str, TensorInfo],
    work: Callable[[Blocks, str, TensorInfo, Count], _R],
    progress: Progress | None = None,
) -> dict[str, _R]:
    """What `work` gives of each, in their order; the large ones come first, so that no thread is left with one.

    `work` counts the bytes that it has read. The first error ends it.
    """
    order = iter(sorted(tensors, key=lambda key: -tensors[key].nbytes if tensors[key].layout == "strided" else 0))
    total = sum(tensor.nbytes for tensor in tensors.values() if tensor.layout == "strided")
    threads = 1 if total < _FEW else min(cores(), MOST_THREADS, len(tensors))
    results: dict[str, _R] = {}
    lock = threading.Lock()
    errors: list[BaseException] = []
    done = 0

    def count(amount: int) -> None:
        nonlocal done
        with lock:
            done += amount
            if progress is not None:
                progress(min(done, total), total)

    def run() -> None:
        try:
            with Blocks(checkpoint) as blocks:
                while not errors:
                    with lock:
                        key = next(order, None)
                    if key is None:
                        return
                    results[key] = work(blocks, key, tensors[key], count)
                    blocks.let_go()
        except BaseException as error:
            errors.append(error)

    if threads <= 1:
        run()
    else:
        running = [threading.Thread(target=run, name="ckptdiff-tensors", daemon=True) for _ in range(threads)]
        for thread in running:
            thread.start()
        try:
            for thread in running:
                thread.join()
        except BaseException as error:  # interrupted
            errors.append(error)
            raise
    if errors:
        raise errors[0]
    return {key: results[key] for key in tensors}
