"""diffusers: `from_pretrained` of a model or of a whole pipeline, and `from_single_file` of other layouts."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CheckpointError, CkptdiffError, UsageError
from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.left import Left, Told
from ckptdiff.loaders.library_call import Seen, called, release, spelled
from ckptdiff.loaders.lora_names import naming_of
from ckptdiff.loaders.outcome import Loader, Outcome
from ckptdiff.model.libraries import offline
from ckptdiff.patches import patches
from ckptdiff.spelling import given

_TAKE_PART = ("diffusers", "transformers", "safetensors", "accelerate")
INDEX, CONFIG = "model_index.json", "config.json"
_OWN = ("component", "class")
_OF_MODELS = ("torch_dtype", "variant", "use_safetensors", "subfolder", "low_cpu_mem_usage", "ignore_mismatched_sizes")
_OF_FILES = ("config", "original_config", "subfolder", "torch_dtype", "low_cpu_mem_usage")


def ask(asked: Asked) -> Left:
    """What `from_pretrained` leaves of a directory, one component of it with `component`, or of one file
    `from_single_file` of `class`, or of the model's class, configured by the directory `config`.

    Raises UsageError where the class to load is not said, CheckpointError for a directory of another kind.
    """
    asked.refuse_unknown_options("diffusers", tuple(dict.fromkeys((*_OWN, *_OF_MODELS, *_OF_FILES))))
    if asked.model is None:
        asked.refuse_arguments()
    with offline():
        call = _call_of(asked)
        loader = Loader("diffusers", release("diffusers"), call.text, "followed", call.lines)
        left, _ = called(asked, loader, lambda _: call.run, *_TAKE_PART, checkpoint=call.checkpoint())
    return replace(left, outcome=_in_parts(left.outcome, call.path)) if call.whole else left


@dataclass(frozen=True, slots=True)
class Call:
    """A call, as text and as what is done."""

    text: str
    run: Callable[[Seen], None]
    path: Path
    whole: bool = False
    """Whether it makes a pipeline of several components."""
    lines: tuple[str, ...] = ()
    """The same as Python, where `path` is bound; nothing for a class that is none of a library's."""

    def checkpoint(self) -> Checkpoint | None:
        """What the weights hold that the call is about; None where that cannot be read, or is just what was named."""
        if self.path.is_file():
            return None
        if not self.whole:
            return _read(self.path)
        read = {folder.name: _read(folder) for folder in sorted(self.path.iterdir()) if folder.is_dir()}
        parts = {name: part for name, part in read.items() if part is not None}
        entries = {f"{name}.{key}": entry for name, part in parts.items() for key, entry in part.entries.items()}
        nbytes = sum(part.nbytes or 0 for part in parts.values())
        return Checkpoint(str(self.path), "diffusers", entries, nbytes=nbytes)


def _read(folder: Path) -> Checkpoint | None:
    """The weights of one model's directory; None where there are none that can be read."""
    from ckptdiff.checkpoint.reading import read

    files = sorted((*folder.glob("*.index.json"), *folder.glob("*.safetensors"), *folder.glob("*.bin")))
    for path in (folder, *files):
        with contextlib.suppress(CkptdiffError):
            return read(path)
    return None


def _call_of(asked: Asked) -> Call:
    path, options = Path(asked.path), dict(asked.options)
    component = options.pop("component", None)
    if (path / INDEX).is_file():
        if component is not None:
            return _of_component(path, str(component), options)
        import diffusers

        _refuse(options, _OF_MODELS)
        text = f"DiffusionPipeline.from_pretrained(path{spelled(options)})"
        arguments = _typed(options)
        if asked.trust_remote_code:
            arguments = {**arguments, "trust_remote_code": True}

        def load() -> object:
            return diffusers.DiffusionPipeline.from_pretrained(str(path), **arguments)

        remote = ", trust_remote_code=True" if asked.trust_remote_code else ""
        call = f"pipeline = DiffusionPipeline.from_pretrained(path{_written(options)}{remote})"
        lines = _lines("diffusers", "DiffusionPipeline", call)
        return Call(text, lambda seen: _load(seen, load, single=False), path, whole=True, lines=lines)
    if component is not None:
        raise UsageError(
            f"{given('loader_args', 'component')} is for a pipeline, which has a {INDEX}.", "Leave it out."
        )
    if path.is_dir():
        _refuse(options, ("class", *_OF_MODELS))
        cls = _class_for(asked, options.pop("class", None), _class_in(path / str(options.get("subfolder") or "")))
        text = f"{cls.__name__}.from_pretrained(path{spelled(options)})"
        arguments = _typed(options)
        return Call(
            text,
            lambda seen: _load(seen, lambda: cls.from_pretrained(str(path), **arguments)),
            path / str(options.get("subfolder") or ""),
            lines=_of_class(cls, f"model = {cls.__name__}.from_pretrained(path{_written(options)})"),
        )
    _refuse(options, ("class", *_OF_FILES))
    cls = _class_for(asked, options.pop("class", None), "")
    _ensure_configured(asked, options)
    text = f"{cls.__name__}.from_single_file(path{spelled(options)})"
    arguments = {**_typed(options), "local_files_only": True}
    lines = _of_class(cls, f"model = {cls.__name__}.from_single_file(path{_written(arguments)})")
    return Call(text, lambda seen: _load(seen, lambda: cls.from_single_file(str(path), **arguments)), path, lines=lines)


def _of_class(cls: type, call: str) -> tuple[str, ...]:
    library = cls.__module__.partition(".")[0]
    return _lines(library, cls.__name__, call) if library in ("diffusers", "transformers") else ()


def _lines(library: str, name: str, call: str) -> tuple[str, ...]:
    return f"from {library} import {name}", call


def _written(options: dict[str, object]) -> str:
    """Options as they stand in a call, a dtype as torch's own."""
    typed = _typed(options)
    return "".join(f", {name}={str(value) if name == _DTYPE else repr(value)}" for name, value in typed.items())


_DTYPE = "torch_dtype"


def _of_component(path: Path, name: str, options: dict[str, object]) -> Call:
    """The call for one component: of diffusers' own, or of another library's."""
    import importlib

    import diffusers

    _refuse(options, _OF_MODELS)
    index = _json(path / INDEX)
    entry = index.get(name)
    names = [key for key, value in index.items() if isinstance(value, list) and value[:1] != [None]]
    if not isinstance(entry, list) or len(entry) != 2 or name not in names:
        raise UsageError(
            f"{given('loader_args', f'component={name}')}: the pipeline has no such component.",
            f"It has {', '.join(names)}.",
        )
    library, class_name = map(str, entry)
    owner: object = diffusers
    if not hasattr(diffusers, class_name) and library == "transformers":
        owner = importlib.import_module(library)
    cls: object = getattr(owner, class_name, None)
    if not isinstance(cls, type) or not hasattr(cls, "from_pretrained") or not hasattr(cls, "state_dict"):
        raise UsageError(f"{name} is a {class_name} of {library}, and no model.", "Leave it out.")
    arguments = _typed(options)
    text = f"{class_name}.from_pretrained({name!r}{spelled(options)})"
    lines = _of_class(cls, f"model = {class_name}.from_pretrained(Path(path) / {name!r}{_written(options)})")
    return Call(
        text,
        lambda seen: _load(seen, lambda: cls.from_pretrained(str(path / name), **arguments)),
        path / name,
        lines=("from pathlib import Path", *lines) if lines else (),
    )


def _refuse(options: dict[str, object], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            raise UsageError(
                f"{given('loader_args', name)}: this call takes no such argument.", f"It takes {', '.join(known)}."
            )


def _typed(options: dict[str, object]) -> dict[str, object]:
    """The options with a dtype for its name."""
    import torch

    name = options.get("torch_dtype")
    if not isinstance(name, str):
        return options
    dtype = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(
            f"{given('loader_args', f'torch_dtype={name}')}: there is no such dtype.", "Write bfloat16, say."
        )
    return {**options, "torch_dtype": dtype}


def _json(path: Path) -> dict[str, object]:
    try:
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "Is the directory whole?") from None
    return read if isinstance(read, dict) else {}


def _class_in(folder: Path) -> str:
    """The class that a model's directory names. Raises CheckpointError where it has no configuration of diffusers'."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder} has neither {INDEX} nor {CONFIG}, and so is nothing that diffusers saved", "Check the path."
        )
    return str(_json(folder / CONFIG).get("_class_name") or "")


def _class_for(asked: Asked, named: object, chosen: str) -> Any:
    """The class whose method is called: the one that was named, the model's, or the one that the directory names.

    Raises UsageError where there is none.
    """
    import diffusers

    if named is None and asked.model is not None:
        from ckptdiff.loaders.library_call import class_of_model

        cls: Any = class_of_model(asked)
        if not hasattr(cls, "from_single_file") and not hasattr(cls, "from_pretrained"):
            raise UsageError(
                f"{cls.__name__} is no class of diffusers', and has no from_pretrained.", "Leave the model out."
            )
        return cls
    name = str(named or chosen)
    found_class: object = getattr(diffusers, name, None) if name.isidentifier() else None
    if not isinstance(found_class, type):
        if not name:
            what = "a single file is for" if Path(asked.path).is_file() else f"its {CONFIG} does not name"
            raise UsageError(
                f"The diffusers loader needs the class that {what}.",
                f"Write {given('loader_args', 'class=UNet2DConditionModel')}.",
            )
        raise UsageError(f"diffusers {diffusers.__version__} has no class {name}.", "Name another, or update it.")
    return found_class


def _ensure_configured(asked: Asked, options: dict[str, object]) -> None:
    """A single file holds no configuration: without one at hand diffusers fetches it. Raises for a LoRA, too."""
    from ckptdiff.checkpoint.reading import read

    naming = naming_of(map(str, read(asked.path).entries))
    if naming is not None:
        raise CheckpointError(
            f"{asked.path} is a file of LoRA weights with the names of {naming.name}, and no model",
            naming.conversion or "Give its directory to the loader peft.",
        )
    if "config" not in options and "original_config" not in options:
        raise UsageError(
            "A single file does not say how its model is configured, and diffusers would fetch that from the hub.",
            f"Name a directory that has it: {given('loader_args', 'config=DIRECTORY')}.",
        )


def _in_parts(outcome: Outcome, path: Path) -> Outcome:
    """The outcome of a pipeline under its name, with a sentence on each component."""
    remarks = []
    name = _json(path / INDEX).get("_class_name") if outcome.model.root.children else None
    if isinstance(name, str):
        root = outcome.model.root._replace(class_name=name)
        outcome = replace(outcome, model=replace(outcome.model, reference=f"diffusers.{name}", root=root))
    for name, node in outcome.model.root.children.items():
        items = [item for key, item in outcome.filled.items() if key.startswith(f"{name}.")]
        left = sum(item.by in ("initial", "meta", "code") or item.rows is not None for item in items)
        kind = node.class_name if node is not None else "nothing"
        filled = (
            f"all {len(items):,} keys are filled" if not left else f"{left:,} of {len(items):,} keys are not filled"
        )
        remarks.append(f"{name} ({kind}): {filled}.")
    ignored = {key.partition(".")[2] for key, why in outcome.unused.items() if why == "ignored"}
    unused = {key: why for key, why in outcome.unused.items() if why != "unused" or key not in ignored}
    return replace(outcome, unused=unused, remarks=tuple(remarks))


@dataclass(slots=True)
class Part:
    """One model that is loaded on the way: under which name, and what its library says of it."""

    name: str
    module: nn.Module | None = None
    told: Told = field(default_factory=Told)


def _load(seen: Seen, load: Callable[[], object], *, single: bool = True) -> None:
    """Make the call; what it leaves is one module, or one of all components of a pipeline."""
    parts: list[Part] = []
    made: Any = None
    try:
        with _watched(parts):
            made = load()
    finally:
        if made is not None and not isinstance(made, nn.Module):
            modules = {name: item for name, item in made.components.items() if isinstance(item, nn.Module)}
        elif made is not None:
            modules = {"": made}
        else:
            modules = {part.name: part.module for part in parts if part.module is not None}
            if single and len(modules) == 1:
                modules = {_NO_NAME: next(iter(modules.values()))}
        _combine(seen, modules, parts, whole=isinstance(made, nn.Module))


def _combine(seen: Seen, modules: dict[str, nn.Module], parts: list[Part], *, whole: bool) -> None:
    if not modules:
        return
    if whole or set(modules) == {_NO_NAME}:
        seen.module = next(iter(modules.values()))
        if parts:
            seen.told = parts[-1].told
        return
    seen.module = nn.ModuleDict(modules)
    told = Told(missing=(), ignored=True)
    for part in parts:
        at = f"{part.name}."
        told = replace(
            told,
            missing=(*(told.missing or ()), *(f"{at}{key}" for key in part.told.missing or ())),
            unexpected=(*told.unexpected, *(f"{at}{key}" for key in part.told.unexpected)),
            mismatched=(
                *told.mismatched,
                *((f"{at}{key}", given, wanted) for key, given, wanted in part.told.mismatched),
            ),
            failed={**told.failed, **{f"{at}{key}": text for key, text in part.told.failed.items()}},
        )
    seen.told = told


@contextlib.contextmanager
def _watched(parts: list[Part]) -> Iterator[None]:
    """Note every model that is loaded inside the block, and what its library says of it."""
    from diffusers import ModelMixin
    from diffusers.models import model_loading_utils

    if not hasattr(ModelMixin, _LOADS) or not hasattr(model_loading_utils, _LOADS_ONE_FILE):
        raise moved()
    loads = getattr(ModelMixin, _LOADS).__func__
    signature = inspect.signature(loads)
    inside: list[Part] = []

    def load_pretrained_model(cls: object, *args: Any, **kwargs: Any) -> object:
        given = signature.bind(cls, *args, **kwargs).arguments
        part = Part(_last(given.get("pretrained_model_name_or_path")), given["model"])
        parts.append(part)
        expected = given["model"].state_dict()
        inside.append(part)
        try:
            made = loads(cls, *args, **kwargs)
        except Exception:
            part.told = _compared(expected, given.get("state_dict"), given["loaded_keys"])
            raise
        finally:
            inside.pop()
        _, missing, unexpected, mismatched, *_ = made
        shapes = ((key, tuple(given), tuple(wanted)) for key, given, wanted in mismatched)
        part.told = Told(sorted(missing), sorted(unexpected), sorted(shapes), ignored=True)
        return made

    def load_one_file(model: Any, state_dict: Any, *args: object, **kwargs: object) -> object:
        if inside:
            return loads_one_file(model, state_dict, *args, **kwargs)
        told = _compared(model.state_dict(), state_dict, list(state_dict))
        patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
        unexpected = [key for key in told.unexpected if not any(re.search(pattern, key) for pattern in patterns)]
        parts.append(Part(_NO_NAME, model, replace(told, unexpected=unexpected)))
        return loads_one_file(model, state_dict, *args, **kwargs)

    with patches() as patched, _of_transformers(parts):
        patched.attribute(ModelMixin, _LOADS, classmethod(load_pretrained_model))
        loads_one_file = patched.function(getattr(model_loading_utils, _LOADS_ONE_FILE), load_one_file)
        yield


_LOADS, _LOADS_ONE_FILE = "_load_pretrained_model", "load_model_dict_into_meta"
_NO_NAME = ""


def moved() -> CkptdiffError:
    """What there is to say where a release keeps its lists elsewhere."""
    return CkptdiffError(
        f"diffusers {release('diffusers')} keeps what it says of a load elsewhere than known here.",
        "Use diffusers 0.42, or a newer ckptdiff.",
    )


def _last(path: Any) -> str:
    return Path(os.fspath(path)).name if path else _NO_NAME


def _compared(expected: Any, state_dict: Any, loaded: Any) -> Told:
    """The lists as diffusers makes them, of a load that is still going on or that raised."""
    shapes = []
    for key, value in (state_dict or {}).items():
        wanted = getattr(expected.get(key), "shape", None)
        if wanted is not None and hasattr(value, "shape") and tuple(value.shape) != tuple(wanted):
            shapes.append((key, tuple(value.shape), tuple(wanted)))
    return Told(sorted(set(expected) - set(loaded)), sorted(set(loaded) - set(expected)), sorted(shapes), ignored=True)


@contextlib.contextmanager
def _of_transformers(parts: list[Part]) -> Iterator[None]:
    """Note the models of transformers among a pipeline's components, with the lists that it keeps."""
    try:
        from transformers import PreTrainedModel
    except ImportError:
        yield
        return
    from ckptdiff.loaders.transformers.load_report import reported

    original = PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls: object, path: object, *args: Any, **kwargs: Any) -> object:
        part = Part(_last(path))
        parts.append(part)
        with reported() as said:
            try:
                return original(cls, path, *args, **kwargs)
            finally:
                part.module = said.model
                part.told = Told(said.missing, said.unexpected, said.mismatched, said.failed, ignored=True)

    with patches() as patched:
        patched.attribute(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))
        yield
