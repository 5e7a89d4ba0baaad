"""What a loader really does: run twice, on files that hold different values. What differs came from the file."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ckptdiff.following.followed import Followed, ask


class Net(nn.Module):
    """A model small enough to be looked at, with a tie, a buffer, a counter and an embedding."""

    def __init__(self, vocabulary: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 8)
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.second = nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(8, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(3))


def state(seed: int, vocabulary: int = 12) -> dict[str, torch.Tensor]:
    """A state dict of Net with values of its own, the counter included; the tied key is the same tensor."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, value in Net(vocabulary).state_dict().items():
        if value.is_floating_point():
            made[key] = torch.rand(value.shape, generator=generator) + seed
        else:
            made[key] = torch.tensor(seed)
    made["head.weight"] = made["embed.weight"]
    return made


@dataclass
class Truth:
    """What really happened: which elements came from the file, the values, what was raised and returned."""

    from_file: Mapping[str, torch.Tensor]
    values: Mapping[str, torch.Tensor]
    raised: str | None
    result: Any


def really(load: Callable[..., Any], model: nn.Module, *paths: Any) -> Truth:
    """Run a loader on a copy of the model, once with each of several files."""
    ends = []
    for path in paths:
        loaded = copy.deepcopy(model)
        seeded()
        raised = result = None
        try:
            result = load(loaded, path)
        except (Exception, SystemExit) as error:
            raised = f"{type(error).__name__}: {error}"
        model_of_result = result if isinstance(result, nn.Module) else loaded
        ends.append((dict(model_of_result.state_dict()), raised, result))
    first, raised, result = ends[0]
    from_file = {key: torch.zeros(value.shape, dtype=torch.bool) for key, value in first.items()}
    for other, _, _ in ends[1:]:
        for key, value in first.items():
            twin = other.get(key)
            same = twin is not None and twin.shape == value.shape
            from_file[key] |= ~same_bits(value, twin) if same else torch.ones(value.shape, dtype=torch.bool)
    return Truth(from_file, first, raised, result)


def same_bits(value: torch.Tensor, twin: torch.Tensor) -> torch.Tensor:
    """Element by element, whether two tensors are the same, NaN included."""
    return (value == twin) | ((value != value) & (twin != twin))


def seeded() -> None:
    """The same random numbers for each run."""
    torch.manual_seed(1234)
    random.seed(1234)
    np.random.seed(1234)


def followed(load: Callable[..., Any], model: nn.Module, path: Path | str) -> tuple[Followed, nn.Module]:
    """Follow a loader on a copy of the model; returns what is known, and the model it left."""
    copied = copy.deepcopy(model)
    seeded()
    found = ask(load, copied, path)
    return found, found.result if isinstance(found.result, nn.Module) else copied


def elements_from_file(found: Followed, model: nn.Module) -> dict[str, torch.Tensor]:
    """For every key of a followed model, which elements came from a file, as `Truth.from_file` has it."""
    masks = {}
    for key, value in model.state_dict(keep_vars=True).items():
        fill = found.fills(model)[key]
        mask = torch.zeros(value.numel(), dtype=torch.bool)
        if fill.by == "file" and fill.sources:
            mask[:] = True
        for first, end in fill.filled:
            mask[first:end] = True
        masks[key] = mask.reshape(value.shape)
    return masks


def answered(load: Callable[..., Any], files: list[Path]) -> tuple[list[str], list[str]]:
    """The keys of a small model about which a loader is answered otherwise than it acts, and the doubts."""
    torch.manual_seed(7)
    model = Net()
    truth = really(load, model, *files)
    found, left = followed(load, model, files[0])
    assert found.raised == truth.raised is None
    masks = elements_from_file(found, left)
    wrong = [key for key, mask in masks.items() if not torch.equal(mask, truth.from_file[key])]
    return wrong, list(found.doubts(found.fills(left)))
