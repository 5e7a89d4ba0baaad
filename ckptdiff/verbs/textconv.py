"""A file as git's textconv has it: what is in a checkpoint, or what else it is, as stable text."""

from __future__ import annotations

import os
import stat

from ckptdiff.errors import CkptdiffError

_POINTER = b"version https://git-lfs.github.com/spec/"
_MOST = 1024


def textconv(path: str) -> str:
    """Never an error: what cannot be read is said to be so, since git shows nothing at all of a change otherwise."""
    pointer = _pointer(path)
    if pointer is not None:
        return pointer
    from ckptdiff.contents.digests import digests_of
    from ckptdiff.render.textconv import text
    from ckptdiff.requests import CheckpointRequest

    try:
        read = CheckpointRequest(path).read()
        keys = [key for key, tensor in read.tensors.items() if not tensor.is_meta]
        return text(read, digests_of(read, keys).tensors)
    except CkptdiffError as error:
        return f"no checkpoint that can be read: {error.message.replace(path, 'it')}\n"


def _pointer(path: str) -> str | None:
    """What git-lfs has in the place of a file whose content it keeps elsewhere; None where this is none."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a pipe would be waited for
            return None
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(_MOST)
    except OSError:
        return None
    if not head.startswith(_POINTER):
        return None
    fields = dict(line.partition(" ")[::2] for line in head.decode("ascii", "replace").splitlines())
    return (
        "a git-lfs pointer, whose content is not here (git lfs pull)\n"
        f"oid {fields.get('oid', 'unknown')}\nsize {fields.get('size', 'unknown')}\n"
    )
