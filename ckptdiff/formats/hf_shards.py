"""What torch.distributed.checkpoint writes for Hugging Face: safetensors files, each a rank's parts of the tensors.

`__metadata__` has, under `DCP_SHARDING_INFO`, the offsets of each part in its whole tensor
(torch/distributed/checkpoint/hf_storage.py). The parts of all files together are the checkpoint.
"""

from __future__ import annotations

import re

from ckptdiff.formats.opened import Opened
from ckptdiff.formats.opening import open_file
from ckptdiff.places import Place, for_each

INFO = "DCP_SHARDING_INFO"
_NAME = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")


def files_in(names: list[str]) -> list[str]:
    """The files of a directory that are ranks' parts, by what their writer calls them."""
    return sorted(name for name in names if _NAME.fullmatch(name))


def read(folder: Place, files: list[str]) -> Opened:
    """All ranks' parts in a folder."""
    opened = for_each(open_file, [folder.within(file) for file in files])
    return Opened(
        folder.name,
        "torch-distributed safetensors",
        None,
        sum(part.nbytes for part in opened),
        identities={file: same for part in opened for file, same in part.identities.items()},
        parts=dict(zip(files, opened, strict=True)),
    )
