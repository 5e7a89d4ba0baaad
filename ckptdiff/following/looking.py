"""Where values leave tensors past torch's dispatcher: to numpy, to Python, to files. They are computed by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ckptdiff.following.engine import Engine
from ckptdiff.following.mode import parts
from ckptdiff.patches import Patches
from ckptdiff.torch_private import without_torch_function


def watch_looks(patched: Patches, engine: Engine) -> None:
    """Have every way by which code reads values see them."""
    tensor = torch.Tensor

    def settled(method: Callable[..., Any], *, foreign: bool) -> Callable[..., Any]:
        def reading(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            with without_torch_function(), engine.lock:
                consists = parts(self)
                engine.look(consists)
                engine.settle(consists, foreign=foreign)
            return method(self, *args, **kwargs)

        reading.__name__ = getattr(method, "__name__", "reading")
        return reading

    for name in ("tolist", "__reduce_ex__", "share_memory_"):
        patched.attribute(tensor, name, settled(getattr(tensor, name), foreign=False))
    for name in ("__dlpack__",):
        patched.attribute(tensor, name, settled(getattr(tensor, name), foreign=True))
