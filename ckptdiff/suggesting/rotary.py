"""How the rows of a rotary attention's queries and keys are ordered: neighbouring pairs of a head, or its two halves.

Shapes do not show it. Code of one kind that gets the weights of the other computes nonsense without an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ckptdiff.suggesting.key_features import Unit
from ckptdiff.suggesting.key_patterns import SLOT

Layout = Literal["pairs", "halves", "unknown", ""]
"""The order of the rows; `unknown` of a rotary attention whose names do not say it, "" where nothing is rotary."""

REORDERED = "the two layouts order the rows of a rotary head differently, so its values need a permutation"

# The last component of a query's module, and a component beside it or in its block that makes it this family's.
_KNOWN: tuple[tuple[str, str, Layout], ...] = (
    ("wq", "w3", "pairs"),  # Meta's and Mistral's own code (llama/model.py, `apply_rotary_emb`)
    ("q_proj", "output_proj", "pairs"),  # torchtune (modules/position_embeddings.py, RotaryPositionalEmbeddings)
    ("q_proj", "o_proj", "halves"),  # transformers (models/llama/modeling_llama.py, `rotate_half`)
)
_ROTARY = frozenset({"rotary", "rope", "inv"})
_PLACED = frozenset({"pos", "rel"})


def rotary_layout(units: Sequence[Unit]) -> Layout:
    """What the names of one side say of it."""
    if any(unit.names & _PLACED and not unit.names & _ROTARY for unit in units):
        return ""
    queries = {unit.module for unit in units if unit.role == "w" and "q" in unit.last and len(unit.module) > 1}
    if not queries:
        return ""
    parts: dict[tuple[str, ...], set[str]] = {}
    for unit in units:
        for depth in range(1, len(unit.module)):
            parts.setdefault(unit.module[:depth], set()).add(unit.module[-1])
    for name, beside, layout in _KNOWN:
        if any(query[-1] == name and beside in parts[_block(query)] for query in queries):
            return layout
    return "unknown" if any(unit.names & _ROTARY for unit in units) or _normed_without_bias(units) else ""


def turned(unit: Unit) -> bool:
    """Whether a tensor makes queries or keys, which a rotary attention turns."""
    return bool(unit.last & {"q", "k", "qk", "qkv"}) and "norm" not in unit.names


def _block(module: tuple[str, ...]) -> tuple[str, ...]:
    """The innermost repeated module that a module lies in, else what holds it."""
    depth = max((place + 1 for place, part in enumerate(module[:-1]) if SLOT in part), default=len(module) - 1)
    return module[:depth]


def _normed_without_bias(units: Sequence[Unit]) -> bool:
    """Whether the blocks' norms have a scale alone, beside a gated MLP: what comes with rotary attention."""
    # The first and the second norm of a block are told apart: `norm 0/2`.
    normed = [unit for unit in units if any(word.partition(" ")[0] == "norm" for word in unit.last)]
    norms = {unit.module for unit in normed if SLOT in "".join(unit.module)}
    biased = {unit.module for unit in units if unit.role == "b"}
    return bool(norms) and not norms & biased and any("gate" in unit.last for unit in units)


def in_another_order(here: Layout, there: Layout) -> bool:
    """Whether rows of the one layout may not be taken for rows of the other."""
    return here != there and ("pairs" in (here, there) or {here, there} == {"halves", "unknown"})
