"""diffusers: every model class that builds small, in several situations, each tried for real beside the answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.loaders.real_calls import Real, disagreements, other_values, quiet, really
from tests.zoo.tiny_diffusers import classes, tiny

MOST = 12_000_000
"""Elements of a model that is still tried."""
FILE = "diffusion_pytorch_model.safetensors"
Tensors = dict[str, torch.Tensor]


def _nothing(_: Tensors) -> None:
    pass


def _drop(tensors: Tensors) -> None:
    del tensors[sorted(tensors)[len(tensors) // 2]]


def _add(tensors: Tensors) -> None:
    tensors["another.weight"] = torch.ones(2)


def _reshape(tensors: Tensors) -> None:
    key = sorted(tensors)[-1]
    tensors[key] = torch.ones(3, *tensors[key].shape)


def _prefix(tensors: Tensors) -> None:
    _rename(tensors, lambda key: f"module.{key}")


def _old_attention(tensors: Tensors) -> None:
    """The names that attention blocks had before there was one class for them."""
    new_to_old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def name(key: str) -> str:
        for new, old in new_to_old.items():
            key = key.replace(f".{new}.", f".{old}.")
        return key

    _rename(tensors, name)


def _rename(tensors: Tensors, name: Callable[[str], str]) -> None:
    renamed = {name(key): value for key, value in tensors.items()}
    tensors.clear()
    tensors.update(renamed)


SITUATIONS: dict[str, tuple[Callable[[Tensors], None], dict[str, Any]]] = {
    "as saved": (_nothing, {}),
    "not on meta": (_nothing, {"low_cpu_mem_usage": False}),
    "key dropped": (_drop, {}),
    "key dropped, not on meta": (_drop, {"low_cpu_mem_usage": False}),
    "key added": (_add, {}),
    "shape changed": (_reshape, {}),
    "shape ignored": (_reshape, {"low_cpu_mem_usage": False, "ignore_mismatched_sizes": True}),
    "prefix": (_prefix, {}),
    "old attention": (_old_attention, {}),
    "bin": (_nothing, {"use_safetensors": False}),
    "variant": (_nothing, {"variant": "fp16"}),
    "sharded": (_nothing, {}),
    "half": (_nothing, {"torch_dtype": "float16"}),
    "single file": (_nothing, {}),
}


def saved(cls: Any, folder: Path) -> bool:
    """Save a small model of a class; False where none was found."""
    config = tiny(cls)
    if config is None:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with quiet():
            with torch.device("meta"):
                size = sum(value.numel() for value in cls(**config).state_dict().values())
            if size > MOST:
                return False
            torch.manual_seed(3)
            cls(**config).save_pretrained(folder)
    except Exception:
        return False
    return (folder / FILE).is_file()


def placed(source: Path, situation: str) -> tuple[Path, Path]:
    """A situation of a saved model, and its twin with other values."""
    from safetensors.torch import load_file, save_file

    change, _ = SITUATIONS[situation]
    folders = []
    for number in (0, 1):
        folder = source.with_name(f"{source.name}-{number}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        tensors = load_file(folder / FILE)
        change(tensors)
        if number:
            tensors |= other_values({key: value for key, value in tensors.items() if value.is_floating_point()})
        (folder / FILE).unlink()
        if situation == "bin":
            torch.save(tensors, folder / "diffusion_pytorch_model.bin")
        elif situation == "variant":
            save_file(tensors, folder / "diffusion_pytorch_model.fp16.safetensors", metadata={"format": "pt"})
        elif situation == "sharded":
            _shard(tensors, folder)
        else:
            save_file(tensors, folder / FILE, metadata={"format": "pt"})
        folders.append(folder)
    return folders[0], folders[1]


def _shard(tensors: Tensors, folder: Path) -> None:
    from safetensors.torch import save_file

    keys = list(tensors)
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    places = {}
    for name, half in zip(names, halves, strict=True):
        save_file({key: tensors[key] for key in half}, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(half, name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{FILE}.index.json").write_text(json.dumps(index))


def real_call(cls: Any, options: dict[str, Any], *, single: bool) -> Callable[[Path], Real]:
    """`from_pretrained`, with the lists it gives; `from_single_file`, which has none."""
    dtype = {"torch_dtype": getattr(torch, options["torch_dtype"])} if "torch_dtype" in options else {}

    def call(path: Path) -> Real:
        if single:
            return Real(model=cls.from_single_file(str(path / FILE), config=str(path)))
        model, info = cls.from_pretrained(path, output_loading_info=True, **{**options, **dtype})
        shapes = {(key, tuple(given), tuple(wanted)) for key, given, wanted in info["mismatched_keys"]}
        return Real(None, set(info["missing_keys"]), set(info["unexpected_keys"]), shapes, model)

    return call


def tried(
    folder: Path, names: tuple[str, ...] = (), situations: tuple[str, ...] = tuple(SITUATIONS)
) -> Iterator[tuple[str, list[str]]]:
    """Every case by name, and in what the answer is not what happened; None of a class that is not tried, alone."""
    from ckptdiff.loaders.asked import Asked
    from ckptdiff.loaders.diffusers import ask

    for cls in classes():
        if names and cls.__name__ not in names:
            continue
        if not saved(cls, folder / "model"):
            continue
        for situation in situations:
            single = situation == "single file"
            if single and not hasattr(cls, "from_single_file"):
                continue
            options = SITUATIONS[situation][1]
            path, twin = placed(folder / "model", situation)
            real = really(real_call(cls, options, single=single), path, twin)
            case = f"{cls.__name__} {situation}"
            torch.manual_seed(5)
            given = {**options, **({"class": cls.__name__, "config": str(path)} if single else {})}
            try:
                outcome = ask(Asked(None, str(path / FILE) if single else str(path), options=given)).outcome
            except Exception as error:
                yield case, [f"no answer: {type(error).__name__}: {error}"]
                continue
            if real.filled is not None and real.model is not None:
                whole = {key for key, value in real.model.state_dict().items() if not value.is_floating_point()}
                real.filled |= whole & {key for key, item in outcome.filled.items() if item.by in ("file", "tie")}
            if real.filled is not None:  # what it leaves alone holds whatever was in that memory
                real.filled -= {*(real.missing or ()), *(key for key, *_ in real.mismatched or ())}
            yield case, disagreements(outcome, real)
