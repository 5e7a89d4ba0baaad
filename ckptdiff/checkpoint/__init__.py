"""Files to Checkpoints: headers only, nothing imported, nothing run."""

from __future__ import annotations

from ckptdiff.checkpoint.checkpoint import Alternative, Checkpoint
from ckptdiff.checkpoint.reading import read

__all__ = ["Alternative", "Checkpoint", "read"]
