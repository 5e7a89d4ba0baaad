"""What torch and safetensors themselves read of a file, held against what was read of it here.

For `--verify`, which must not share what it is to confirm.

Nothing a file names is run (weights_only=True), and no value is read: everything is put on the meta device.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.formats.sharded import ShardIndex
from ckptdiff.places import is_url
from ckptdiff.tensors import TensorInfo
from ckptdiff.torch_private import distributed_classes

Facts = dict[Any, tuple[str, tuple[int, ...]] | None]


def disagreement(checkpoint: Checkpoint) -> str | None:
    """How the library's own reading of the checkpoint's file differs, "" where it does not. None where it cannot be
    asked: a file behind a URL, one that torch.load refuses with weights_only=True, and TorchScript, of which torch
    compiles the code before it gives the tensors."""
    path = checkpoint.path
    if checkpoint.live is not None or is_url(path):
        return None
    # Renames may have been applied to the checkpoint; the file itself is what is asked about.
    ours = read(path, key=checkpoint.state_dict_key or None) if checkpoint.kind.content == "object" else read(path)
    theirs = _theirs(ours)
    if theirs is None:
        return None
    facts, metadata = theirs
    tensors = ours.tensors
    told: Facts = {key: (tensors[key].dtype, tensors[key].shape) if key in tensors else None for key in ours.entries}
    if told.keys() != facts.keys():
        return f"the keys {sorted(map(str, told.keys() ^ facts.keys()))[:3]}"
    if list(told) != list(facts) and ours.kind.by_torch_load:
        return "the keys in another order"
    differing = [key for key in told if told[key] != facts[key]]
    if differing:
        return f"{differing[0]!r}: {facts[differing[0]]}, and was read as {told[differing[0]]}"
    if metadata is not None and ours.metadata is not None and _versions(ours.metadata) != _versions(metadata):
        return "_metadata"
    return ""


def _theirs(ours: Checkpoint) -> tuple[Facts, object] | None:
    """What the libraries say of the file or files that were read."""
    if ours.format == "torch-distributed":
        return _distributed(ours)
    content = None if ours.opened is None else ours.opened.content
    if not isinstance(content, ShardIndex):
        return _of_file(ours.format, ours.path, ours.tensors, ours.state_dict_key)
    assert ours.opened is not None
    facts: Facts = {}
    for file, part in ours.opened.opened_parts().items():
        read = _of_file(part.format, part.name, ours.tensors, "")
        if read is None:
            return None
        facts |= {key: item for key, item in read[0].items() if content.weight_map.get(key) == file}
    return facts, None


def _of_file(form: str, path: str, tensors: dict[str, TensorInfo], key: str) -> tuple[Facts, object] | None:
    if form in ("torch-zip", "torch-legacy"):
        return _torch_load(path, key)
    return _safetensors(path, tensors) if form == "safetensors" else None


def _torch_load(path: str, key: str) -> tuple[Facts, object] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value: object = torch.load(path, map_location="meta", weights_only=True)
        except Exception:  # the file does not allow it
            return None
    value = at(value, key)
    if not isinstance(value, dict):
        return None
    return {key: _facts(item) for key, item in value.items()}, copy.deepcopy(getattr(value, "_metadata", None))


def _distributed(ours: Checkpoint) -> tuple[Facts, object] | None:
    """What Python makes of `.metadata`, which torch would load unguarded: here with torch's classes for it alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Path(ours.path, ".metadata").open("rb") as file:
                metadata = _Metadata(file).load()
        except Exception:  # it names something else
            return None
    facts: Facts = {}
    for flat, item in metadata.state_dict_metadata.items():
        path = (metadata.planner_data or {}).get(flat, (flat,))
        key = ".".join(map(str, path))
        properties = getattr(item, "properties", None)
        if key.startswith(f"{ours.state_dict_key}." if ours.state_dict_key else ""):
            inner = key[len(ours.state_dict_key) + 1 :] if ours.state_dict_key else key
            facts[inner] = properties and (str(properties.dtype).removeprefix("torch."), tuple(item.size))
    return facts, None


class _Metadata(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        return distributed_classes()[module, name]


def _safetensors(path: str, tensors: dict[str, TensorInfo]) -> tuple[Facts, object] | None:
    try:
        from safetensors import safe_open
    except ImportError:
        return None
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        sizes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    # The order is that of the bytes, which the library does not tell; nor does it tell a dtype in torch's words.
    order = [key for key in tensors if key in keys] + sorted(keys - tensors.keys())
    halved = ("float4_e2m1fn_x2",)
    return {
        key: (tensors[key].dtype, tensors[key].shape if tensors[key].dtype in halved else sizes[key])
        if key in tensors
        else ("", sizes[key])
        for key in order
    }, None


def _facts(item: object) -> tuple[str, tuple[int, ...]] | None:
    return (str(item.dtype).removeprefix("torch."), tuple(item.shape)) if isinstance(item, torch.Tensor) else None


def at(value: Any, key: str) -> object:
    """What lies at a dotted path; names may hold dots themselves, so the longest that fits is taken."""
    while key:
        if isinstance(value, (list, tuple)):
            value = dict(zip(map(str, range(len(value))), value, strict=True))
        names = [name for name in value if isinstance(name, str)] if isinstance(value, dict) else []
        fitting = [name for name in names if key.startswith(name) and key[len(name) : len(name) + 1] in ("", ".")]
        if not fitting:
            return None
        name = max(fitting, key=len)
        value, key = value[name], key[len(name) + 1 :]
    return value


def _versions(metadata: Any) -> object:
    """The part of it that is plain: what else there is has a description on our side alone."""
    return {module: local.get("version") for module, local in metadata.items() if isinstance(local, dict)}
