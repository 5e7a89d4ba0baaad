"""An adapter's file and a model that peft wrapped: peft's own mapping, which names the adapter in the model's keys."""

from __future__ import annotations

from collections.abc import Mapping

from ckptdiff.renaming.rename_rules import RenameRule, apply_rules, escape
from ckptdiff.suggesting.key_patterns import Shape

_ADAPTED = "base_model.model."
"""What every key of an adapter begins with (peft, `get_peft_model_state_dict`)."""
_ORIGINAL = "original_module"
_OF_THE_BASE = frozenset({"base_layer", _ORIGINAL})
"""Where peft keeps the base model's own tensors inside modules that it wraps. Of these an adapter's file has embeddings
at most, under the name that they have in the model."""
_COPIED = "modules_to_save"


def is_adapter(checkpoint: Mapping[str, Shape]) -> bool:
    """Whether all keys are an adapter's, and none the original of a module that was trained."""
    return all(key.startswith(_ADAPTED) and _ORIGINAL not in key.split(".") for key in checkpoint)


def adaptable(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> dict[str, Shape]:
    """A model without what an adapter cannot fill: the originals beside which peft trained copies."""
    return {key: shape for key, shape in model.items() if key in checkpoint or _OF_THE_BASE.isdisjoint(key.split("."))}


def adapter_rules(checkpoint: Mapping[str, Shape], model: Mapping[str, Shape]) -> list[RenameRule]:
    """The renames that peft makes of an adapter's keys, `lora_A.weight` to `lora_A.NAME.weight` and `score.weight` to
    `score.modules_to_save.NAME.weight` (peft, `set_peft_model_state_dict`); none where the model has several adapters
    that the keys could be meant for."""
    if not is_adapter(checkpoint):
        return []
    sides: dict[str, str] = {}
    names: set[str] = set()
    for key, shape in adaptable(checkpoint, model).items():
        parts = key.split(".")
        for place in range(1, len(parts)):
            copied = parts[place - 1] == _COPIED
            kept = parts[: place - copied] + parts[place + 1 :]
            if checkpoint.get(".".join(kept)) == shape and ".".join(kept) not in model:
                names.add(parts[place])
                old, new = ("", "") if copied else ("{p}.", "{p}.")
                start = 0 if copied else place - 1
                end = ["{*}"] if copied else [escape(part) for part in parts[place + 1 :]]
                old += ".".join([*map(escape, kept[start : place - copied]), *end])
                new += ".".join([*map(escape, parts[start : place + 1]), *end])
                sides[old] = new
    if len(names) != 1:
        return []
    rules = [RenameRule(old, new) for old, new in sides.items()]
    counts = apply_rules(rules, checkpoint, strict=False).counts
    reason = f"where peft puts it for the model's one adapter, {names.pop()}"
    return [
        RenameRule(rule.pattern, rule.replacement, "certain", count, reason)
        for rule, count in zip(rules, counts, strict=True)
        if count
    ]
