"""Loading what fits into a live model, in one call.

`load_state_dict(strict=False)` does not: it raises on a size mismatch (https://github.com/pytorch/pytorch/issues/40859).
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.tensor_bytes import TensorReader
from ckptdiff.errors import CheckpointError
from ckptdiff.judging.report import Report, judge
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from ckptdiff.places import is_url, open_again
from ckptdiff.tensors import TensorInfo, contiguous_stride
from ckptdiff.writing.byte_copying import Sources
from ckptdiff.writing.compute import dtype_of, mapped
from ckptdiff.writing.entry_values import plain_objects
from ckptdiff.writing.plan import Carry, FilterPlan, Keep
from ckptdiff.writing.planning import plan_filter, plan_rewrite


def load_into(
    module: nn.Module,
    checkpoint: Checkpoint,
    *,
    ignore_mismatched: bool = True,
    strict: bool = False,
    assign: bool = False,
) -> Report:
    """Load into `module` what of `checkpoint` fits, by the module's own `load_state_dict`, and report on all of it.

    `ignore_mismatched=False` refuses tensors of another shape, as torch does. `strict` refuses missing and unexpected
    keys as well. Tensors are memory maps of the file, read as they are copied; with `assign` they become the model's
    own, so that nothing is copied at all.

    Raises CheckpointError where something is refused or nothing fits: the module is then what it was. It is not where
    the file was written to while it was loaded, and the error says so.
    """
    tree = extract(module)
    comparison = compare(tree, checkpoint, assign=assign)
    message = comparison.error_message(strict)
    refused = bool(message) and (strict or not ignore_mismatched or comparison.raised is not None)
    if refused:
        raise CheckpointError(
            f"{checkpoint.path or 'The state dict'} does not load into {tree.root.class_name}",
            "Leave strict out, and mismatched keys ignored, to load what fits; the model is as it was.",
            detail=message or "",
        )
    plan = plan_filter(plan_rewrite(checkpoint, format="torch"), tree)
    state = materialised(plan)
    module.load_state_dict(state, strict=False, assign=assign)
    _ensure_unchanged(checkpoint)
    return judge(comparison)


def _ensure_unchanged(checkpoint: Checkpoint) -> None:
    """Tensors are memory maps, which show whatever the file holds when they are copied."""
    for path, identity in checkpoint.identities.items():
        try:
            open_again(path, identity).close()
        except CheckpointError as error:
            raise CheckpointError(
                error.message, "The model may hold values of both files: load again, or build it anew."
            ) from None


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
        state._metadata = OrderedDict(plan.metadata)  # type: ignore[attr-defined]
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
