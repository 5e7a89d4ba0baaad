"""The one place where transformers is patched: where its report on a load is made, of the lists that it keeps."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ckptdiff.errors import CkptdiffError
from ckptdiff.spelling import given

_REPORT = "log_state_dict_report"
_PLACES = ("transformers.modeling_utils", "transformers.integrations.peft")
"""Modules that have the function under its name: for the model, and for an adapter that lies beside it."""
_LISTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "conversion_errors", "error_msgs")


@dataclass(slots=True)
class Reported:
    """What transformers said of a load: the model as it was then, and its lists as plain values, sorted."""

    model: Any = None
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    times: int = 0

    def add(self, model: object, info: Any) -> None:
        """Take the lists over, as they stand. Raises CkptdiffError where they are not what they were."""
        if any(not hasattr(info, name) for name in _LISTS):
            raise moved()
        self.times += 1
        self.model = self.model if self.model is not None else model
        self.missing = sorted({*self.missing, *map(str, info.missing_keys)})
        self.unexpected = sorted({*self.unexpected, *map(str, info.unexpected_keys)})
        shapes = [(str(key), tuple(given), tuple(wanted)) for key, given, wanted in info.mismatched_keys]
        self.mismatched = sorted({*self.mismatched, *shapes})
        self.failed |= {str(key): str(text).strip() for key, text in sorted(info.conversion_errors.items())}


def moved() -> CkptdiffError:
    """What there is to say where a release keeps its lists elsewhere."""
    import transformers

    return CkptdiffError(
        f"transformers {transformers.__version__} keeps what it says of a load elsewhere than known here.",
        f"Use transformers 5, or a newer ckptdiff; {given('loader', 'torch')} asks load_state_dict.",
    )


@contextlib.contextmanager
def reported() -> Iterator[Reported]:
    """What transformers reports inside the block. Raises CkptdiffError where the release has no such report."""
    said = Reported()
    modules = [import_module(_PLACES[0])]
    with contextlib.suppress(ImportError):
        modules.append(import_module(_PLACES[1]))
    if not hasattr(modules[0], _REPORT):
        raise moved()
    kept = [(module, getattr(module, _REPORT)) for module in modules if hasattr(module, _REPORT)]

    def watching(original: Any) -> object:
        def log_state_dict_report(*args: object, **kwargs: object) -> object:
            info = kwargs.get("loading_info", args[3] if len(args) > 3 else None)
            said.add(kwargs.get("model", args[0] if args else None), info)
            return original(*args, **kwargs)

        return log_state_dict_report

    try:
        for module, original in kept:
            setattr(module, _REPORT, watching(original))
        yield said
    finally:
        for module, original in kept:
            setattr(module, _REPORT, original)


@contextlib.contextmanager
def converters_reused() -> Iterator[None]:
    """Let transformers copy a converter only where it uses the copy, which it makes for each of thousands of experts.

    A copy to which nothing was added yet is as good as the next one. Where a release has it otherwise, nothing changes.
    """
    module = sys.modules.get("transformers.core_model_loading")
    if module is None or getattr(module, "deepcopy", None) is not copy.deepcopy:
        yield
        return
    spare: dict[int, tuple[object, object]] = {}

    def deepcopy(value: object) -> object:
        held = spare.get(id(value))
        if held is None or held[0] is not value or getattr(held[1], "collected_tensors", True):
            held = spare[id(value)] = value, copy.deepcopy(value)
        return held[1]

    vars(module)["deepcopy"] = deepcopy
    try:
        yield
    finally:
        vars(module)["deepcopy"] = copy.deepcopy
