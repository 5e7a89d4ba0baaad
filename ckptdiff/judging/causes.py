"""What put other names into a file than the model has: who wraps a model, by what is left of it in the keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ckptdiff.loaders.outcome import Outcome

_ANYWHERE = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
"""Components that stand where a module was wrapped; the model itself, or one of its parts."""
_PEFT = "base_model.model."
_OUTERMOST = {
    "module": "DataParallel or DDP",
    "_forward_module": "Lightning Fabric",
    "_module": "Opacus",
}
_AVERAGED = "n_averaged"
_LIGHTNING = "pytorch-lightning_version"


def cause(outcome: Outcome) -> str:
    """Whose state dict the file has, where it or else the model was wrapped in what the other was not: `of a model in
    torch.compile`; "" for nothing that is known."""
    checkpoint = outcome.checkpoint
    file = [key for key in checkpoint.entries if isinstance(key, str)]
    if checkpoint.origins:
        file = [source for key in file for _, source in checkpoint.origin(key).sources]
    model = list(outcome.model.keys())
    if wrapped := _wrapped(file, model):
        return f"of a model in {wrapped}"
    outermost, keys = next(iter(_firsts(file).most_common(1)), ("", 0))
    if _LIGHTNING in checkpoint.container and 2 * keys > len(file) and outermost not in _firsts(model):
        return f"of a LightningModule that has it as `{outermost}`"
    if file and (wrapped := _wrapped(model, file)):
        return f"of a bare model, and the one that is named is in {wrapped}"
    return ""


def _wrapped(keys: Iterable[str], others: Iterable[str]) -> str:
    """Who wraps the model of some keys, and not that of the others."""
    keys, others = list(keys), list(others)
    told = list(_wrappers(keys, others))
    return " and ".join(dict.fromkeys(told))


def _wrappers(keys: list[str], others: list[str]) -> Iterator[str]:
    inside, outside = _parts(keys), _parts(others)
    found = [part for part in _ANYWHERE if part in inside and part not in outside]
    for part in found:
        whole = all(part in key.split(".") for key in keys if "." in key)
        yield _ANYWHERE[part] + ("" if whole else ", in part")
    bare = [".".join(part for part in key.split(".") if part not in found) for key in keys]
    first, other = _first(bare), _first(others)
    if first != other and first in _OUTERMOST:
        averaged = first == "module" and _AVERAGED in keys
        yield "AveragedModel, which averages weights (`n_averaged`)" if averaged else _OUTERMOST[first]
    if all(key.startswith(_PEFT) for key in bare) and bare and not any(key.startswith(_PEFT) for key in others):
        yield "peft"


def _parts(keys: Iterable[str]) -> set[str]:
    """The names of modules: all components but those of tensors."""
    return {part for key in keys for part in key.split(".")[:-1]}


def _firsts(keys: Iterable[str]) -> Counter[str]:
    return Counter(key.partition(".")[0] for key in keys if "." in key)


def _first(keys: Iterable[str]) -> str:
    """The component that all keys begin with but those of a single one; "" where they do not."""
    firsts = _firsts(keys)
    return next(iter(firsts)) if len(firsts) == 1 else ""
