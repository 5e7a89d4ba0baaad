"""What is in a checkpoint?"""

from __future__ import annotations

import os

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.requests import CheckpointRequest


def inspect(path: str | os.PathLike[str], *, key: str | None = None) -> Checkpoint:
    """What is in a checkpoint, from its headers alone; torch is not imported and nothing in the file is run.

    `key` is the dotted path of the state dict inside its file. Raises CkptdiffError for what cannot be read.
    """
    return CheckpointRequest(path, key).read()
