"""What torch and safetensors themselves read of a file, held against what was read of it here.

For `--verify`, which must not share what it is to confirm.

Nothing a file names is run (weights_only=True), and no value is read: everything is put on the meta device.
"""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import torch

from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.places import is_url

Facts = dict[Any, tuple[str, tuple[int, ...]] | None]


def disagreement(checkpoint: Checkpoint) -> str:
    """How the library's own reading of the checkpoint's file differs, or "". Not every file can be asked about: only
    what torch.load takes with weights_only=True, as a zip archive, and safetensors."""
    path = checkpoint.path
    if checkpoint.live is not None or is_url(path) or not os.path.isfile(path):  # noqa: PTH113
        return ""
    asked = {"torch-zip": _torch_zip, "safetensors": _safetensors}.get(checkpoint.format)
    if asked is None:
        return ""
    # Renames may have been applied to the checkpoint; the file itself is what is asked about.
    ours = read(path, key=checkpoint.state_dict_key or None) if checkpoint.format == "torch-zip" else read(path)
    theirs = asked(path, ours)
    if theirs is None:
        return ""
    facts, metadata = theirs
    tensors = ours.tensors
    told: Facts = {key: (tensors[key].dtype, tensors[key].shape) if key in tensors else None for key in ours.entries}
    if list(told) != list(facts):
        return f"the keys {sorted(map(str, told.keys() ^ facts.keys()))[:3] or 'in another order'}"
    differing = [key for key in told if told[key] != facts[key]]
    if differing:
        return f"{differing[0]!r}: {facts[differing[0]]}, and was read as {told[differing[0]]}"
    if metadata is not None and ours.metadata is not None and _versions(ours.metadata) != _versions(metadata):
        return "_metadata"
    return ""


def _torch_zip(path: str, ours: Checkpoint) -> tuple[Facts, Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value: Any = torch.load(path, map_location="meta", weights_only=True)
        except Exception:  # the file does not allow it
            return None
    value = _at(value, ours.state_dict_key)
    if not isinstance(value, dict):
        return None
    return {key: _facts(item) for key, item in value.items()}, copy.deepcopy(getattr(value, "_metadata", None))


def _safetensors(path: str, ours: Checkpoint) -> tuple[Facts, Any] | None:
    try:
        from safetensors import safe_open
    except ImportError:
        return None
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        sizes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    # The order is that of the bytes, which the library does not tell; nor does it tell a dtype in torch's words.
    tensors = ours.tensors
    order = [key for key in tensors if key in keys] + sorted(keys - tensors.keys())
    halved = ("float4_e2m1fn_x2",)
    return {
        key: (tensors[key].dtype, tensors[key].shape if tensors[key].dtype in halved else sizes[key])
        if key in tensors
        else ("", sizes[key])
        for key in order
    }, None


def _facts(item: Any) -> tuple[str, tuple[int, ...]] | None:
    return (str(item.dtype).removeprefix("torch."), tuple(item.shape)) if isinstance(item, torch.Tensor) else None


def _at(value: Any, key: str) -> Any:
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


def _versions(metadata: Any) -> Any:
    """The part of it that is plain: what else there is has a description on our side alone."""
    return {module: local.get("version") for module, local in metadata.items() if isinstance(local, dict)}
