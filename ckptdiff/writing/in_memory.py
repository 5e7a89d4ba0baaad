"""A plan carried out in memory: the state dict that the file would hold, of which large tensors are memory maps."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.tensor_bytes import TensorReader
from ckptdiff.places import is_url
from ckptdiff.tensors import TensorInfo, contiguous_stride
from ckptdiff.torch_private import set_metadata
from ckptdiff.writing.byte_copying import Sources
from ckptdiff.writing.compute import dtype_of, mapped
from ckptdiff.writing.entry_values import plain_objects
from ckptdiff.writing.plan import Carry, FilterPlan, Keep


def materialised(plan: FilterPlan) -> OrderedDict[str, Any]:
    """A plan's entries as a state dict with its `_metadata`, in which large tensors are memory maps.

    Only for plans without steps, fills and conversions. Tied tensors share memory.
    """
    checkpoint = plan.checkpoint
    objects = plain_objects(checkpoint, [item.source for item in plan.objects])
    state: OrderedDict[str, Any] = OrderedDict()
    with Sources(checkpoint.identities, checkpoint.identities) as sources, TensorReader(checkpoint) as reader:
        storages: dict[object, torch.Tensor] = {}
        for item in plan.kept:
            if isinstance(item, Carry):
                if item.source in objects:
                    state[item.key] = objects[item.source]
            elif checkpoint.live is not None:
                state[item.key] = checkpoint.live[item.sources[0]]
            else:
                state[item.key] = _tensor(item, checkpoint, sources, reader, storages)
    if plan.metadata is not None:
        set_metadata(state, OrderedDict(plan.metadata))
    return state


def _tensor(
    item: Keep, checkpoint: Checkpoint, sources: Sources, reader: TensorReader, storages: dict[object, torch.Tensor]
) -> torch.Tensor:
    info = checkpoint.entries[item.sources[0]]
    assert isinstance(info, TensorInfo)
    dtype = dtype_of(info.dtype)
    stride = info.stride or contiguous_stride(info.shape)
    storage = info.storage
    if not info.numel:
        return torch.empty(info.shape, dtype=dtype)
    swapped = checkpoint.byteorder != "little" and dtype.itemsize > 1
    if storage is None or storage.start is None or swapped or is_url(storage.file):
        value = torch.frombuffer(bytearray(reader.read(info)), dtype=dtype).as_strided(info.shape, stride)
    else:
        place = (storage.file, storage.id, dtype)
        if place not in storages:
            data, start = mapped(sources.file(storage.file).fileno(), storage)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                storages[place] = torch.frombuffer(
                    data, dtype=dtype, count=storage.nbytes // dtype.itemsize, offset=start
                )
        value = storages[place].as_strided(info.shape, stride, info.offset)
    is_parameter = info.type_name == "torch.nn.parameter.Parameter"
    return nn.Parameter(value, requires_grad=value.is_floating_point()) if is_parameter else value
