"""A plan carried out in memory: the state dict that the file would hold, of which large tensors are memory maps."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.files import Files
from ckptdiff.contents.torch_tensors import StoredTensors
from ckptdiff.tensors import TensorInfo
from ckptdiff.torch_private import set_metadata
from ckptdiff.writing.compute import dtype_of
from ckptdiff.writing.entry_values import plain_objects
from ckptdiff.writing.plan import Carry, FilterPlan, Keep


def materialised(plan: FilterPlan) -> OrderedDict[str, Any]:
    """A plan's entries as a state dict with its `_metadata`, in which large tensors are memory maps.

    Only for plans without steps, fills and conversions. Tied tensors share memory.
    """
    checkpoint = plan.checkpoint
    objects = plain_objects(checkpoint, [item.source for item in plan.objects])
    state: OrderedDict[str, object] = OrderedDict()
    with Files(checkpoint.identities, watched=checkpoint.identities) as files:
        stored = StoredTensors(checkpoint, files, together=True)
        for item in plan.kept:
            if isinstance(item, Carry):
                if item.source in objects:
                    state[item.key] = objects[item.source]
            elif checkpoint.live is not None:
                state[item.key] = checkpoint.live[item.sources[0]]
            else:
                state[item.key] = _tensor(item, checkpoint, stored)
    if plan.metadata is not None:
        set_metadata(state, OrderedDict(plan.metadata))
    return state


def _tensor(item: Keep, checkpoint: Checkpoint, stored: StoredTensors) -> torch.Tensor:
    info = checkpoint.entries[item.sources[0]]
    assert isinstance(info, TensorInfo)
    value = stored.tensor(info, dtype_of(info.dtype))
    is_parameter = info.type_name == "torch.nn.parameter.Parameter"
    return nn.Parameter(value, requires_grad=value.is_floating_point()) if is_parameter else value
