"""PEFT: `PeftModel.from_pretrained(model, path)`, which adds an adapter to a base model."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

from ckptdiff.errors import CheckpointError, CkptdiffError, UsageError
from ckptdiff.following.followed import Followed
from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.left import Left
from ckptdiff.loaders.library_call import (
    Seen,
    StateLoad,
    called,
    given_model,
    quietly,
    release,
    spelled,
    state_loads,
)
from ckptdiff.loaders.lora_names import naming_of
from ckptdiff.loaders.outcome import Filled, Loader, Outcome, Problem
from ckptdiff.loaders.snapshot_modules import outline_of
from ckptdiff.model.libraries import offline
from ckptdiff.model.reference import Reference
from ckptdiff.model.snapshot import read_snapshot
from ckptdiff.model.tree import ModuleTree
from ckptdiff.patches import patches
from ckptdiff.spelling import given

CONFIG = "adapter_config.json"
_OPTIONS = (
    "adapter_name", "is_trainable", "autocast_adapter_dtype", "low_cpu_mem_usage", "key_mapping", "subfolder",
    "ignore_mismatched_sizes",
)  # fmt: skip


def ask(asked: Asked) -> Left:
    """What an adapter leaves in a base model. What the base has is its own matter: the adapter is to give the rest.

    Raises CkptdiffError for what is no adapter's directory, or has no base model that is there.
    """
    asked.refuse_unknown_options("peft", _OPTIONS)
    _ensure_adapter(asked)
    _ensure_places()
    loader = Loader(
        "peft", release("peft"), f"PeftModel.from_pretrained(model, path{spelled(asked.options)})", "followed"
    )
    with offline():
        left, seen = called(asked, loader, lambda followed: _prepared(followed, asked), "peft", "transformers")
        left = replace(left, outcome=replace(left.outcome, loader=_with_lines(loader, seen.module, asked)))
        _ensure_known(left.outcome, seen.module, asked)
        if seen.module is None:
            return left
        return replace(left, outcome=_as_adapter(left.outcome, seen.module, asked))


def _with_lines(loader: Loader, module: nn.Module | None, asked: Asked) -> Loader:
    """The call as Python; the base model by its own from_pretrained where it is a directory of transformers'."""
    lines = ["from peft import PeftModel", f"model = {loader.call}"]
    named = isinstance(asked.model, Reference) and asked.model.kind == "hf"
    folder = asked.model.target if isinstance(asked.model, Reference) and named else base_of(asked.path)
    if asked.model is not None and not named:
        return replace(loader, python=tuple(lines), takes_model=True)
    get = getattr(module, "get_base_model", None)
    kind = type(get()) if callable(get) else None
    if kind is None or not kind.__module__.startswith("transformers.") or asked.args:
        return loader
    base = f"model = {kind.__name__}.from_pretrained({folder!r})"
    return replace(loader, python=(f"from transformers import {kind.__name__}", base, *lines))


def _ensure_places() -> None:
    """Raise CkptdiffError for a release in which what is looked at here is elsewhere."""
    for module, names in _PLACES.items():
        try:
            imported: Any = import_module(module)
            for name in names:
                attrgetter(name)(imported)
        except (ImportError, AttributeError):
            raise CkptdiffError(
                f"peft {release('peft')} keeps what it says of a load elsewhere than known here.",
                f"Use peft 0.21, or a newer ckptdiff; {given('loader', 'torch')} asks load_state_dict.",
            ) from None


_PLACES = {
    "peft": ("PeftModel.load_adapter", "PeftModel.from_pretrained"),
    "peft.utils": ("get_peft_model_state_dict",),
    "peft.tuners.tuners_utils": ("BaseTunerLayer",),
    "peft.utils.other": ("AuxiliaryTrainingWrapper",),
}


def _ensure_adapter(asked: Asked) -> None:
    folder = Path(asked.path, str(asked.options.get("subfolder") or ""))
    if (folder / CONFIG).is_file():
        return
    naming = None
    if folder.is_file():
        from ckptdiff.checkpoint.reading import read

        naming = naming_of(map(str, read(str(folder)).entries))
    if naming is not None:
        raise CheckpointError(
            f"{asked.path} is a file of LoRA weights with the names of {naming.name}, and no adapter's directory",
            naming.conversion or f"PEFT needs the {CONFIG} that was saved beside it.",
        )
    inside = sorted(place.parent.name for place in folder.glob(f"*/{CONFIG}"))
    hint = f"Of those inside, name one: {', '.join(inside)}." if inside else "Name the directory that holds it."
    raise CheckpointError(f"{asked.path} has no {CONFIG}, and so is no adapter that PEFT saved", hint)


def base_of(path: str) -> str:
    """The directory of the base model that an adapter names, "" where it is none that is there."""
    try:
        named = json.loads(Path(path, CONFIG).read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return named if isinstance(named, str) and Path(named).is_dir() else ""


def _prepared(followed: Followed, asked: Asked) -> Callable[[Seen], None]:
    if asked.model is None:
        base = base_of(asked.path)
        if not base:
            raise UsageError(
                "An adapter needs the base model that it was made for, and names none that is there.",
                "Pass it, for example hf:DIRECTORY.",
            )
        from ckptdiff.model.reference import parse_reference

        asked = replace(asked, model=parse_reference(f"hf:{base}"))
    outline = _outline(asked)
    model = outline if outline is not None else given_model(followed, asked)
    return lambda seen: _load(seen, model, asked)


def _outline(asked: Asked) -> nn.Module | None:
    """The base model's outline where there is only a snapshot of it; None where there is the model itself.

    Raises UsageError for an adapter that goes by more than modules and their shapes.
    """
    tree = _described(asked)
    if tree is None:
        return None
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(Path(asked.path, str(asked.options.get("subfolder") or ""))))
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise UsageError(
            f"An adapter of {config.peft_type.value} goes by the base model's configuration, which no snapshot holds.",
            "Name the model itself, such as hf:DIRECTORY.",
        )
    return outline_of(tree)


def _described(asked: Asked) -> ModuleTree | None:
    model = asked.model
    if isinstance(model, ModuleTree):
        return model
    if isinstance(model, Reference) and model.kind == "snapshot":
        return read_snapshot(model.target)
    return None


def _ensure_known(outcome: Outcome, module: nn.Module | None, asked: Asked) -> None:
    """Raise CkptdiffError for an error that PEFT might not raise on the model of which there is only a snapshot."""
    if outcome.raised is None or _described(asked) is None:
        return
    convolutions = [type(layer) for layer in module.modules()] if module is not None else []
    grouped = any(kind.__name__ in ("Conv1d", "Conv2d", "Conv3d") for kind in convolutions)
    if grouped or not _TOLD_BY_SHAPES.match(outcome.raised):
        raise CkptdiffError(
            f"Of a model that is known by a snapshot alone, PEFT cannot tell: {outcome.raised.splitlines()[0]}",
            "Name the model itself, such as model.py:Net or hf:DIRECTORY.",
        )


_TOLD_BY_SHAPES = re.compile(r"RuntimeError: Error\(s\) in loading state_dict|KeyError: |.*not found in the base model")
"""Errors that follow from the names and shapes of modules alone."""


def _load(seen: Seen, model: nn.Module, asked: Asked) -> None:
    from peft import PeftModel

    adapted: Any = None
    original = PeftModel.load_adapter

    def load_adapter(self: object, *args: object, **kwargs: object) -> object:
        nonlocal adapted
        adapted = self
        result = original(self, *args, **kwargs)
        seen.tell(missing=tuple(result.missing_keys), unexpected=tuple(result.unexpected_keys), ignored=True)
        return result

    loads: list[StateLoad] = []
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            patches() as patched,
            state_loads() as loads,
        ):
            patched.attribute(PeftModel, "load_adapter", load_adapter)
            warnings.simplefilter("always")
            seen.module = PeftModel.from_pretrained(model, asked.path, **asked.options)
        _narrow(seen, [str(warning.message) for warning in warned])
    except BaseException:
        seen.module = adapted or model
        for load in loads:
            if load.error is not None and load.module is adapted:
                seen.tell(missing=load.missing, unexpected=load.unexpected, mismatched=load.mismatched)
        raise


def _narrow(seen: Seen, warned: list[str]) -> None:
    """Leave of the missing keys those that the call itself warns of: some tuners share a parameter under many names."""
    missing = seen.told.missing
    if missing:
        lists = [text for text in warned if "missing adapter keys" in text]
        seen.tell(missing=tuple(key for key in missing if any(repr(key) in text for text in lists)))


@dataclass(frozen=True, slots=True)
class Reach:
    """The modules that an adapter was made for in a base model, and those that its file gives anything."""

    modules: tuple[str, ...]
    reached: tuple[str, ...]
    ranks: tuple[int, ...]


def _as_adapter(outcome: Outcome, module: nn.Module, asked: Asked) -> Outcome:
    """The outcome with what the base model brought told from what the adapter is to give."""
    with quietly():
        name = str(asked.options.get("adapter_name", "default"))
        own = _adapter_keys(module, name, {key for key, item in outcome.filled.items() if item.by == "file"})
        reach = reach_of(module, name, outcome)
    filled: dict[str, Filled] = {}
    for key, item in outcome.filled.items():
        base = item.by in ("initial", "code", "meta") and key not in own
        filled[key] = item._replace(by="base") if base else item
    left = {key for key, item in filled.items() if item.by in ("initial", "code", "meta")}
    # What PEFT misses of the adapter it says so of, though it is one tensor with a key that the file has.
    theirs = left | own
    problems = tuple(item for item in outcome.problems if item.kind != "missing" or item.key in theirs)
    remarks = tuple(_remarks(outcome, reach))
    if reach.modules and not reach.reached and outcome.raised is None:
        text = f"This adapter touches 0 of {len(reach.modules):,} modules."
        problems = (Problem("other", "", text), *problems)
    return replace(outcome, filled=filled, problems=problems, remarks=remarks)


def _adapter_keys(module: nn.Module, name: str, filled: set[str]) -> set[str]:
    """The keys of a model that are an adapter's: those that PEFT would save of it, of prompts those that it fills."""
    configs = getattr(module, "peft_config", None)
    if not isinstance(configs, dict) or name not in configs:
        return set()
    from peft.utils import get_peft_model_state_dict

    state_dict = module.state_dict(keep_vars=True)
    saved = get_peft_model_state_dict(
        module, state_dict=dict(state_dict), adapter_name=name, save_embedding_layers=False
    )
    # Saved under other names, but as the same tensors; what learns prompts saves others, made of its own.
    tensors = {id(value) for value in saved.values()}
    prompts = {key for key in state_dict if key.startswith("prompt_encoder.")}
    return {key for key, value in state_dict.items() if id(value) in tensors} | (set() if prompts & filled else prompts)


def reach_of(module: nn.Module, name: str, outcome: Outcome) -> Reach:
    """Which modules an adapter reaches."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    modules: dict[str, bool] = {}
    ranks: set[int] = set()
    given = [key for key, item in outcome.filled.items() if item.by == "file"]
    for path, layer in module.named_modules():
        if not isinstance(layer, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            continue
        if isinstance(layer, BaseTunerLayer) and type(layer).__module__.endswith(".model"):
            continue  # the tuner itself
        modules[path] = False
        rank = getattr(layer, "r", None)
        if isinstance(rank, Mapping) and isinstance(rank.get(name), int):
            ranks.add(rank[name])
    for key in given:
        parts = key.split(".")
        for end in range(len(parts) - 1, 0, -1):
            path = ".".join(parts[:end])
            if path in modules and parts[end : end + 1] != ["base_layer"]:
                modules[path] = True
                break
    reached = tuple(path for path, touched in modules.items() if touched)
    return Reach(tuple(modules), reached, tuple(sorted(ranks)))


def _remarks(outcome: Outcome, reach: Reach) -> Iterator[str]:
    if reach.modules:
        names = sorted({path.rpartition(".")[2] for path in reach.modules})
        rank = f", rank {', '.join(map(str, reach.ranks))}" if reach.ranks else ""
        shown = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
        yield f"The adapter touches {len(reach.reached):,} of {len(reach.modules):,} modules ({shown}){rank}."
    naming = naming_of(map(str, outcome.checkpoint.entries))
    if naming is not None and naming.conversion:
        yield f"Its names are those of {naming.name}, which PEFT does not know: {naming.conversion}"
    for key, saved, wanted in outcome.mismatches():
        if saved[1:] == wanted[1:] and saved and wanted and _EMBEDDING.search(key):
            yield (
                f"The adapter was saved with a vocabulary of {saved[0]:,}, where the base model has {wanted[0]:,}: "
                f"call model.resize_token_embeddings({saved[0]}) before the adapter is loaded."
            )
            break


_MOST_NAMES = 8
_EMBEDDING = re.compile(r"(embed|wte|lm_head|word_embeddings|shared|vocab|output)")
