"""`from_pretrained`, run as it stands on files whose values nobody reads; its own lists beside what it fills."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from ckptdiff.checkpoint.reading import read
from ckptdiff.errors import CheckpointError, CkptdiffError, UsageError
from ckptdiff.following.followed import Followed, following
from ckptdiff.following.readers.inert import Refused
from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.left import Left, Told, left_in, left_nothing
from ckptdiff.loaders.outcome import Loader, Machine
from ckptdiff.loaders.transformers.calls_made import Call, call_of
from ckptdiff.loaders.transformers.load_report import converters_reused, reported
from ckptdiff.model.libraries import offline
from ckptdiff.model.sandbox import contained
from ckptdiff.spelling import given

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_TAKES_PART = ("transformers", "safetensors", "accelerate", "peft", "bitsandbytes", "torchao", "compressed-tensors")


def ask(asked: Asked) -> Left:
    """What `from_pretrained` leaves. Raises CkptdiffError without an answer."""
    with offline(), quietly(), contained(asked.shown or asked.path):
        prepared = call_of(asked)
        try:
            with following(trust=asked.trust_checkpoint) as followed, reported() as said, converters_reused():
                call = prepared()
                module = _called(followed, call)
            if module is None:
                module = said.model
        except Refused as refused:
            raise refused.told("from_pretrained") from None
        inside = str(call.options.get("subfolder") or "")
        where = str(Path(asked.path) / inside) if inside else asked.path
        told = Told(said.missing, said.unexpected, said.mismatched, said.failed, ignored=True)
        name, release = _spelled(call), version("transformers")
        takes = call.config == "model.config"
        loader = Loader("transformers", release, name, "followed", call.lines(), takes_model=takes)
        if module is None:
            return left_nothing(followed, loader, told, where, reference=asked.shown, machine=_machine())
        return left_in(module, followed, loader, told, where, reference=asked.shown, machine=_machine())


def _called(followed: Followed, call: Call) -> nn.Module | None:
    """The model that the call returns; None, and what it raised noted, where it does not."""
    try:
        options = dict(call.options)
        if call.file:
            options["state_dict"] = _read(call.file)
        made: object = call.owner.from_pretrained(call.path, **options)
        followed.result = made
    except (Refused, CkptdiffError):
        raise
    except (Exception, SystemExit) as error:
        unknown = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
        if unknown is not None and unknown[1] in call.options:
            raise UsageError(f"{given('loader_args', unknown[1])}: {error}.", "Leave it out.") from None
        followed.note(error)
        return None
    return made if isinstance(made, nn.Module) else None


def _read(path: str) -> object:
    """A state dict as one reads it to hand it over: the one of a file, wherever in it that is."""
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=False)  # inert, while it is followed
    place = read(path).state_dict_key
    for name in filter(None, place.split(".")):
        if not isinstance(content, (dict, list)):
            raise CheckpointError(f"{path}: the state dict at {place} is not to be had.", "Save it alone.")
        content = content[int(name)] if isinstance(content, list) else content[name]
    return content


def _spelled(call: Call) -> str:
    name = getattr(call.owner, "__name__", "")
    return f"{name}.from_pretrained"


def _machine() -> Machine:
    """torch, and the libraries that are installed and take part."""
    machines = []
    for name in _TAKES_PART:
        with contextlib.suppress(PackageNotFoundError):
            machines.append((name, version(name)))
    return Machine(torch.__version__, tuple(machines))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep a library's warnings and progress bars to itself, its loading to one thread, and memory as it is."""
    from transformers.utils import logging

    collecting = gc.isenabled()
    gc.disable()  # of a hundred thousand small objects none is garbage, and looking for it takes a third of the time
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    before = os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
        else:
            os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = before
        logging.set_verbosity(level)
        if collecting:
            gc.enable()
        if bars:
            logging.enable_progress_bar()
