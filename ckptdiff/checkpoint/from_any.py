"""Whatever a user calls a checkpoint → Checkpoint: a path, the snapshot of the model that saved it, a state dict."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import UsageError
from ckptdiff.spelling import option
from ckptdiff.suffixes import is_snapshot


def checkpoint_from(given: Checkpoint | Mapping[Any, object] | str | os.PathLike[str], key: str | None) -> Checkpoint:
    """One that is read already stays as it is. Raises UsageError for what is no checkpoint.

    `key` is the dotted path of the state dict inside its file.
    """
    if isinstance(given, Checkpoint):
        return given
    if isinstance(given, (str, os.PathLike)):
        return _read(os.fspath(given), key)
    if key is not None:
        raise UsageError("key is for files; this state dict is in memory.", f"Pass checkpoint[{key!r}] instead.")
    if not isinstance(given, Mapping):
        raise UsageError(
            f"A checkpoint is a path, a state dict or a Checkpoint, not {type(given).__name__}.",
            "Pass the file's path, or the dictionary of tensors.",
        )
    from ckptdiff.checkpoint.from_memory import checkpoint_of

    return checkpoint_of(given)


def _read(path: str, key: str | None) -> Checkpoint:
    if not is_snapshot(path):
        from ckptdiff.checkpoint.reading import read

        return read(path, key=key)
    if key:
        raise UsageError(f"{path} is a snapshot, which has no keys inside keys.", f"Leave {option('key')} out.")
    from ckptdiff.checkpoint.from_model import saved_by
    from ckptdiff.model.snapshot import read_snapshot

    return saved_by(read_snapshot(path), path)
