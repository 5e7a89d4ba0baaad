"""The digest of a tensor, and of all tensors of a checkpoint: the same for the same weights, whatever holds them.

A tensor's is SHA-256 of one line, its dtype and shape, and its elements: row-major, little-endian. One of several dense
parts is told by the digests of the parts. The whole is SHA-256 of a line for each tensor, its digest and its key as
JSON, sorted by the key's characters; docs/digest.md has the letter of it.

Of what hashlib has, SHA-256 is the fastest on processors of the last years, which have instructions for it
(benchmarks/diff.py: twice as fast as BLAKE2b and SHA-512); BLAKE3 takes a quarter of its time, and a compiled package
that whoever checks a digest would need as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.flat_bytes import Blocks, nbytes_of, parts_of
from ckptdiff.tensors import Quantizer, TensorInfo

Progress = Callable[[int, int], None]

_BLOCK = 1 << 20
_FEW = 4 << 20
_MOST_THREADS = 8


@dataclass(frozen=True, slots=True)
class Digests:
    """`whole` names all weights, `tensors` each: hexadecimal digits."""

    whole: str
    tensors: Mapping[str, str]


def digests_of(checkpoint: Checkpoint, keys: Iterable[str] | None = None, progress: Progress | None = None) -> Digests:
    """The digests of a checkpoint's tensors, or of some. Raises CkptdiffError where values are not at hand."""
    tensors = checkpoint.tensors
    chosen = dict(tensors) if keys is None else {key: tensors[key] for key in keys}
    # The large ones first, so that no thread is left with one in the end.
    order = sorted(chosen, key=lambda key: -chosen[key].nbytes if chosen[key].layout == "strided" else 0)
    found = dict(_in_threads(checkpoint, [(key, chosen[key]) for key in order], progress))
    return Digests(whole(found), {key: found[key] for key in chosen})


def whole(tensors: Mapping[str, str]) -> str:
    """The digest of all, of theirs by key."""
    total = hashlib.sha256()
    for key in sorted(tensors, key=_order):
        total.update(f"{tensors[key]} {json.dumps(key)}\n".encode())
    return total.hexdigest()


def _order(key: object) -> tuple[bool, str]:
    return not isinstance(key, str), str(key)


def _in_threads(
    checkpoint: Checkpoint, tensors: list[tuple[str, TensorInfo]], progress: Progress | None
) -> dict[str, str]:
    total = sum(tensor.nbytes for _, tensor in tensors if tensor.layout == "strided")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    threads = 1 if total < _FEW else min(cores, _MOST_THREADS, len(tensors))
    waiting, found = iter(tensors), dict[str, str]()
    lock = threading.Lock()
    errors: list[BaseException] = []
    done = 0

    def count(amount: int) -> None:
        nonlocal done
        with lock:
            done += amount
            if progress is not None:
                progress(done, total)

    def work() -> None:
        try:
            with Blocks(checkpoint) as blocks:
                while not errors:
                    with lock:
                        some = list(islice(waiting, 1))
                    if not some:
                        return
                    key, tensor = some[0]
                    found[key] = digest(blocks, key, tensor, count)
                    blocks.let_go()
        except BaseException as error:
            errors.append(error)

    if threads <= 1:
        work()
    else:
        running = [threading.Thread(target=work, name="ckptdiff-digest", daemon=True) for _ in range(threads)]
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
    return found


def digest(blocks: Blocks, key: str, tensor: TensorInfo, count: Callable[[int], None] = lambda _: None) -> str:
    """The digest of one tensor."""
    parts = parts_of(tensor)
    if len(parts) == 1 and tensor.layout == "strided":
        return _dense(blocks, key, parts[0], count, _quantizer(tensor.quantizer))
    total = hashlib.sha256(_head(tensor, f" {tensor.layout}{_quantizer(tensor.quantizer)}"))
    for number, part in enumerate(parts):
        total.update(_dense(blocks, key if not number else None, part, count).encode())
    return total.hexdigest()


def _dense(blocks: Blocks, key: str | None, tensor: TensorInfo, count: Callable[[int], None], more: str = "") -> str:
    total = hashlib.sha256(_head(tensor, more))
    nbytes = nbytes_of(tensor)
    if nbytes:
        fill = blocks.stored(tensor) if key is None else blocks.of(key, tensor)
        buffer = memoryview(bytearray(min(_BLOCK, nbytes)))
        for start in range(0, nbytes, _BLOCK):
            part = buffer[: nbytes - start]
            fill(start, part)
            total.update(part)
            count(len(part))
    return total.hexdigest()


def _head(tensor: TensorInfo, more: str) -> bytes:
    return f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]{more}\n".encode()


def _quantizer(quantizer: Quantizer | None) -> str:
    if quantizer is None:
        return ""
    if quantizer.scheme == "per_tensor_affine":
        return f" {quantizer.scheme} {float(quantizer.scale).hex()} {quantizer.zero_point}"
    return f" {quantizer.scheme} {quantizer.axis}"
