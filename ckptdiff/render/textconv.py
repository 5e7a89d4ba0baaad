"""A checkpoint as stable text for `git diff`: a line for each tensor, sorted by key, its values as a digest."""

from __future__ import annotations

from collections.abc import Mapping

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.render.escape import plain
from ckptdiff.tensors import ObjectInfo

_LONGEST = 10_000
DIGITS = 16
"""Of a digest: enough to tell values apart by eye, and in a line."""


def text(checkpoint: Checkpoint, digests: Mapping[str, str]) -> str:
    """No path is in it, nor anything that is not of the contents, ending with a newline."""
    lines = [f"format {checkpoint.format}"]
    if checkpoint.state_dict_key:
        lines.append(f"state dict {plain(checkpoint.state_dict_key, _LONGEST)}")
    lines += [f"metadata {plain(key)} = {plain(value)}" for key, value in sorted(checkpoint.file_metadata.items())]
    lines += [f"beside {plain(key)} {plain(value)}" for key, value in sorted(checkpoint.container.items())]
    for key, entry in sorted(checkpoint.entries.items(), key=lambda item: str(item[0])):
        name = plain(str(key), _LONGEST)
        if isinstance(entry, ObjectInfo):
            lines.append(f"{name} {plain(entry.type_name)} {plain(entry.summary)}".rstrip())
        else:
            shape = ", ".join(map(str, entry.shape))
            lines.append(f"{name} {entry.dtype} [{shape}] {digests.get(key, 'no values')[:DIGITS]}")
    return "\n".join(lines) + "\n"
