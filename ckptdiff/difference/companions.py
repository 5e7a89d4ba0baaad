"""Which tensors of quantised weights belong together, by their names: a packed one says nothing without its scale.

Each scheme is a row: what the library that writes it calls the packed tensor and its companions, beside it or below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ckptdiff.tensors import TensorInfo


@dataclass(frozen=True, slots=True)
class Scheme:
    """`packed` is the end of a key; each group of `companions` are the ends of keys of which one must be there."""

    name: str
    packed: str
    companions: tuple[tuple[str, ...], ...]
    dtypes: tuple[str, ...] = ()
    """Those of the packed one by which it is told, where its name alone does not say it."""


_FP8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_SCALES = (".weight_scale", ".weight_scale_inv", ".scale_weight", ".weight.scale", ".scale", ".scales", ".SCB")

SCHEMES = (
    Scheme("GPTQ or AWQ", ".qweight", ((".scales",), (".qzeros",)), ("int32", "int16", "uint32")),
    Scheme("compressed-tensors", ".weight_packed", ((".weight_scale",),)),
    Scheme("mxfp4", "_blocks", (("_scales",),), ("uint8",)),
    Scheme("fp8", ".weight", (_SCALES,), _FP8),
    Scheme("fp4", ".weight", (_SCALES,), ("float4_e2m1fn_x2",)),
    Scheme("int8", ".weight", (_SCALES,), ("int8",)),
)
_BNB = (".absmax", ".quant_map", ".quant_state.bitsandbytes__")
"""What stands below a 4-bit weight of bitsandbytes (bitsandbytes/functional.py, QuantState)."""
_ORPHANS = {
    ".weight_scale_inv": (".weight",),
    ".SCB": (".weight",),
    ".qzeros": (".qweight",),
    ".weight_packed_scale": (".weight_packed",),
    ".weight_scale": (".weight", ".weight_packed"),
    ".absmax": ("",),
}
"""Companions that only belong to something, and what that may be called."""


def lacking(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, str]]:
    """Each key whose companions are not all there, with the end of a sentence on it."""
    keys = [key for key in tensors if isinstance(key, str)]
    fours = _of_bitsandbytes(keys)
    for key in keys:
        tensor = tensors[key]
        if key in fours:
            missing = [part.rstrip("_") for part in _BNB if not any(below.startswith(part) for below in fours[key])]
            nested = {".nested_absmax", ".nested_quant_map"} & fours[key]
            if len(nested) == 1:
                missing.append(".nested_quant_map" if ".nested_absmax" in nested else ".nested_absmax")
            if missing:
                yield key, f"is packed by bitsandbytes and lacks {_listed(key, missing)}"
            continue
        if key.endswith(".weight") and tensor.dtype == "uint8" and len(tensor.shape) == 2:
            alone = tensor.shape[1] == 1 or not any(f"{key[:-7]}{end}" in tensors for end in _SCALES)
            if alone and tensor.numel > 1:
                yield key, f"is packed in bytes and lacks {_listed(key, ['.absmax'])} or another scale"
            continue
        yield from _by_scheme(key, tensor, tensors)
    for key in keys:
        for end, owners in _ORPHANS.items():
            if key.endswith(end) and not any(f"{key.removesuffix(end)}{owner}" in tensors for owner in owners):
                yield key, "is the scale of a weight that is not there"
                break


def _by_scheme(key: str, tensor: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, str]]:
    for scheme in SCHEMES:
        if not key.endswith(scheme.packed) or (scheme.dtypes and tensor.dtype not in scheme.dtypes):
            continue
        if len(tensor.shape) < 2 and scheme.packed == ".weight":
            continue
        base = key.removesuffix(scheme.packed)
        gone = [ends[0] for ends in scheme.companions if not any(f"{base}{end}" in tensors for end in ends)]
        if gone:
            yield key, f"is packed ({scheme.name}) and lacks {_listed(base, gone)}"
        return


def _of_bitsandbytes(keys: list[str]) -> dict[str, set[str]]:
    """Each weight below which something of bitsandbytes stands, and what."""
    every = set(keys)
    found: dict[str, set[str]] = {}
    for key in keys:
        for part in (*_BNB, ".nested_absmax", ".nested_quant_map"):
            base, mark, rest = key.rpartition(part)
            if mark and base in every and (not rest or part.endswith("_")):
                found.setdefault(base, set()).add(part + rest)
    return found


def _listed(base: str, ends: list[str]) -> str:
    return " and ".join(f"{base}{end}" for end in ends)
