"""What the names of files say: weights, an index of shards, a snapshot."""

from __future__ import annotations

from ckptdiff.places import is_url

SAFETENSORS = ".safetensors"
TORCH = (".pth", ".pt", ".bin", ".ckpt")
"""What torch.save writes, by any of its names."""
WEIGHTS = (SAFETENSORS, *TORCH)
OLD = (".th", ".tar", ".pt2")
"""Names of weights of other days, which say too little to be looked for."""
INDEX = ".index.json"
SNAPSHOT = ".ckptdiff.json"


def is_index(name: str) -> bool:
    """Whether it names the index of a checkpoint's shards."""
    return name.endswith(INDEX)


def is_snapshot(path: str) -> bool:
    """Whether it names a snapshot of a model: JSON, and neither an index of shards nor far away."""
    lower = path.lower()
    return lower.endswith(".json") and not lower.endswith(INDEX) and not is_url(path)
