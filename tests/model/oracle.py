"""What a build without memory is held against: the schema of a module, taken from the module itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def schema(module: nn.Module) -> dict[str, Any]:
    """Everything about a module that decides what `load_state_dict` does, but the code of its hooks."""
    tied: dict[int, list[str]] = {}
    for key, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        tied.setdefault(id(tensor), []).append(key)
    state: Any = module.state_dict(keep_vars=True)
    return {
        "state dict": [
            (key, tuple(value.shape), value.dtype, value.layout)
            if isinstance(value, torch.Tensor)
            else (key, type(value))
            for key, value in state.items()
            if not isinstance(value, (nn.UninitializedParameter, nn.UninitializedBuffer))
        ],
        "keys": list(state),
        "metadata": state._metadata,
        "tied": sorted(map(tuple, tied.values())),
        "parameters": [(key, value.requires_grad, type(value)) for key, value in module.named_parameters()],
        "modules": [
            (
                key,
                type(part).__qualname__,
                [(name, value is None) for name, value in part._parameters.items()],
                [(name, value is None) for name, value in part._buffers.items()],
                [(name, value is None) for name, value in part._modules.items()],
                sorted(part._non_persistent_buffers_set),
                len(part._load_state_dict_pre_hooks),
            )
            for key, part in module.named_modules(remove_duplicate=False)
        ],
    }
