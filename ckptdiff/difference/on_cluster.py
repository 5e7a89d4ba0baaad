"""The values of pairs of tensors, read by the workers of a Dask scheduler, which see the same files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.checkpoint.reading import read
from ckptdiff.contents.spreading import Progress
from ckptdiff.difference.comparing import Pair, compare_pairs
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.places import is_url
from ckptdiff.spelling import option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ckptdiff.difference.figures import Figures, Tolerance

_CONNECT = 10.0
"""Seconds to wait for the scheduler."""
_SHARE = 256 << 20
"""Bytes of one side that are a task."""


def compare_on_cluster(
    a: Checkpoint,
    b: Checkpoint,
    pairs: Sequence[Pair],
    tolerance: Tolerance | None,
    scheduler: str,
    progress: Progress | None = None,
) -> list[Figures | None]:
    """As `compare_pairs`. A share whose worker is lost is read by another. Raises CheckpointError without an answer."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise UsageError(
            f"{option('scheduler')} needs Dask, which is not installed.",
            "Install it with `pip install 'ckptdiff[dask]'`.",
        ) from None
    if a.live is not None or b.live is not None:
        raise UsageError(f"{option('scheduler')} is for files, which workers can open.", "Leave it out.")
    try:
        client = Client(scheduler, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"There is no Dask scheduler at {scheduler}: {type(error).__name__}.", "Start one with `dask scheduler`."
        ) from None
    sides = tuple((_for_workers(side), side.state_dict_key) for side in (a, b))
    shares = _shares(pairs)
    figures: dict[int, Figures | None] = {}
    total = sum(pair.before.nbytes + pair.after.nbytes for pair in pairs if pair.before.layout == "strided")
    done = 0
    with client, client.as_current():
        futures = {}
        for share in shares:
            keys = [(pairs[place].key, pairs[place].other) for place in share]
            futures[client.submit(compare_share, *sides, keys, tolerance, pure=False)] = share
        for future in as_completed(list(futures)):
            try:
                answers: list[Any] = future.result()
            except CheckpointError:
                raise
            except Exception as error:
                raise CheckpointError(
                    f"The cluster gave no answer on some tensors: {type(error).__name__}: {error}",
                    "See the logs of the scheduler and the workers.",
                ) from None
            figures.update(zip(futures[future], answers, strict=True))
            if progress is not None:
                share_of = (pairs[place] for place in futures[future])
                done += sum(p.before.nbytes + p.after.nbytes for p in share_of if p.before.layout == "strided")
                progress(done, total)
    return [figures[place] for place in range(len(pairs))]


def _for_workers(side: Checkpoint) -> str:
    """What a worker opens: the whole URL of a remote file, whose name leaves out what is secret in it."""
    remote = side.remotes.get(side.path)
    if remote is not None:
        return remote.url
    return side.path if is_url(side.path) else os.path.abspath(side.path)  # noqa: PTH100


def compare_share(
    a: tuple[str, str], b: tuple[str, str], keys: Sequence[tuple[str, str]], tolerance: Tolerance | None
) -> list[Figures | None]:
    """What a worker does: it reads the headers for itself, and compares some pairs."""
    before, after = (read(path, key=key or None) for path, key in (a, b))
    pairs = [Pair(key, name, before.tensors[key], after.tensors[name]) for key, name in keys]
    return compare_pairs(before, after, pairs, tolerance)


def _shares(pairs: Sequence[Pair]) -> list[list[int]]:
    shares: list[list[int]] = []
    room = 0
    for place, pair in enumerate(pairs):
        size = pair.before.nbytes if pair.before.layout == "strided" else 0
        if not shares or room < size:
            shares.append([])
            room = _SHARE
        shares[-1].append(place)
        room -= size
    return shares
