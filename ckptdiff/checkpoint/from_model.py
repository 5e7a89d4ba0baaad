"""What a model would save, as a Checkpoint: for asking whether a changed model still loads what the old one wrote."""

from __future__ import annotations

from collections.abc import Mapping

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.model.tree import EXTRA_STATE, EXTRA_STATE_KEY, ModuleTree
from ckptdiff.tensors import Entry, ObjectInfo, Storage


def saved_by(tree: ModuleTree, path: str = "") -> Checkpoint:
    """The state dict that `model.state_dict()` gives, without its values.

    Keys, order and `_metadata` follow torch/nn/modules/module.py, `Module.state_dict` and `_save_to_state_dict`. Tied
    tensors share a storage. What code of the model's own would make of it is not known; `warnings` says so.
    """
    entries: dict[str, Entry] = {}
    metadata: dict[str, Mapping[str, object]] = {}
    warnings: list[str] = []
    for prefix, node in tree.walk():
        metadata[prefix[:-1]] = {"version": node.version}
        for name, slot in node.local.items():
            storage = Storage(f"tensor {slot.identity}", path, None, slot.tensor.nbytes)
            entries[prefix + name] = slot.tensor._replace(storage=storage)
            if slot.lazy:
                warnings.append(f"{prefix + name} was uninitialized when the snapshot was taken; its shape is unknown.")
        if EXTRA_STATE in node.custom:
            entries[prefix + EXTRA_STATE_KEY] = ObjectInfo("object", "extra state")
    code = [prefix[:-1] or "the model" for prefix, node in tree.walk() if node.custom]
    if code:
        warnings.append(
            f"{', '.join(code[:3])}{' and others' if len(code) > 3 else ''}: code of the module's own takes part in "
            "loading and may in saving, which a snapshot does not hold."
        )
    return Checkpoint(path, "snapshot", entries, metadata, warnings=tuple(warnings))
