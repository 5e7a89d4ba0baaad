"""Which class loads, what it is given, and under which arguments: `from_pretrained` as one would write it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ckptdiff.errors import ModelError, UsageError
from ckptdiff.loaders.asked import Asked
from ckptdiff.model import libraries
from ckptdiff.model.reference import Reference
from ckptdiff.model.tree import ModuleTree
from ckptdiff.model.user_code import did_you_mean
from ckptdiff.spelling import given, option

_OURS = ("auto_class",)
"""Arguments that choose the class, and are not its own."""
_WEIGHTS = re.compile(
    r"(?:model|pytorch_model)(?:\.(?P<variant>[^.]+))?\.(?P<format>safetensors|bin)(?:\.index\.json)?"
)


@dataclass(frozen=True, slots=True)
class Call:
    """`owner.from_pretrained(path, **options)`; `path` is None where a state dict is handed over instead."""

    owner: Any
    path: str | None
    options: Mapping[str, object]
    file: str = ""
    """The file that the state dict is to be read from."""
    config: str = ""
    """What makes the `config` among the options, as Python."""

    def lines(self) -> tuple[str, ...]:
        """The call as lines of Python; nothing for a class that is no name of the library's."""
        live = self.config == _OF_MODEL
        name = "type(model)" if live else self.owner.__name__
        if not (live or self.owner.__module__.partition(".")[0] == "transformers"):
            return ()
        configured = bool(self.config) and not live
        names = ", ".join([*(["AutoConfig"] if configured else []), *([] if live else [name])])
        options = {key: value for key, value in self.options.items() if key != "config"}
        given = [repr(self.path), *([f"config={'model.config' if live else 'config'}"] if self.config else [])]
        given += [
            *(["state_dict=state_dict"] if self.file else []),
            *(f"{key}={value!r}" for key, value in options.items()),
        ]
        return (
            *([f"from transformers import {names}"] if names else []),
            *([f"config = {self.config}"] if configured else []),
            f"model = {name}.from_pretrained({', '.join(given)})",
        )


def call_of(asked: Asked) -> Callable[[], Call]:
    """The call that is asked about; what takes code of the user's is left to the function, for inside of the run.

    Raises UsageError and ModelError for what cannot be called so.
    """
    import transformers

    _refuse_reserved(asked.options)
    model, path = asked.model, Path(asked.path)
    if isinstance(model, ModuleTree) or (isinstance(model, Reference) and model.kind == "snapshot"):
        raise UsageError(
            f"{asked.shown or 'A ModuleTree'} describes a model, and from_pretrained makes one.",
            "Name the model itself, such as hf:DIRECTORY.",
        )
    if model is None or (isinstance(model, Reference) and model.kind == "hf"):
        home = path if model is None else libraries.directory_of(model.target)
        if model is not None:
            _refuse_other_revision(asked.options, model.target, home)
        owner = _class_in(transformers, _configured(home / str(asked.options.get("subfolder", ""))), asked)
        return lambda: _named(owner, home, path, asked)
    if isinstance(model, nn.Module):
        live = model
        return lambda: _like(live, path, asked)
    from ckptdiff.model.build import build

    reference = model
    return lambda: _like(build(reference, asked.args).module, path, asked)


def _configured(folder: Path) -> Path:
    """Where the configuration lies: of an adapter alone, in the directory of the base model that it names."""
    if (folder / "config.json").exists() or not (folder / "adapter_config.json").is_file():
        return folder
    values = libraries.read_json(folder / "adapter_config.json", str(folder))
    base = values.get("base_model_name_or_path")
    return libraries.directory_of(base) if isinstance(base, str) and base else folder


def _refuse_reserved(options: Mapping[str, object]) -> None:
    for name in ("state_dict", "config", "output_loading_info", "trust_remote_code", "device_map"):
        if name in options:
            raise UsageError(f"{given('loader_args', name)} is not for you to give here.", "Leave it out.")


def _refuse_other_revision(options: Mapping[str, object], target: str, home: Path) -> None:
    """Raise UsageError for another state of a name of the hub's than its `main`, which is the one that was found."""
    revision = options.get("revision")
    if revision is None or home == Path(target).expanduser():  # a directory, where it has no say
        return
    cached = libraries.cached(target, str(revision))
    if cached != home:
        raise UsageError(
            f"{given('loader_args', f'revision={revision}')}: hf:{target} is `main` of the local hub cache.",
            f"Write hf:{cached}." if cached else "The cache has no such state of it, and nothing is downloaded.",
        )


def _class_in(transformers: Any, folder: Path, asked: Asked) -> object:
    """The class that loads a directory: the one that is named, else the one of its configuration."""
    values = libraries.read_config(folder, str(folder))
    chosen = asked.options.get("auto_class")
    names = libraries.architectures_of(values, str(folder)) if chosen is None else []
    remote = values.get("auto_map")
    if not isinstance(remote, dict):
        remote = {}
    ours = (names and hasattr(transformers, names[0])) or (chosen is not None and values.get("model_type") is not None)
    if remote and not asked.trust_remote_code and not ours:
        raise ModelError(
            f"{folder}: the model's code lies beside its weights, and does not run unless you trust it.",
            f"Read it; if you trust it, give {option('trust_remote_code')}.",
        )
    if chosen is not None:
        auto_class = getattr(transformers, str(chosen), None)
        if auto_class is None or not hasattr(auto_class, "from_pretrained"):
            known = [name for name in dir(transformers) if name.startswith("AutoModel")]
            close = did_you_mean(str(chosen), known)
            hint = f"Did you mean `{close}`?" if close else "Write for example AutoModelForCausalLM."
            raise UsageError(f"{given('loader_args', f'auto_class={chosen}')}: transformers has no such class.", hint)
        return auto_class
    if remote and asked.trust_remote_code:
        return _remote(transformers, names, remote)
    if not names:
        return transformers.AutoModel
    return libraries.architecture_of(transformers, values, str(folder))


def _remote(transformers: object, names: list[str], remote: Mapping[str, object]) -> object:
    """The Auto class under which a directory offers code of its own for its architecture."""
    for auto, target in remote.items():
        if names and isinstance(target, str) and target.rpartition(".")[2] == names[0] and hasattr(transformers, auto):
            return getattr(transformers, auto)
    auto_class = next((name for name in remote if name.startswith("AutoModel") and hasattr(transformers, name)), None)
    return getattr(transformers, auto_class or "AutoModel")


def _named(owner: object, home: Path, path: Path, asked: Asked) -> Call:
    """A directory's own class, on that directory, on another one, or on a file."""
    options = {name: value for name, value in asked.options.items() if name not in _OURS}
    if asked.trust_remote_code:
        options["trust_remote_code"] = True
    if asked.args:
        _ensure_known(asked.args, _config(home, asked, {}))
    if path.is_dir() and (path.samefile(home) or not home.is_dir()):
        return Call(owner, str(path), {**asked.args, **options})
    inside = _usual_file(path, home)
    if inside is not None:
        return Call(owner, str(home), {**asked.args, **inside, **options})
    config = _config(home, asked, asked.args)
    made = _config_written(home, asked)
    if path.is_dir():
        return Call(owner, str(path), {"config": config, **options}, config=made)
    return Call(_class_for(owner, config), None, {"config": config, **options}, str(path), made)


def _class_for(owner: object, config: object) -> object:
    """The model's class itself: an Auto class takes no state dict without a name."""
    mapping = getattr(owner, "_model_mapping", None)
    return owner if mapping is None else mapping[type(config)]


def _usual_file(path: Path, home: Path) -> dict[str, object] | None:
    """The arguments under which `from_pretrained(home)` takes this very file of it, None where it does not."""
    matched = _WEIGHTS.fullmatch(path.name)
    if matched is None or not home.is_dir() or not path.is_file() or not path.parent.samefile(home):
        return None
    usual: dict[str, object] = {"variant": matched["variant"]} if matched["variant"] else {}
    return usual if matched["format"] == "safetensors" else {**usual, "use_safetensors": False}


def _ensure_known(args: Mapping[str, object], config: Any) -> None:
    """Raise UsageError for an entry that a configuration does not have."""
    for name in args:
        if not hasattr(config, name):
            close = did_you_mean(name, list(config.to_dict()))
            hint = f"Did you mean `{close}`?" if close else f"{option('args')} sets entries of the configuration."
            raise UsageError(
                f"{given('args', name)}: the configuration of `{config.model_type}` has no such entry.", hint
            )


def _config(home: Path, asked: Asked, args: Mapping[str, object]) -> object:
    from transformers import AutoConfig

    extra = {"trust_remote_code": True} if asked.trust_remote_code else {}
    folder = {"subfolder": asked.options["subfolder"]} if asked.options.get("subfolder") else {}
    return AutoConfig.from_pretrained(str(home), **args, **extra, **folder)


def _config_written(home: Path, asked: Asked) -> str:
    extra = {**asked.args, **({"trust_remote_code": True} if asked.trust_remote_code else {})}
    if asked.options.get("subfolder"):
        extra["subfolder"] = asked.options["subfolder"]
    given = [repr(str(home)), *(f"{name}={value!r}" for name, value in extra.items())]
    return f"AutoConfig.from_pretrained({', '.join(given)})"


def _like(module: nn.Module, path: Path, asked: Asked) -> Call:
    """The class of a module that is there, with its configuration."""
    import transformers

    if not isinstance(module, transformers.PreTrainedModel):
        raise UsageError(
            f"from_pretrained is of transformers' models, and {type(module).__name__} is none.",
            f"{given('loader', 'torch')} asks load_state_dict.",
        )
    options = {name: value for name, value in asked.options.items() if name not in _OURS}
    config = copy.deepcopy(module.config)
    if path.is_dir():
        return Call(type(module), str(path), {"config": config, **options}, config=_OF_MODEL)
    return Call(type(module), None, {"config": config, **options}, str(path), _OF_MODEL)


_OF_MODEL = "model.config"
