"""timm: `load_checkpoint`, which `create_model(checkpoint_path=…)` calls too, and `create_model(pretrained=True)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from ckptdiff.errors import CkptdiffError, UsageError
from ckptdiff.following.followed import Followed
from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.left import Left
from ckptdiff.loaders.library_call import Seen, called, given_model, release, spelled, told_by_state_loads
from ckptdiff.loaders.outcome import Loader
from ckptdiff.model.libraries import recipe
from ckptdiff.model.reference import Reference
from ckptdiff.patches import patches
from ckptdiff.spelling import given

_OF_LOAD_CHECKPOINT = ("use_ema", "strict", "remap", "weights_only")


def ask(asked: Asked) -> Left:
    """What timm leaves in a model.

    `pretrained` has the file loaded as pretrained weights are, in a model that timm creates for it; `filter_fn` gives
    `load_checkpoint` the filter function of the architecture. Other options are those of `load_checkpoint`.
    """
    asked.refuse_unknown_options("timm", (*_OF_LOAD_CHECKPOINT, "filter_fn", "pretrained"))
    options = dict(asked.options)
    pretrained, filtered = options.pop("pretrained", False), options.pop("filter_fn", False)
    folder = Path(asked.path).is_dir()
    if (pretrained or folder) and (options or filtered):
        name = next(iter(options), "filter_fn")
        raise UsageError(
            f"{given('loader_args', name)}: create_model(pretrained=True) takes no such argument.", "Leave it out."
        )
    if folder and asked.model is not None:
        raise UsageError(
            f"{asked.path} is a directory, of which timm makes the model that it names, and none that is given.",
            "Leave the model out, or name the file of weights in it.",
        )
    if folder:
        text = f"create_model('local-dir:{asked.path}', pretrained=True{spelled(asked.args)})"
        line = f'model = timm.create_model(f"local-dir:{{path}}", pretrained=True{spelled(asked.args)})'
        return called(
            asked,
            _loader(text, ("import timm", line)),
            lambda _: lambda seen: _created(seen, f"local-dir:{asked.path}", asked.args),
            "timm",
        )[0]
    if asked.model is None:
        raise UsageError("The timm loader needs a model for a file.", "Write for example timm:resnet50.")
    if pretrained:
        text = "create_model(model, pretrained=True, pretrained_cfg_overlay={'file': path})"
        return called(
            asked, _loader(text, _created_lines(asked)), lambda followed: _pretrained(asked, followed), "timm"
        )[0]
    shown = spelled({**options, **({"filter_fn": "…"} if filtered else {})}).replace("'…'", "checkpoint_filter_fn")

    lines = ["from timm.models import load_checkpoint", f"load_checkpoint(model, path{shown})"]

    def prepare(followed: Followed) -> Callable[[Seen], None]:
        model = given_model(followed, asked)
        if filtered:
            options["filter_fn"] = filter_of(model)
            lines[:] = _with_filter(lines, options["filter_fn"])
        return lambda seen: _loaded(seen, asked, model, options)

    left, _ = called(asked, _loader(f"load_checkpoint(model, path{shown})"), prepare, "timm")
    loader = replace(left.outcome.loader, python=tuple(lines), takes_model=True)
    return replace(left, outcome=replace(left.outcome, loader=loader))


def _loader(call: str, python: tuple[str, ...] = ()) -> Loader:
    return Loader("timm", release("timm"), call, "followed", python)


def _created_lines(asked: Asked) -> tuple[str, ...]:
    """What makes a model of timm's with its weights; nothing for one that timm has no name for."""
    if not isinstance(asked.model, Reference) or asked.model.kind != "timm":
        return ()
    args = dict(asked.args)
    overlay = "".join(f"{key!r}: {value!r}, " for key, value in _overlay(args).items())
    given = f'pretrained=True, pretrained_cfg_overlay={{{overlay}"file": path}}{spelled(args)}'
    return "import timm", f"model = timm.create_model({asked.model.target!r}, {given})"


def _overlay(args: dict[str, object]) -> dict[str, object]:
    """The overlay among a model's arguments, taken out of them, without the file that is put in."""
    overlay = args.pop("pretrained_cfg_overlay", None)
    return {key: value for key, value in overlay.items() if key != "file"} if isinstance(overlay, dict) else {}


def _with_filter(lines: list[str], function: object) -> list[str]:
    """With the import of a filter function; nothing where it has no name of its own."""
    if function is None:
        return [line.replace("checkpoint_filter_fn", "None") for line in lines]
    name, module = getattr(function, "__name__", ""), getattr(function, "__module__", "")
    if not name.isidentifier() or getattr(import_module(module), name, None) is not function:
        return []
    return [f"from {module} import {name}", *(line.replace("checkpoint_filter_fn", name) for line in lines)]


def _loaded(seen: Seen, asked: Asked, model: nn.Module, options: dict[str, object]) -> None:
    from timm.models import load_checkpoint

    seen.module = model
    with told_by_state_loads(seen):
        load_checkpoint(model, asked.path, **options)


def _pretrained(asked: Asked, followed: Followed) -> Callable[[Seen], None]:
    model = asked.model
    if isinstance(model, Reference) and model.kind == "timm":
        args = dict(recipe(model, asked.args).args)
        name = str(args.pop("model_name"))
    else:
        name, args = _made_by(given_model(followed, asked))
    args["pretrained_cfg_overlay"] = {**_overlay(args), "file": asked.path}
    args["pretrained"] = True
    return lambda seen: _created(seen, name, args)


def _created(seen: Seen, name: str, args: Mapping[str, object]) -> None:
    import timm

    with told_by_state_loads(seen):
        seen.module = timm.create_model(name, **{"pretrained": True, **args})


def _made_by(model: nn.Module) -> tuple[str, dict[str, object]]:
    """The architecture's name and the arguments by which timm makes a model once more. Raises UsageError."""
    config = getattr(model, "pretrained_cfg", None)
    arguments = getattr(model, "_model_args", None)
    if not isinstance(config, dict) or not config.get("architecture") or not isinstance(arguments, dict):
        raise UsageError(
            f"{type(model).__name__} does not say how timm made it, as pretrained weights need.",
            f"Write timm:NAME with timm 1.0.30 or newer, or leave {given('loader_args', 'pretrained')} out.",
        )
    if arguments.get("features_only"):  # whose configuration is without the classifier that timm is to leave out
        return ".".join(filter(None, (config["architecture"], config.get("tag")))), dict(arguments)
    return config["architecture"], {"pretrained_cfg": config, **arguments}


class _Found(Exception):  # noqa: N818 - a way out, not an error
    """What an architecture is built with."""

    def __init__(self, keywords: dict[str, Any]) -> None:
        super().__init__()
        self.keywords = keywords


def filter_of(model: nn.Module) -> Callable[..., object] | None:
    """The filter function of a model's architecture. Raises UsageError for a model that is none of timm's."""
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, dict) else None
    if not name:
        raise UsageError(f"{type(model).__name__} is no model of timm's, and so has no filter function.", "")
    return filter_of_architecture(name)


def filter_of_architecture(name: str) -> Callable[..., object] | None:
    """The filter function that timm gives pretrained weights of an architecture to, None where there is none.

    Each architecture hands its own to one function, which is stopped before it builds anything.
    """
    from timm.models import model_entrypoint

    try:
        from timm.models._builder import build_model_with_cfg
    except ImportError:
        raise _not_found(name) from None

    def found(*_: object, **keywords: object) -> object:
        raise _Found(keywords)

    with patches() as patched:
        patched.function(build_model_with_cfg, found)
        try:
            model_entrypoint(name)(pretrained=False)
        except _Found as stopped:
            return stopped.keywords.get("pretrained_filter_fn")
    raise _not_found(name)


def _not_found(name: str) -> CkptdiffError:
    return CkptdiffError(
        f"timm {release('timm')} does not build {name} as others, so that its filter function cannot be found.",
        f"Leave {given('loader_args', 'filter_fn')} out.",
    )
