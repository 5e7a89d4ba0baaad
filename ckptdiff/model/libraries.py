"""Models that libraries define: transformers by its configuration, torchvision and timm by name. Never a download."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ckptdiff.errors import ModelError, UsageError
from ckptdiff.model.reference import Reference
from ckptdiff.model.user_code import did_you_mean
from ckptdiff.spelling import given, option


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a library's model: call `make` with `args`. `remarks` say where it is not what was asked for."""

    make: Callable[..., object]
    args: Mapping[str, object]
    remarks: tuple[str, ...] = ()


def recipe(reference: Reference, args: Mapping[str, object]) -> Recipe:
    """Look the model up, importing its library but creating nothing.

    Raises ModelError when the library is not installed or has no such model, UsageError when it has no such argument.
    """
    with offline():
        if reference.kind == "torchvision":
            return _torchvision(reference.target, args)
        if reference.kind == "timm":
            return _timm(reference.target, args)
        return _transformers(reference.target, args)


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Tell the Hugging Face libraries to stay off the network: by the variable they read when imported, and by what
    they made of it where they have been imported before."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants: Any = sys.modules.get("huggingface_hub.constants")
    was_offline = getattr(constants, "HF_HUB_OFFLINE", True)
    if constants is not None:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        if constants is not None:
            constants.HF_HUB_OFFLINE = was_offline
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModelError(f"{name} is not installed.", f"Install it: `pip install {name}`.") from None


def _unknown(library: str, name: str, known: list[str]) -> ModelError:
    close = did_you_mean(name, known)
    hint = f"Did you mean `{library}:{close}`?" if close else f"{library} knows {len(known)} models; check the name."
    return ModelError(f"{library} has no model `{name}`.", hint)


def _torchvision(name: str, args: Mapping[str, object]) -> Recipe:
    models: Any = _library("torchvision").models
    known = models.list_models()
    if name.lower() not in known:
        raise _unknown("torchvision", name.rpartition("/")[2], known)
    builder = models.get_model_builder(name)
    # Without this a detection model downloads its backbone's weights.
    given = {key: None for key in ("weights", "weights_backbone") if key in inspect.signature(builder).parameters}
    return Recipe(builder, {**given, **args})


def _timm(name: str, args: Mapping[str, object]) -> Recipe:
    timm: Any = _library("timm")
    base = name.partition(".")[0]
    if not timm.is_model(base):  # also keeps out `hf-hub:`, which downloads
        raise _unknown("timm", base, timm.list_models())
    return Recipe(timm.create_model, {"model_name": name, "pretrained": False, **args})


def _transformers(target: str, args: Mapping[str, object]) -> Recipe:
    path = directory_of(target)
    values = read_config(path, target)
    transformers: Any = _library("transformers")
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(
            f"hf:{target}: the configuration names no `model_type`.",
            "It is not one of transformers; write a model.py that builds the model.",
        )
    known = transformers.CONFIG_MAPPING
    if model_type not in known:
        close = did_you_mean(model_type, list(known))
        raise ModelError(
            f"hf:{target}: transformers {transformers.__version__} has no model type `{model_type}`.",
            f"Did you mean `{close}`?" if close else "Update transformers; code that comes with a model is never run.",
        )
    # Code of the model's own, never run, and a kernel that need not be installed here; neither changes a key.
    inert = ("auto_map", "attn_implementation", "_attn_implementation")
    architecture = _architecture(transformers, values, target)  # first: transformers words what is no name otherwise
    config = known[model_type].from_dict({name: value for name, value in values.items() if name not in inert})
    for name, value in args.items():
        if not hasattr(config, name):
            close = did_you_mean(name, list(config.to_dict()))
            hint = f"Did you mean `{close}`?" if close else f"{option('args')} sets entries of the configuration."
            raise UsageError(f"{given('args', name)}: the configuration of `{model_type}` has no such entry.", hint)
        setattr(config, name, value)
    remarks: tuple[str, ...] = ()
    if values.get("quantization_config"):
        remarks = ("The configuration asks for quantization; the model was built without it.",)
    return Recipe(architecture, {"config": config}, remarks)


def read_config(path: Path, target: str) -> dict[str, Any]:
    """A config.json, or that of a directory. Raises ModelError where there is none that can be read."""
    return read_json(path / "config.json" if path.is_dir() else path, target)


def read_json(file: Path, target: str) -> dict[str, Any]:
    """A configuration. Raises ModelError where there is none that can be read; `target` is what the user called it."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if file.parent.is_dir() and file.name == "config.json":
            raise ModelError(f"hf:{target}: the directory has no config.json.", "Name the one that has it.") from None
        raise _nowhere(target) from None
    except OSError as error:
        raise ModelError(f"hf:{target}: {error.strerror}.", "Check the file's permissions.") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"hf:{target}: {file.name} is no JSON: {error}.", "Name a transformers config.json.") from None
    if not isinstance(values, dict):
        raise ModelError(f"hf:{target}: {file.name} holds no JSON object.", "Name a transformers config.json.")
    return {name: _with_floats(value) for name, value in values.items()}


def _nowhere(target: str) -> ModelError:
    hint = "Nothing is downloaded: fetch the model's config.json and name its directory."
    repository = _repository(target)
    others = sorted(repository.glob("snapshots/*")) if repository is not None else []
    if others:
        hint = f"The local hub cache has no `main` of it, but another state: write hf:{others[0]}."
    return ModelError(f"hf:{target}: there is no such file or directory.", hint)


def own_directory(target: str) -> Path:
    """The directory of `hf:TARGET` that holds its weights too. Raises ModelError where there is none."""
    path = directory_of(target)
    if not path.exists():
        raise _nowhere(target)
    return path if path.is_dir() else path.parent


_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


def _with_floats(value: Any) -> object:
    """A configuration's value with the floats that JSON has no word for, as transformers writes and reads them."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and isinstance(value["__float__"], str):
            return _FLOATS.get(value["__float__"], value)
        return {name: _with_floats(item) for name, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def _architecture(transformers: Any, values: Mapping[str, object], target: str) -> Callable[..., object]:
    """What makes the architecture the configuration names, else AutoModel's for its type."""
    if not values.get("architectures"):
        return partial(transformers.AutoModel.from_config, trust_remote_code=False)
    make: Callable[..., object] = architecture_of(transformers, values, target)._from_config
    return make  # as AutoModel.from_config does: it heeds the dtype


def architectures_of(values: Mapping[str, object], target: str) -> list[str]:
    """The classes that a configuration names, if any. Raises ModelError where it names them otherwise than as texts."""
    names = values.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"hf:{target}: `architectures` is no list of names.", "Name a transformers config.json.")
    return names


def architecture_of(transformers: Any, values: Mapping[str, object], target: str) -> Any:
    """The class that a configuration names. Raises ModelError where transformers has none of that name."""
    name = architectures_of(values, target)[0]
    architecture = getattr(transformers, name, None)
    if not (isinstance(architecture, type) and issubclass(architecture, transformers.PreTrainedModel)):
        close = did_you_mean(name, [known for known in dir(transformers) if known.endswith(name[-6:])])
        raise ModelError(
            f"hf:{target}: transformers {transformers.__version__} has no architecture `{name}`.",
            f"Did you mean `{close}`?" if close else "Update transformers; code that comes with a model is never run.",
        )
    return architecture


def directory_of(target: str) -> Path:
    """The directory that `hf:TARGET` means: its path, or what the local hub cache has under that name."""
    path = Path(target).expanduser()
    if path.exists():
        return path
    return cached(target) or path


def cached(name: str, revision: str = "main") -> Path | None:
    """Where the local hub cache has a state of `organisation/name`, as it was last seen; None where it has not."""
    repository = _repository(name)
    if repository is None or not _is_plain(revision):
        return None
    try:
        commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision
    folder = repository / "snapshots" / commit
    return folder if _is_plain(commit) and folder.is_dir() else None


def _is_plain(name: str) -> bool:
    return all(part and part.strip(".") for part in name.split("/"))


def _repository(name: str) -> Path | None:
    """The folder of `organisation/name` in the local hub cache, whether it is there or not."""
    parts = name.split("/")
    if len(parts) > 2 or not _is_plain(name):
        return None
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub").expanduser()
    return hub / f"models--{'--'.join(parts)}"
