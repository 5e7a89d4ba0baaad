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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.flat_bytes import Blocks, nbytes_of, parts_of
from ckptdiff.contents.spreading import Progress, for_each_tensor
from ckptdiff.tensors import Quantizer, TensorInfo

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Digests:
    """`whole` names all weights, `tensors` each: hexadecimal digits."""

    whole: str
    tensors: Mapping[str, str]


def digests_of(checkpoint: Checkpoint, keys: Iterable[str] | None = None, progress: Progress | None = None) -> Digests:
    """The digests of a checkpoint's tensors, or of some. Raises CkptdiffError where values are not at hand."""
    tensors = checkpoint.tensors
    chosen = dict(tensors) if keys is None else {key: tensors[key] for key in keys}
    digests = for_each_tensor(checkpoint, chosen, digest, progress)
    return Digests(whole(digests), digests)


def whole(tensors: Mapping[str, str]) -> str:
    """The digest of all, of theirs by key."""
    total = hashlib.sha256()
    for key in sorted(tensors, key=_order):
        total.update(f"{tensors[key]} {json.dumps(key)}\n".encode())
    return total.hexdigest()


def _order(key: object) -> tuple[bool, str]:
    return not isinstance(key, str), str(key)


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
