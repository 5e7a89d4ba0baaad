"""What a library's loader really does, beside the answer: its error, its lists, and which keys it fills.

A key is filled where it ends with other values once a file of the same names and other values is loaded.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ckptdiff.loaders.outcome import Outcome

Shapes = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass
class Real:
    """What one real call did. A list that the library does not keep is None, as is a model that there was not."""

    raised: str | None = None
    missing: set[str] | None = None
    unexpected: set[str] | None = None
    mismatched: set[Shapes] | None = None
    model: nn.Module | None = None
    filled: set[str] | None = field(default=None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what libraries warn of and log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def really(call: Callable[[Path], Real], path: Path, twin: Path | None = None) -> Real:
    """What a call does with a path, and which keys it fills by what it does with the twin of it."""
    real = _once(call, path)
    if twin is not None and real.raised is None and real.model is not None:
        other = _once(call, twin)
        assert other.model is not None
        real.filled = differing(real.model, other.model)
    return real


def _once(call: Callable[[Path], Real], path: Path) -> Real:
    torch.manual_seed(5)
    try:
        with quiet():
            return call(path)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Real(f"{type(error).__name__}: {error}")


def differing(model: nn.Module, other: nn.Module) -> set[str]:
    """The keys whose values are not the same in two models; what has no elements counts as filled."""
    values, others = model.state_dict(), other.state_dict()
    return {
        key
        for key, value in values.items()
        if isinstance(value, torch.Tensor)
        and not value.is_meta
        and (not value.numel() or not _same(value, others[key]))
    }


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    one, two = one.detach(), two.detach()
    if one.is_floating_point() or one.is_complex():
        return torch.equal(one.nan_to_num().to(torch.complex64), two.nan_to_num().to(torch.complex64))
    return torch.equal(one, two)


def other_values(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the same names and shapes, each element another."""
    return {key: ~value if value.dtype == torch.bool else value + 1 for key, value in tensors.items()}


def twin_of(folder: Path, files: Iterable[str] = ("*.safetensors", "*.bin", "*.pth", "*.ckpt")) -> Path:
    """A copy of a folder whose weights have other values."""
    from safetensors.torch import load_file, save_file

    twin = folder.with_name(f"{folder.name}-twin")
    shutil.rmtree(twin, ignore_errors=True)
    shutil.copytree(folder, twin)
    for pattern in files:
        for file in twin.rglob(pattern):
            if file.suffix == ".safetensors":
                save_file(other_values(load_file(file)), file, metadata={"format": "pt"})
            else:
                content: Any = torch.load(file, weights_only=False)
                torch.save(_other(content), file)
    return twin


def _other(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ~value if value.dtype == torch.bool else value + 1
    if isinstance(value, dict):
        return type(value)((key, _other(item)) for key, item in value.items())
    return value


def disagreements(outcome: Outcome, real: Real) -> list[str]:
    """In what an answer is not what the call did."""
    found = []
    if outcome.raised != real.raised:
        found.append(f"raised: {_short(outcome.raised)} for {_short(real.raised)}")
    lists: tuple[tuple[str, Any, Any], ...] = (
        ("missing", real.missing, set(outcome.problem_keys("missing"))),
        ("unexpected", real.unexpected, set(outcome.problem_keys("unexpected"))),
        ("mismatched", real.mismatched, set(outcome.mismatches())),
        ("filled", real.filled, filled(outcome)),
    )
    for name, truth, answer in lists:
        if truth is not None and truth != answer:
            found.append(f"{name}: {sorted(answer - truth)[:3]} too many, {sorted(truth - answer)[:3]} too few")
    return found


def filled(outcome: Outcome) -> set[str]:
    """The keys that an answer says come from the checkpoint."""
    return {key for key, item in outcome.filled.items() if item.by in ("file", "tie")}


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) < 300 else f"{text[:150]}…{text[-150:]}")
