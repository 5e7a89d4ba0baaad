"""What a user should know of a checkpoint of a certain make: one sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptdiff.formats.hf_shards import INFO
from ckptdiff.formats.reach import is_numpy
from ckptdiff.tensors import Entry, ObjectInfo, TensorInfo

MAX_LISTED = 5
CONSOLIDATE = "torch.distributed.checkpoint._consolidate_hf_safetensors.consolidate_safetensors_files"


def notices(name: str, root: object, chosen: Mapping[Any, object], entries: Mapping[str, Entry]) -> list[str]:
    """Warnings about tensors that are not what their keys promise."""
    notes = []
    if isinstance(root, dict) and ("param_shapes" in root or "ds_version" in root or "ds_config" in root):
        empty = [
            key
            for key, entry in entries.items()
            if isinstance(entry, TensorInfo) and entry.shape == (0,) and type(key) is str
        ]
        if empty:
            notes.append(
                f"{name} is a DeepSpeed ZeRO-3 checkpoint: {len(empty)} tensors are placeholders of shape [0] "
                f"({_listed(empty)}), their values are in other files; convert it with zero_to_fp32.py"
            )
    flat = [key for key in entries if type(key) is str and _is_flat(key)]
    if flat:
        notes.append(
            f"{name} holds FSDP flat parameters ({_listed(flat)}): they cannot be compared by key; "
            "save a full state dict instead"
        )
    parts = [
        key
        for key, entry in entries.items()
        if isinstance(entry, ObjectInfo) and entry.type_name.rpartition(".")[2] == "ShardedTensor"
    ]
    if parts:
        notes.append(
            f"{name} holds one rank's part of {len(parts)} sharded tensors: save a full state dict to compare them"
        )
    arrays = [key for key, value in chosen.items() if type(key) is str and is_numpy(value)]
    if arrays:
        notes.append(
            f"{name} holds numpy values beside its tensors ({_listed(arrays)}), and load_state_dict takes only tensors"
        )
    return notes


_FRAMEWORKS = {
    "mlx": "MLX, whose convolutions have the channels last",
    "tf": "TensorFlow",
    "flax": "Flax",
    "jax": "JAX",
}


def foreign(name: str, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """A warning where a safetensors file says that another framework wrote it: names and layouts are its own."""
    framework = _FRAMEWORKS.get(metadata.get("format", ""))
    return (f"{name} says that it was written for {framework}",) if framework else ()


def part_of_tensors(name: str, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What to know of one such file by itself."""
    if INFO not in metadata:
        return ()
    text = (
        f"{name} is one rank's part of a checkpoint of torch.distributed.checkpoint ({INFO}), and the sizes of its "
        f"tensors are those of their parts: give its directory, or consolidate it with {CONSOLIDATE}"
    )
    return (text,)


def _is_flat(key: str) -> bool:
    """FlatParameter's names in torch/distributed/fsdp/_flat_param.py and, before, in fairscale."""
    last = key.rpartition(".")[2]
    return last in ("_flat_param", "flat_param") or last.startswith("flat_param_")


def _listed(keys: list[str]) -> str:
    from ckptdiff.formats.pickles.entries import shown

    more = ", …" if len(keys) > MAX_LISTED else ""
    return ", ".join(shown(key) for key in keys[:MAX_LISTED]) + more
