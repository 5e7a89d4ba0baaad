"""torch.distributed.checkpoint in one process: `dcp.load(model.state_dict())`, and `set_model_state_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ckptdiff.errors import UsageError
from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.left import Left
from ckptdiff.loaders.library_call import Seen, called, given_model, spelled, told_by_state_loads
from ckptdiff.loaders.outcome import Loader
from ckptdiff.spelling import given

_OF_LOAD = ("key", "allow_partial_load")
_OF_SET = (
    "strict", "full_state_dict", "cpu_offload", "ignore_frozen_params", "keep_submodule_prefixes",
    "broadcast_from_rank0",
)  # fmt: skip


def ask(asked: Asked) -> Left:
    """What `dcp.load(model.state_dict())` leaves of a directory, or `set_model_state_dict` of a file.

    `key` is where the checkpoint has the model's state dict. `allow_partial_load` is that of the default planner. With
    an option of StateDictOptions what was loaded of a directory is given to `set_model_state_dict`, too.
    """
    asked.refuse_unknown_options("dcp", (*_OF_LOAD, *_OF_SET))
    key = asked.options.get("key")
    if key is not None and not isinstance(key, str):
        raise UsageError(f"{given('loader_args', 'key')} takes a name, not {type(key).__name__}.", "")
    settings = {name: value for name, value in asked.options.items() if name in _OF_SET}
    directory = Path(asked.path).is_dir()
    partial = asked.options.get("allow_partial_load")
    if directory:
        wanted = "model.state_dict()" if key is None else f"{{{key!r}: model.state_dict()}}"
        planner = ", planner=DefaultLoadPlanner(allow_partial_load=True)" if partial else ""
        text = f"dcp.load({wanted}, checkpoint_id=path{planner})"
    else:
        content = "torch.load(path)" if key is None else f"torch.load(path)[{key!r}]"
        text = content
    if settings or not directory:
        options = f", options=StateDictOptions({spelled(settings)[2:]})" if settings else ""
        text = f"set_model_state_dict(model, {'state_dict' if directory else text}{options})"

    def load(seen: Seen, model: nn.Module) -> None:
        seen.module = model
        if directory:
            state_dict = _read(seen, model, asked.path, key, partial=bool(partial))
        else:
            loaded = torch.load(asked.path, map_location="cpu", mmap=True, weights_only=not asked.trust_checkpoint)
            state_dict = loaded if key is None else loaded[key]
        if settings or not directory:
            _set(seen, model, state_dict, settings)

    lines = _lines(asked, key, settings, directory=directory, partial=bool(partial))
    loader = Loader("dcp", torch.__version__, text, "followed", lines, takes_model=True)
    return called(asked, loader, lambda followed: _with_model(load, given_model(followed, asked)))[0]


def _lines(
    asked: Asked, key: str | None, settings: Mapping[str, object], *, directory: bool, partial: bool
) -> tuple[str, ...]:
    lines = []
    if directory:
        lines += ["import torch.distributed.checkpoint as dcp", "weights = model.state_dict()"]
        planner = ", planner=dcp.DefaultLoadPlanner(allow_partial_load=True)" if partial else ""
        wanted = "weights" if key is None else f"{{{key!r}: weights}}"
        lines.append(f"dcp.load({wanted}, checkpoint_id=path{planner})")
    else:
        inside = "" if key is None else f"[{key!r}]"
        only = not asked.trust_checkpoint
        lines.append(f'weights = torch.load(path, map_location="cpu", mmap=True, weights_only={only}){inside}')
        lines.append("import torch")
    if settings or not directory:
        module = "torch.distributed.checkpoint.state_dict"
        lines.append(f"from {module} import {'StateDictOptions, ' if settings else ''}set_model_state_dict")
        options = f", options=StateDictOptions({spelled(settings)[2:]})" if settings else ""
        lines.append(f"set_model_state_dict(model, weights{options})")
    return tuple(lines)


def _with_model(load: Any, model: nn.Module) -> Any:
    return lambda seen: load(seen, model)


def _read(seen: Seen, model: nn.Module, path: str, key: str | None, *, partial: bool) -> Mapping[str, object]:
    dcp: Any = import_module("torch.distributed.checkpoint")
    state_dict = model.state_dict()
    wanted: dict[str, object] = state_dict if key is None else {key: state_dict}
    _tell(seen, dcp.FileSystemReader(path), state_dict, "" if key is None else f"{key}.")
    planner = dcp.DefaultLoadPlanner(allow_partial_load=True) if partial else None
    try:
        dcp.load(wanted, checkpoint_id=path, planner=planner)
    except dcp.CheckpointException as error:
        _leave_out_ours(error)
        raise
    return state_dict


def _leave_out_ours(error: Any) -> None:
    """Its text has the frames that it came through: take those out by which the call is followed."""
    for _, frames in error.failures.values():
        if frames is not None:
            frames[:] = [frame for frame in frames if not frame.filename.startswith(_OURS)]


_OURS = str(Path(__file__).parents[1])


def _tell(seen: Seen, reader: Any, state_dict: Mapping[str, object], prefix: str) -> None:
    """The lists that `dcp.load` could have: it ends at the first key, and has no word for those it passes over."""
    try:
        saved = reader.read_metadata().state_dict_metadata
    except Exception:  # in the words of the call itself
        return
    mismatched = []
    for key, value in state_dict.items():
        size = getattr(saved.get(prefix + key), "size", None)
        if size is not None and isinstance(value, torch.Tensor) and size != value.size():
            mismatched.append((key, tuple(size), tuple(value.size())))
    seen.tell(
        missing=[key for key in state_dict if prefix + key not in saved],
        unexpected=[key for key in saved if key.removeprefix(prefix) not in state_dict],
        mismatched=mismatched,
        ignored=True,
    )


def _set(seen: Seen, model: nn.Module, state_dict: Any, settings: Mapping[str, object]) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    with told_by_state_loads(seen):
        set_model_state_dict(model, state_dict, options=StateDictOptions(**settings))  # type: ignore[arg-type]
