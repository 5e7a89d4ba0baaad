"""What does this model's state dict look like, in a file that reviews well?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckptdiff.model.snapshot import dumps
from ckptdiff.requests import ModelRequest

if TYPE_CHECKING:
    from ckptdiff.requests import Model


def snapshot(model: Model, *, args: Mapping[str, object] | None = None, device: str | None = None) -> str:
    """The model's state-dict schema as the text of a snapshot file; `device` as in `compare`.

    Raises CkptdiffError where the model does not build.
    """
    return snapshot_of(ModelRequest.of(model, args, device))


def snapshot_of(request: ModelRequest) -> str:
    """`snapshot`, as it was asked."""
    return dumps(request.describe().tree)
