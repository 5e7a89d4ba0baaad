"""What the safetensors library says of a safetensors file that we have written: whoever loads it will ask that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_SMALL = 4_000_000
"""Bytes that are handed over whole; of a larger file the library maps what it needs, for which it wants numpy."""

Facts = tuple[str, tuple[int, ...]]
"""A tensor's dtype, in the library's word, and its shape."""


def refusal(path: Path) -> str:
    """Why the library does not take a file as its header says, "" where it does."""
    from safetensors import SafetensorError

    try:
        theirs = dict(_small(path) if path.stat().st_size <= _SMALL else _large(path))
    except SafetensorError as error:
        return str(error)
    ours = dict(_header(path))
    if theirs.keys() != ours.keys():
        return f"it finds other keys: {sorted(theirs.keys() ^ ours.keys())[:3]}"
    return next((f"it finds another {key!r}: {theirs[key]}" for key in ours if theirs[key] != ours[key]), "")


def _small(path: Path) -> Iterator[tuple[str, Facts]]:
    from safetensors import deserialize

    for key, tensor in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        yield key, (tensor["dtype"], tuple(tensor["shape"]))


def _large(path: Path) -> Iterator[tuple[str, Facts]]:
    from safetensors import safe_open

    with safe_open(path, framework="np" if find_spec("numpy") else "pt") as file:
        for key in file.keys():  # noqa: SIM118 - it is no mapping
            tensor = file.get_slice(key)
            yield key, (tensor.get_dtype(), tuple(tensor.get_shape()))


def _header(path: Path) -> Iterator[tuple[str, Facts]]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    for key, tensor in header.items():
        if key != "__metadata__":
            yield key, (tensor["dtype"], tuple(tensor["shape"]))
