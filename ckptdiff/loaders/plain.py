"""The loader of plain code: the state dict of a file, read by torch or safetensors, into `load_state_dict`."""

from __future__ import annotations

import os

from torch import nn


def load_state_dict(model: nn.Module, path: str | os.PathLike[str]) -> object:
    """`model.load_state_dict(torch.load(path))`, of a .safetensors `load_file(path)`."""
    if os.fspath(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return model.load_state_dict(load_file(path))
    import torch

    return model.load_state_dict(torch.load(path, map_location="cpu"))
