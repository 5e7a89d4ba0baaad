"""How many heads an attention has, which no shape shows: from the configuration that lies beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

_FILES = ("config.json", "params.json")
"""transformers', and that of Meta's and Mistral's own code."""
_NAMES = (("num_attention_heads", "num_key_value_heads"), ("n_heads", "n_kv_heads"))


def heads_beside(path: str) -> tuple[int, int] | None:
    """The heads of queries and of keys by the configuration in a directory, or beside a file; None where none says."""
    place = Path(path.removeprefix("hf:"))
    folder = place if place.is_dir() else place.parent
    for name in _FILES:
        try:
            values = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if heads := _heads(values):
            return heads
    return None


def _heads(values: object) -> tuple[int, int] | None:
    if not isinstance(values, Mapping):
        return None
    for of_queries, of_keys in _NAMES:
        queries = values.get(of_queries)
        keys = values.get(of_keys) or queries
        if isinstance(queries, int) and isinstance(keys, int) and queries > 0 and keys > 0:
            return queries, keys
    return _heads(values.get("text_config"))
