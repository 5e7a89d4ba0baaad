"""A Difference as JSON, for programs: complete and unfolded. `schemas/diff.json` describes it."""

from __future__ import annotations

import math
from typing import Any

from ckptdiff.difference.difference import Change, Difference, Number, Side
from ckptdiff.printable import json_text
from ckptdiff.render.json import SCHEMA_VERSION
from ckptdiff.render.view import View
from ckptdiff.tensors import TensorInfo


def difference(diff: Difference, view: View) -> str:  # noqa: ARG001 - programs get everything
    """What differs, ending with a newline."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "verdict": diff.verdict,
        "basis": diff.basis,
        "doubts": list(diff.doubts),
        "notes": list(diff.notes),
        "a": _side(diff.a),
        "b": _side(diff.b),
        "equal": list(diff.equal),
        "renamed": [{"a": key, "b": other, "evidence": diff.evidence.get(key, "rule")} for key, other in diff.renamed],
        "only_in_a": [_only(diff, key, diff.tensors_a) for key in diff.only_in_a],
        "only_in_b": [_only(diff, key, diff.tensors_b) for key in diff.only_in_b],
        "other_shape": [
            {
                "key": key,
                "a": list(before),
                "b": list(after),
                "explained": diff.explained.get(key),
                "digests": _digests(diff, key),
            }
            for key, before, after in diff.other_shape
        ],
        "changed": [_change(diff, change) for change in diff.changed.values()],
        "close": [_change(diff, change) for change in diff.close.values()],
        "nan_of_other_bits": dict(diff.nan),
        "beside": [
            {"where": entry.where, "key": entry.key, "a": entry.before, "b": entry.after} for entry in diff.beside
        ],
    }
    return json_text(value, indent=2, default=str, allow_nan=False) + "\n"


def _side(side: Side) -> dict[str, Any]:
    return {
        "path": side.name,
        "format": side.format,
        "state_dict_key": side.state_dict_key,
        "tensors": side.tensors,
        "bytes": side.nbytes,
    }


def _only(diff: Difference, key: str, tensors: Any) -> dict[str, Any]:
    tensor: TensorInfo = tensors[key]
    return {
        "key": key,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "explained": diff.explained.get(key),
        "digests": _digests(diff, key),
    }


def _change(diff: Difference, change: Change) -> dict[str, Any]:
    return {
        "key": change.key,
        "key_in_b": change.other,
        "dtype": [change.before.dtype, change.after.dtype],
        "shape": list(change.before.shape),
        "elements": change.numel,
        "count": change.count,
        "max_abs": _number(change.max_abs),
        "index": None if change.index is None else list(change.index),
        "values": None if change.values is None else [_number(value) for value in change.values],
        "max_ulp": change.max_ulp,
        "rel_l2": change.rel_l2,
        "cosine": change.cosine,
        "norm": _number(change.norm),
        "norms": None if change.norms is None else [_number(value) for value in change.norms],
        "nan": change.nan,
        "new_nan": change.new_nan,
        "new_inf": change.new_inf,
        "signed_zeros": change.signed_zeros,
        "cast": change.cast,
        "explained": change.explained,
        "digests": _digests(diff, change.key),
    }


def _digests(diff: Difference, key: str) -> list[str | None] | None:
    return list(diff.digests[key]) if key in diff.digests else None


def _number(value: Number | None) -> Any:
    """A number; as text what JSON has none for: `"nan"`, `"inf"`, `"1+2j"`."""
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
