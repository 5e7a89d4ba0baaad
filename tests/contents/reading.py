"""Bytes of one tensor, for tests that ask for few."""

from __future__ import annotations

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.contents.tensor_bytes import TensorBytes


def tensor_bytes(checkpoint: Checkpoint, key: str) -> bytes:
    """The span of the tensor at `key`."""
    with Files(checkpoint.identities) as files:
        return TensorBytes(checkpoint, files).read(checkpoint.tensors[key])
