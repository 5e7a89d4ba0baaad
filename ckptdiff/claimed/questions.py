"""What code asked of the machine: what it insists on, and what it may have gone by."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ckptdiff import patches

LIBRARIES = frozenset((
    "accelerate", "bitsandbytes", "ckptdiff", "deepspeed", "diffusers", "flash_attn", "huggingface_hub",
    "lightning", "numpy", "peft", "pytorch_lightning", "safetensors", "timm", "torch", "torchao", "torchaudio",
    "torchmetrics", "torchvision", "transformers", "triton", "xformers",
))  # fmt: skip
"""Their models have the same keys on every machine."""
_STANDARD = str(Path(sysconfig.get_path("stdlib")))


@dataclass(slots=True)
class Asked:
    """The questions of one run of some code."""

    needs: dict[str, None] = field(default_factory=dict)
    """The kinds of device that it insists on: `cuda`, `mps`, `xpu`."""
    questions: dict[str, None] = field(default_factory=dict)
    """What it asked, in words as it is called: `torch.cuda.is_available()`."""
    default: str = ""
    """The kind that it made the default for all tensors."""
    most: int = 0
    """The highest number of a device that it named."""

    def question(self, name: str) -> None:
        """Note a question that code asked; not one of a library whose models do not go by it."""
        if _asker() not in LIBRARIES:
            self.questions[name] = None

    def need(self, kind: str, index: int | None = None) -> None:
        """Note that code asked for a device."""
        self.needs[kind] = None
        self.most = max(self.most, index or 0)


def _asker() -> str:
    """The package of the code that asks; this one's own where it looks for itself, whoever called it."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        module = str(frame.f_globals.get("__name__", ""))
        standard = file.startswith((_STANDARD, "<frozen")) and "site-packages" not in file
        if not module.startswith("ckptdiff.claimed.") and file != patches.__file__ and not standard:
            return module.partition(".")[0]
        frame = frame.f_back
    return "ckptdiff"
