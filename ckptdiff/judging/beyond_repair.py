"""Files that no renaming and no leaving out repairs, and why: their values are elsewhere, packed, or a part of all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath

from ckptdiff.loaders.outcome import Outcome
from ckptdiff.tensors import TensorInfo


def beyond_repair(outcome: Outcome) -> str:
    """Why nothing here makes the file fit, a sentence; "" where something may."""
    if not outcome.problems and outcome.raised is None:
        return ""
    return next((why for kind in _KINDS if (why := kind(outcome))), "")


def _placeholders(outcome: Outcome) -> str:
    """What DeepSpeed leaves of a parameter that it has parted, `torch.empty(0)`."""
    tensors = outcome.checkpoint.tensors
    fitting = {key for key, slot in outcome.model.keys().items() if slot.tensor.shape == (0,)}
    empty = sum(tensor.shape == (0,) and key not in fitting for key, tensor in tensors.items())
    wanted = any(given == (0,) and 0 not in wanted for _, given, wanted in outcome.mismatches())
    if not empty or not (wanted or 2 * empty >= len(tensors)):
        return ""
    return (
        f"{empty:,} of its {len(tensors):,} tensors are empty placeholders of shape [0], as DeepSpeed's ZeRO-3 leaves "
        "them: the values are in other files. Gather them with zero_to_fp32.py, or save anew with "
        "stage3_gather_16bit_weights_on_model_save."
    )


_PACKED = {
    "GPTQ or AWQ": re.compile(r"(.+)\.(?:qweight|qzeros)"),
    "bitsandbytes, in 4 bits": re.compile(
        r"(.+)\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)"
    ),
    "bitsandbytes, in 8 bits": re.compile(r"(.+)\.SCB"),
    "compressed-tensors": re.compile(r"(.+)\.weight_packed"),
    "HQQ": re.compile(r"(.+)\.W_q"),
    "mxfp4": re.compile(r"(.+)_blocks"),
    "scaled float8 or int8": re.compile(r"(.+?)(?:[._]weight)?_scale(?:_inv|s)?"),
}
"""What libraries that quantise put beside a packed weight, or call it; `difference/companions.py` has what belongs to
what. The group is the layer, or the weight."""
_SMALL = frozenset(("int8", "uint8", "int16", "uint16", "int32", "uint32"))


def _packed(outcome: Outcome) -> str:
    tensors = outcome.checkpoint.tensors
    unexpected = [key for key in outcome.problem_keys("unexpected") if isinstance(key, str)]
    for scheme, name in _PACKED.items():
        named = [
            key
            for key in unexpected
            if (match := name.fullmatch(key))
            and any(_is_packed(tensors.get(owner)) for owner in (key, match[1], f"{match[1]}.weight"))
        ]
        if named:
            return _unpack(f"{scheme}: {named[0]}" + (f" and {len(named) - 1:,} more" if len(named) > 1 else ""))
    small = [
        key
        for key, given, wanted in outcome.mismatches()
        if _is_packed(tensors.get(key)) and _times(given, wanted) in (2, 4, 8, 16)
    ]
    return _unpack(f"{len(small):,} of them as {tensors[small[0]].dtype}") if small else ""


def _unpack(what: str) -> str:
    return (
        f"The file's weights are quantised and packed ({what}), and the model holds plain ones: nothing here unpacks "
        "them. Dequantise them with the library that packed them, or build the model quantised as they are."
    )


def _is_packed(tensor: TensorInfo | None) -> bool:
    """Whether it is a matrix of what takes fewer bits than a weight."""
    small = tensor is not None and (tensor.dtype in _SMALL or tensor.dtype.startswith(("float8", "float4")))
    return small and tensor is not None and len(tensor.shape) > 1


def _times(given: tuple[int, ...], wanted: tuple[int, ...]) -> int:
    """How many elements of the model's come to one of the file's, 0 where that is no whole number."""
    ours, theirs = 1, 1
    for size in wanted:
        ours *= size
    for size in given:
        theirs *= size
    return ours // theirs if theirs and ours % theirs == 0 else 0


_SHARD = re.compile(r"consolidated\.\d+\.\w+|mp_rank_\d+\w*(?:\.\w+)?")
"""As Meta's and Megatron's code call one rank's file, or its folder. No size tells it from a narrower model."""


def _shard(outcome: Outcome) -> str:
    """One rank's part of tensors that are cut along their rows or their columns."""
    times: set[int] = set()
    for _, given, wanted in outcome.mismatches():
        cut = [place for place, (ours, theirs) in enumerate(zip(wanted, given, strict=False)) if ours != theirs]
        if len(given) != len(wanted) or len(cut) != 1 or not given[cut[0]] or wanted[cut[0]] % given[cut[0]]:
            return ""
        times.add(wanted[cut[0]] // given[cut[0]])
    named = any(_SHARD.fullmatch(part) for part in PurePath(outcome.checkpoint.path).parts[-2:])
    if not named or len(times) != 1:
        return ""
    (number,) = times
    return (
        f"Every size that differs is 1/{number} of the model's, in one dimension: the file is one of {number} shards "
        "of a tensor-parallel set, and the rest of the values is in the others. Give the folder that holds them all."
    )


_KINDS: tuple[Callable[[Outcome], str], ...] = (_placeholders, _packed, _shard)
