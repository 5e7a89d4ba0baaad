"""The files of a tensor-parallel set: each a rank's part of every matrix, whole tensors beside them in all.

They are told by what their writers call them: `consolidated.00.pth` and on (Meta's llama), and in folders or files
`mp_rank_00` and on (Megatron-LM's `get_checkpoint_name`, DeepSpeed's `_get_ckpt_name`).
"""

from __future__ import annotations

import re

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.opening import open_file
from ckptdiff.places import Place, for_each

NAME = "tensor-parallel"
_FILES = re.compile(r"consolidated\.(\d\d)\.pth|mp_rank_(\d\d)_model_states\.pt")
_FOLDERS = re.compile(r"mp_rank_(\d\d)")
_PIPELINED = re.compile(r"mp_rank_\d\d_\d{3}")
_INSIDE = ("model_optim_rng.pt", "model_rng.pt")


def files_in(folder: Place, names: list[str]) -> list[str]:
    """The files of the ranks in a directory, in order; none where they are no set of several.

    Raises CheckpointError where one is absent, or layers lie in different ones too.
    """
    if any(_PIPELINED.fullmatch(name) for name in names):
        raise CheckpointError(
            f"{folder.name} is cut by layers too (pipeline-parallel)", "Merge it with the code that saved it."
        )
    ranks = {int(match[1] or match[2]): name for name in names if (match := _FILES.fullmatch(name))}
    if not ranks and folder.local:
        folders = {int(match[1]): name for name in names if (match := _FOLDERS.fullmatch(name))}
        for rank, name in folders.items():
            inside = folder.within(name)
            held = [file for file in _INSIDE if inside.is_folder() and file in inside.list()]
            if held:
                ranks[rank] = f"{name}/{held[0]}"
    if len(ranks) < 2:
        return []
    if absent := sorted(set(range(max(ranks))) - ranks.keys()):
        raise CheckpointError(
            f"{folder.name} lacks the file of rank {absent[0]} of a tensor-parallel set", "Copy all of them there."
        )
    return [ranks[rank] for rank in sorted(ranks)]


def read(folder: Place, files: list[str]) -> Opened:
    """All ranks' files in a folder."""
    opened = for_each(open_file, [folder.within(file) for file in files])
    return Opened(
        folder.name,
        NAME,
        None,
        sum(part.nbytes for part in opened),
        identities={file: same for part in opened for file, same in part.identities.items()},
        parts=dict(zip(files, opened, strict=True)),
    )
