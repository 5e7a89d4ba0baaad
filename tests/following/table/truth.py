"""One case: a loader really runs on two files whose values differ, and is followed on the first; both have to agree."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ckptdiff
from ckptdiff.errors import CkptdiffError
from ckptdiff.following.followed import Fill, Followed, ask
from ckptdiff.following.mode import parts
from ckptdiff.following.readers.inert import Refused
from tests.following.oracle import seeded
from tests.following.table.rows import Row, written

COARSE = (torch.uint8, torch.int8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2)
"""Of these, two files may hold the same in many an element: what is filled is asked of the whole tensor."""


@dataclasses.dataclass
class End:
    """How one call of a loader ended: what it raised and returned, and the tensors it left."""

    raised: str | None
    returned: str
    left: Any
    """The model, None where there is none."""
    tensors: dict[str, torch.Tensor]


def called(row: Row, model: nn.Module | None, path: Path) -> End:
    """Really call a loader."""
    seeded()
    raised = result = None
    try:
        result = row.load(path) if row.makes_model else row.load(model, path)
    except BaseException as error:
        raised = f"{type(error).__name__}: {error}"
    left = model_in(result) or model
    return End(raised, shown(result), left, tensors_of(left))


def model_in(result: Any) -> nn.Module | None:
    if isinstance(result, nn.Module):
        return result
    items = result if isinstance(result, (tuple, list)) else ()
    return next((item for item in items if isinstance(item, nn.Module)), None)


def tensors_of(model: nn.Module | None) -> dict[str, torch.Tensor]:
    if model is None:
        return {}
    return {key: value for key, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}


def shown(result: Any) -> str:
    """What was returned, as text: no values, no addresses, sets in order."""
    if isinstance(result, torch.Tensor):
        return f"tensor{tuple(result.shape)}{result.dtype}"
    if isinstance(result, nn.Module):
        return type(result).__name__ + str([key for key, _ in result.named_parameters()][:200])
    if isinstance(result, Mapping):
        return type(result).__name__ + "{" + ", ".join(f"{key}: {shown(value)}" for key, value in result.items()) + "}"
    if isinstance(result, (set, frozenset)):
        return str(sorted(map(str, result)))
    if isinstance(result, (list, tuple)):
        return type(result).__name__ + "[" + ", ".join(map(shown, result)) + "]"
    return without_addresses(str(result))[:2000]


def without_addresses(text: str) -> str:
    """A text without what differs from one real call to the next: addresses, tracebacks, and the order
    in which Rust hands out keys."""
    text = re.sub(r"0x[0-9a-f]+", "0x…", text)
    text = re.sub(r"(?m)^  .*\n", "", text) if "Traceback" in text else text
    return re.sub(r'(?<=: )"[^"\n]*"(?:, "[^"\n]*")+', lambda found: ", ".join(sorted(found[0].split(", "))), text)


def agreement(row: Row, situation: str, folder: Path, *, convert: bool) -> str:
    """`agree`, `agree, with a doubt: …`, `doubt: …`, `refused: …`, or what is wrong."""
    paths = [written(row, situation, seed, folder / str(seed)) for seed in (1, 2)]
    seeded()
    model = None if row.makes_model else row.template()
    ends = [called(row, copy.deepcopy(model), path) for path in paths]
    copied = copy.deepcopy(model)
    seeded()
    try:
        found = ask(row.load, *((paths[0],) if row.makes_model else (copied, paths[0])), trust=row.trust)
    except Refused as refused:
        return f"refused: {refused.name}"
    left = model_in(found.result) or copied
    faults = list(differences(found, left, ends, row))
    doubts = [*(found.unread() if left is None else found.doubts(found.fills(left)))]
    if faults:
        return f"doubt: {doubts[0]} ({faults[0]})" if doubts else "WRONG " + "; ".join(faults[:6])
    if convert and ends[0].raised is None and (fault := converted(row, model, paths[0], ends, folder)):
        return f"WRONG {fault}"
    return f"agree, with a doubt: {doubts[0]}" if doubts else "agree"


def differences(found: Followed, left: nn.Module | None, ends: list[End], row: Row) -> Iterator[str]:
    """What is not as in the real calls."""
    real, other = ends
    if found.raised != real.raised and without_addresses(str(found.raised)) != without_addresses(str(real.raised)):
        yield f"raised {found.raised!r}, really {real.raised!r}"
    if shown(found.result) != real.returned:
        yield f"returned {shown(found.result)[:300]}, really {real.returned[:300]}"
    if left is None or real.left is None:
        if (left is None) != (real.left is None):
            yield f"left {type(left).__name__}, really {type(real.left).__name__}"
        return
    tensors = tensors_of(left)
    if list(tensors) != list(real.tensors):
        yield f"keys {sorted(set(tensors) ^ set(real.tensors))[:5]}"
        return
    fills = found.fills(left)
    for key, tensor in tensors.items():
        twin = None if key.endswith(row.fixed) and row.fixed else other.tensors.get(key)
        fault = fault_of(found, key, tensor, fills[key], real.tensors[key], twin, coarse=row.coarse)
        if fault:
            yield f"{key}: {fault}"


def fault_of(
    found: Followed,
    key: str,
    tensor: torch.Tensor,
    fill: Fill,
    true: torch.Tensor,
    twin: torch.Tensor | None,
    *,
    coarse: bool = False,
) -> str:
    if tensor.is_meta or true.is_meta:
        return "" if tensor.is_meta and true.is_meta else "on meta in one of both"
    if kind(tensor) != kind(true):
        return f"{kind(tensor)}, really {kind(true)}"
    ours, theirs = parts(tensor), parts(true)
    for mine, its in zip(ours, theirs, strict=True):
        if mine.layout is torch.strided and not torch.equal(bits(found.engine.value(mine)), bits(its)):
            return "other values than the real call's"
    if twin is None or twin.shape != true.shape:
        return ""
    differs = [changed(its, his) for its, his in zip(theirs, parts(twin), strict=True)]
    total = sum(mask.numel() for mask in differs)
    count = sum(int(mask.sum()) for mask in differs)
    if coarse or len(ours) > 1 or any(part.dtype in COARSE for part in theirs):
        if (fill.by == "initial") != (not count) and total:
            return f"{fill.by}, really {count} of {total} from the file"
        return ""
    mask = torch.zeros(tensor.numel(), dtype=torch.bool)
    if fill.by == "file":
        mask[:] = True
    for first, end in fill.filled:
        mask[first:end] = True
    true_mask = differs[0].reshape(-1)
    constant = mask & ~true_mask & (plain(theirs[0]).reshape(-1) == 0)  # times nothing, and still made of the file
    if torch.equal(mask & ~constant, true_mask):
        return ""
    return f"{fill.by}, {int(mask.sum())} elements from the file, really {int(true_mask.sum())} of {mask.numel()}"


def kind(tensor: torch.Tensor) -> str:
    return f"{type(tensor).__name__} {tuple(tensor.shape)} {tensor.dtype}"


def plain(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    if type(tensor) not in (torch.Tensor, nn.Parameter):
        tensor = tensor.as_subclass(torch.Tensor)
    return tensor.resolve_conj()


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes."""
    tensor = plain(tensor)
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def changed(tensor: torch.Tensor, twin: torch.Tensor) -> torch.Tensor:
    """Element by element, whether two tensors differ."""
    if tensor.layout is not torch.strided:
        return torch.tensor([not torch.equal(tensor.to_dense(), twin.to_dense())])
    if not tensor.numel():
        return torch.zeros(0, dtype=torch.bool)
    a, b = (bits(item).reshape(tensor.numel(), -1) for item in (tensor, twin))
    return (a != b).any(1)


def converted(row: Row, model: nn.Module | None, path: Path, ends: list[End], folder: Path) -> str:
    """What is wrong with what `convert` writes: it has to be what the real call leaves of the file."""
    out = folder / "out.pth"
    seeded()
    try:
        ckptdiff.convert(model, path, out, loader=row.load, partial=True, trust_checkpoint=row.trust)
    except CkptdiffError as error:
        whole = [key for key, tensor in ends[0].tensors.items() if wholly(tensor, ends[1].tensors.get(key))]
        return f"convert: {error}" if whole else ""
    state = torch.load(out, weights_only=True)
    with contextlib.suppress(FileNotFoundError):
        out.unlink()
    for key, tensor in ends[0].tensors.items():
        if key not in state:
            if wholly(tensor, ends[1].tensors.get(key)):
                return f"convert leaves out {key}"
        elif not torch.equal(bits(state[key]), bits(tensor)) or state[key].shape != tensor.shape:
            return f"convert writes {key} otherwise"
    return ""


def wholly(tensor: torch.Tensor, twin: torch.Tensor | None) -> bool:
    if twin is None or twin.shape != tensor.shape or tensor.is_meta or len(parts(tensor)) > 1:
        return False
    return bool(tensor.numel()) and bool(changed(tensor, twin).all())
