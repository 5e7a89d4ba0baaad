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
_SCALES = (
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_scales",
    ".scale_weight",
    ".weight.scale",
    ".scale",
    ".scales",
    ".SCB",
)

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
    "_scales": ("_blocks",),
}
"""Companions that only belong to something, and what that may be called."""
_TOLD_BY_DTYPE = {"_scales": "uint8"}
"""Of these, those that are one by their dtype: mxfp4 has exponents there."""
_BESIDE = ("_scale_inv", "_scale", "_scales", ".scale", ".scales")
"""What a float8 tensor of another name than `weight`, such as stacked experts, has behind its name."""


def lacking(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, str]]:
    """Each key whose companions are not all there, with the end of a sentence on it."""
    keys = [key for key in tensors if isinstance(key, str)]
    fours = _of_bitsandbytes(keys)
    cast = _is_cast(tensors)
    for key in keys:
        tensor = tensors[key]
        if key in fours:
            missing = [part.rstrip("_") for part in _BNB if not any(below.startswith(part) for below in fours[key])]
            nested = {".nested_absmax", ".nested_quant_map"} & fours[key]
            absmax = tensors.get(f"{key}.absmax")
            if nested or (absmax is not None and absmax.dtype == "uint8"):  # packed themselves
                missing += sorted({".nested_absmax", ".nested_quant_map"} - nested)
            if missing:
                yield key, f"is packed by bitsandbytes and lacks {_listed(key, missing)}"
            continue
        second = _second_scale(key, tensors)
        if second:
            yield key, f"is packed in two steps and lacks {second}"
            continue
        if key.endswith(".weight") and tensor.dtype == "uint8" and len(tensor.shape) == 2:
            alone = tensor.shape[1] == 1 or not any(f"{key[:-7]}{end}" in tensors for end in _SCALES)
            if alone and tensor.numel > 1:
                yield key, f"is packed in bytes and lacks {_listed(key, ['.absmax'])} or another scale"
            continue
        if not (cast and tensor.dtype in _FP8):
            yield from _by_scheme(key, tensor, tensors)
    for key in keys:
        for end, owners in _ORPHANS.items():
            of_dtype = _TOLD_BY_DTYPE.get(end, tensors[key].dtype) == tensors[key].dtype
            base = key.removesuffix(end)
            if base != key and of_dtype and not any(f"{base}{owner}" in tensors for owner in owners):
                yield key, "is the scale of a weight that is not there"
                break


def _is_cast(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether all of a checkpoint was cast to float8, as it is published for diffusion: nothing in it is scaled, and
    not even what no quantiser packs, biases and norms, is anything else."""
    small = [tensor for tensor in tensors.values() if tensor.dtype in _FP8]
    return any(len(tensor.shape) == 1 for tensor in small) and not any("scale" in str(key) for key in tensors)


def _second_scale(key: str, tensors: Mapping[str, TensorInfo]) -> str:
    """The scale of the scales that is not there, of a weight of 4-bit floats whose scales are float8."""
    for packed, scale, second in (
        (".weight_packed", ".weight_scale", ".weight_global_scale"),
        (".weight", ".weight_scale", ".weight_scale_2"),
    ):
        base = key.removesuffix(packed)
        if base != key and tensors[key].dtype == "uint8":
            scales = tensors.get(f"{base}{scale}")
            if scales is not None and scales.dtype in _FP8 and f"{base}{second}" not in tensors:
                return f"{base}{second}"
    return ""


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
    stacked = tensor.dtype in _FP8 and len(tensor.shape) >= 2 and "scale" not in key and not key.endswith(".weight")
    if stacked and not any(f"{key}{end}" in tensors for end in _BESIDE):
        yield key, f"is packed (fp8) and lacks {_listed(key, ['_scale_inv'])} or another scale"


def _of_bitsandbytes(keys: list[str]) -> dict[str, set[str]]:
    """Each weight below which something of bitsandbytes stands, and what."""
    every = set(keys)
    companions: dict[str, set[str]] = {}
    for key in keys:
        for part in (*_BNB, ".nested_absmax", ".nested_quant_map"):
            base, mark, rest = key.rpartition(part)
            if mark and base in every and (not rest or part.endswith("_")):
                companions.setdefault(base, set()).add(part + rest)
    return companions


def _listed(base: str, ends: list[str]) -> str:
    return " and ".join(f"{base}{end}" for end in ends)
