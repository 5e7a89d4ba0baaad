"""Keys on which no weight depends: tables that a model computes, masks, counters, what belongs to a loss. By their
names, and where names say too little, by their shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What such a key is, as its finding says it; the whole key that it has, and what shape. A loss is the file's
    alone: where the model has it, it is a part of the model."""

    what: str
    key: re.Pattern[str]
    shape: Callable[[Shape], bool] = lambda _: True
    missing_too: bool = True


def _scalar(shape: Shape) -> bool:
    return shape in ((), (1,))


def _square(shape: Shape) -> bool:
    return len(shape) > 1 and shape[-1] == shape[-2]


def _mask(shape: Shape) -> bool:
    return len(shape) == 4 and shape[:2] == (1, 1) and _square(shape)


def _last(names: str) -> re.Pattern[str]:
    return re.compile(rf"(?:.*\.)?(?:{names})")


_KINDS = (
    _Kind("rotary frequencies, which the model computes", _last("inv_freq|original_inv_freq|freqs_(?:cis|cos|sin)")),
    _Kind("rotary frequencies, which the model computes", _last("(?:cos|sin)_cached|rope_cache")),
    _Kind("rotary frequencies, which the model computes", _last(r"\w*(?:rope|rotary|freq)\w*\.freqs")),
    _Kind("numbers of positions, which the model computes", _last("position_ids|pos_ids|token_type_ids")),
    _Kind("indices of positions, which the model computes", _last("relative_position_index|relative_coords_table")),
    _Kind("the value behind a causal mask", _last("masked_bias"), _scalar),
    _Kind("a causal mask, which the model computes", _last(r"(?:\w*attn\w*|\w*attention\w*|h\.\d+)\.bias"), _mask),
    _Kind("a mask, which the model computes", _last(r"(?:causal_|attn_|attention_)?mask|tril|triu"), _square),
    _Kind("the counter of an averaged model", _last("n_averaged|num_updates"), _scalar),
    _Kind("a counter of batches, for training", _last("num_batches_tracked"), _scalar),
    _Kind("a count of a profiler", _last("total_ops|total_params"), _scalar),
    _Kind("extra state, which holds no weight", _last("_extra_state")),
    _Kind(
        "a part of the loss",
        re.compile(r"(?:.+\.)?(?:criterions?|loss_(?:fn|func)|loss(?:es)?)\..+"),
        missing_too=False,
    ),
    _Kind("a part of a metric", re.compile(r"(?:.+\.)?\w*metrics?\..+"), missing_too=False),
)


def harmless(key: str, shape: Shape | None, *, missing: bool) -> str:
    """What a key is on which no weight depends, "" of any other; `shape` is None of what is no tensor."""
    for kind in _KINDS:
        if (kind.missing_too or not missing) and kind.key.fullmatch(key) and (shape is None or kind.shape(shape)):
            return kind.what
    return ""
