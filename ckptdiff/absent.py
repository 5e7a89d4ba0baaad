"""Modules that are not installed, found all the same: something stands in for what code takes from them."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, ModuleType
from typing import Any

KERNELS = (
    "amp_C", "apex", "apex_C", "bitsandbytes", "causal_conv1d", "deepspeed", "flash_attn", "flash_attn_2_cuda",
    "flash_attn_interface", "fused_layer_norm_cuda", "liger_kernel", "mamba_ssm", "natten", "nvidia_smi", "pynvml",
    "rotary_emb", "sageattention", "tilelang", "torch_scatter", "torch_sparse", "transformer_engine", "triton",
    "xformers",
)  # fmt: skip
"""Packages that exist for GPUs alone, or are only compiled for them."""


class AbsentModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what nobody else does, where `stand_in` has a module for its full name."""

    def __init__(self, stand_in: Callable[[str], ModuleType | None]) -> None:
        self._stand_in = stand_in
        self._made: dict[str, ModuleType] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:  # noqa: ARG002
        made = self._stand_in(fullname)
        if made is None:
            return None
        self._made[fullname] = made
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        return self._made[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""

    def start(self) -> None:
        """Be asked from now on, after all others."""
        sys.meta_path.append(self)

    def stop(self) -> None:
        """Be asked no longer, and leave no module behind."""
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]  # others may equal everything
        made = {id(module) for module in self._made.values()}
        for name, module in list(sys.modules.items()):
            if id(module) in made:
                del sys.modules[name]

    @contextlib.contextmanager
    def found(self) -> Iterator[None]:
        """Inside the block, they are found."""
        self.start()
        try:
            yield
        finally:
            self.stop()


def importing_file() -> str:
    """The file of the code that asks for the module that is being looked for, "" where none does."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if not file.startswith("<frozen") and package not in ("ckptdiff", "importlib"):
            return file
        frame = frame.f_back
    return ""
