"""A model's outline, made of a snapshot: modules of torch's own kinds, in which an adapter finds its places.

Its tensors have the shapes and dtypes of the model's, and no values. Modules of torch's kinds are those kinds, so that
code which looks for a Linear finds one; all others are bare ones that have the same children under the same names.
"""

from __future__ import annotations

import torch
from torch import nn

from ckptdiff.model.tree import ModuleNode, ModuleTree, Slot
from ckptdiff.torch_private import own_buffers, own_parameters

_LINEAR = {kind.__name__: kind for kind in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)}
_CONTAINERS = {kind.__name__: kind for kind in (nn.ModuleList, nn.ModuleDict, nn.Sequential)}
_CONVOLUTIONS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)}


class _Outline(nn.Module):
    """What has no kind of torch's. It has what those who wrap a language model look for in one, and never call."""

    prepare_inputs_for_generation = _prepare_encoder_decoder_kwargs_for_generation = None


def outline_of(tree: ModuleTree) -> nn.Module:
    """The outline of a model. Tensors that are tied there are tied here."""
    modules: dict[int, nn.Module] = {}
    tensors: dict[int, torch.Tensor] = {}
    nodes = list({id(node): node for node in tree.modules()}.values())
    for node in reversed(nodes):  # children first
        modules[id(node)] = _module(node, tensors)
    for node in nodes:
        made = modules[id(node)]
        for name, child in node.children.items():
            made.register_module(name, None if child is None else modules[id(child)])
    return modules[id(tree.root)]


def _module(node: ModuleNode, tensors: dict[int, torch.Tensor]) -> nn.Module:
    made = _kind(node)
    for name, slot in node.local.items():
        tensor = tensors.setdefault(slot.identity, _tensor(slot))
        if isinstance(tensor, nn.Parameter):
            own_parameters(made)[name] = tensor  # as it is, whatever the kind had made there
        else:
            own_buffers(made)[name] = tensor
    return made


def _kind(node: ModuleNode) -> nn.Module:
    module, _, name = node.qualified_name.rpartition(".")
    weight = node.local.get("weight")
    size = weight.tensor.shape if weight is not None else ()
    bias = "bias" in node.local
    made: nn.Module | None = None
    with torch.device("meta"):
        if module.startswith("torch.nn.modules."):
            if name in _CONTAINERS:
                made = _CONTAINERS[name]()
            elif name in _LINEAR and len(size) == 2:
                made = _LINEAR[name](size[1], size[0], bias)
            elif name == "Embedding" and len(size) == 2:
                made = nn.Embedding(*size)
            elif name in _CONVOLUTIONS and len(size) == int(name[4]) + 2:
                made = _CONVOLUTIONS[name](size[1], size[0], size[2:], bias=bias)
        elif node.qualified_name == "transformers.pytorch_utils.Conv1D" and len(size) == 2:
            from transformers.pytorch_utils import Conv1D

            made = Conv1D(size[1], size[0])
    return made if made is not None else type(node.class_name, (_Outline,), {})()


def _tensor(slot: Slot) -> torch.Tensor:
    tensor = torch.empty(slot.tensor.shape, dtype=_dtype(slot.tensor.dtype))
    if slot.kind == "buffer":
        return tensor
    return nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())


def _dtype(name: str) -> torch.dtype | None:
    return getattr(torch, name, torch.float32)
