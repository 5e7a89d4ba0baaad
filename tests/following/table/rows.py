"""A row of the table: a loader, and how the files that it loads are written in each situation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.following.oracle import Net

State = dict[str, torch.Tensor]
Save = Callable[[Mapping[str, Any], Path], Path]


class NotMade(Exception):
    """The model of a row cannot be made: too large, or its own code raises."""


@dataclass(frozen=True)
class Row:
    """One loader. `load(model, path)`, or `load(path)` where it makes the model."""

    name: str
    load: Callable[..., Any]
    save: Save
    template: Callable[[], nn.Module] = Net
    """A model whose state dict the file is to hold."""
    makes_model: bool = False
    trust: bool = False
    """Whether it runs what the file names, and is to be let."""
    state: Callable[[int], Mapping[str, Any]] | None = None
    """The good state dict with the values of a seed, where it is not simply that of the template."""
    skip: tuple[str, ...] = ()
    """Situations that its files cannot be in."""
    only: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Packages, imported before the row runs."""
    coarse: bool = False
    """Whether two files come to the same in many an element: what is filled is then asked of whole tensors."""
    fixed: tuple[str, ...] = ()
    """How the names of tensors end that are the same in every file."""

    def verdicts(self, situation: str, folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
        """Every situation, or one, and what answers it."""
        from tests.following.table.truth import agreement

        for name in self.only or SITUATIONS:
            if name not in self.skip and situation in ("", name):
                convert = name in ("good", "missing", "dtype", "shuffled")
                yield name, lambda name=name, convert=convert: agreement(self, name, folder / name, convert=convert)

    def good(self, seed: int) -> dict[str, Any]:
        """The state dict of a seed."""
        return dict(self.state(seed)) if self.state is not None else valued(self.template(), seed)


def valued(module: nn.Module, seed: int) -> State:
    """A module's state dict with values of a seed's own: no element has the value that another seed gives it."""
    return {
        key: values_like(value, seed, key)
        for key, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def values_like(tensor: torch.Tensor, seed: int, key: str = "") -> torch.Tensor:
    """Values for a tensor, the same for the same seed and key. Those of two seeds share no range."""
    generator = torch.Generator().manual_seed(seed * 1000 + sum(map(ord, key)) % 1000)
    if tensor.is_complex():
        return torch.complex(*(values_like(part, seed, key) for part in (tensor.real, tensor.imag)))
    if tensor.is_floating_point():
        drawn = (torch.rand(tensor.shape, generator=generator) * 0.98 + 1.01) * 4.0**seed / 64
        return drawn.to(tensor.dtype)
    if tensor.dtype == torch.bool:
        return torch.full(tensor.shape, bool(seed % 2))
    return torch.full(tensor.shape, seed, dtype=tensor.dtype)


# Files


def pth(state: Mapping[str, Any], folder: Path) -> Path:
    """A file of torch.save."""
    torch.save(state, folder / "w.pth")
    return folder / "w.pth"


def flat(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a nested dictionary under dotted names, none sharing memory, for formats that know no nesting."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value.detach().clone().contiguous()


def safetensors(state: Mapping[str, Any], folder: Path, name: str = "w.safetensors") -> Path:
    """A file of safetensors."""
    from safetensors.torch import save_file

    save_file(dict(flat(state)), folder / name, metadata={"format": "pt"})
    return folder / name


def under(*names: str, **others: Any) -> Save:
    """A file of torch.save in which the state dict lies under a name, beside other things."""

    def save(state: Mapping[str, Any], folder: Path) -> Path:
        content: Any = state
        for name in reversed(names):
            content = {name: content, **others}
        return pth(content, folder)

    return save


def in_folder(name: str, save: Save) -> Save:
    """As another saver does, but the folder is what is passed to the loader, and the file has this name."""

    def saved(state: Mapping[str, Any], folder: Path) -> Path:
        made = save(state, folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        made.rename(folder / name)
        return folder

    return saved


# Situations: what a state dict has become


def _middle(state: Mapping[str, Any]) -> str:
    keys = [key for key, value in state.items() if value.is_floating_point() and value.dim() >= 2]
    return keys[len(keys) // 2] if keys else next(iter(state))


def good(state: State) -> Any:
    return state


def missing(state: State) -> Any:
    del state[_middle(state)]
    return state


def extra(state: State) -> Any:
    value = next(iter(state.values()))
    return {**state, "extra.weight": torch.full_like(value, 3), "extra_bias": torch.full_like(value, 3)}


def mismatch(state: State) -> Any:
    key = _middle(state)
    return {**state, key: torch.cat([state[key], state[key][:1]])}


def dtype(state: State) -> Any:
    return {key: value.to(torch.bfloat16) if value.is_floating_point() else value for key, value in state.items()}


def prefix(state: State) -> Any:
    return {"module." + key: value for key, value in state.items()}


def nested(state: State) -> Any:
    return {"state_dict": state, "epoch": 3}


def nested_model(state: State) -> Any:
    return {"model": state, "step": torch.tensor(7)}


def shuffled(state: State) -> Any:
    key = _middle(state)
    changed = {name: state[name] for name in reversed(state)}
    changed[key + "_old"] = changed.pop(key)
    return changed


def empty(state: State) -> Any:
    return {}


def truncated(state: State) -> Any:
    return state


def absent(state: State) -> Any:
    return state


SITUATIONS: dict[str, Callable[[State], Any]] = {
    change.__name__: change
    for change in (
        good, missing, extra, mismatch, dtype, prefix, nested, nested_model, shuffled, empty, truncated, absent,
    )
}  # fmt: skip


def written(row: Row, situation: str, seed: int, folder: Path) -> Path:
    """The file, or folder, of a row in a situation."""
    folder.mkdir(parents=True)
    path = row.save(SITUATIONS[situation](row.good(seed)), folder)
    if situation in ("truncated", "absent"):
        files = [file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".json", ".py", ".yaml")]
        largest = max(files, key=lambda file: file.stat().st_size)
        if situation == "absent":
            largest.unlink()
        else:
            os.truncate(largest, largest.stat().st_size * 6 // 10)
    return path
