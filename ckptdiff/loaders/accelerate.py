"""accelerate: `load_checkpoint_in_model`, by which `load_checkpoint_and_dispatch` loads too."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torch import nn

from ckptdiff.following.followed import Followed
from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.left import Left
from ckptdiff.loaders.library_call import Seen, called, given_model, release, spelled
from ckptdiff.loaders.outcome import Loader

_OPTIONS = ("strict", "dtype", "full_state_dict")


def ask(asked: Asked) -> Left:
    """What `load_checkpoint_in_model` leaves in a model on the CPU."""
    asked.refuse_unknown_options("accelerate", _OPTIONS)
    import_module("accelerate")  # what that reads is no matter of the call's
    text = f"load_checkpoint_in_model(model, path{spelled(asked.options)})"
    lines = ("from accelerate import load_checkpoint_in_model", text)
    loader = Loader("accelerate", release("accelerate"), text, "followed", lines, takes_model=True)

    def prepare(followed: Followed) -> Callable[[Seen], None]:
        model = given_model(followed, asked)
        return lambda seen: _load(seen, asked, model)

    return called(asked, loader, prepare, "accelerate", "safetensors")[0]


def _load(seen: Seen, asked: Asked, model: nn.Module) -> None:
    from accelerate import load_checkpoint_in_model

    seen.module = model
    load_checkpoint_in_model(model, asked.path, **asked.options)
