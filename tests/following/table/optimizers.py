"""`Optimizer.load_state_dict`: which entry of a file feeds which state, and what is raised, for every optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim

from ckptdiff.following.followed import ask
from tests.following.oracle import seeded
from tests.following.table.rows import values_like
from tests.following.table.truth import bits, changed, without_addresses

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}),
    "SGD, momentum": ("SGD", {"momentum": 0.9}),
    "SGD, Nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "Adam": ("Adam", {}),
    "Adam, amsgrad": ("Adam", {"amsgrad": True}),
    "Adam, foreach": ("Adam", {"foreach": True}),
    "Adam, fused": ("Adam", {"fused": True}),
    "Adam, a tensor as lr": ("Adam", {"lr": "tensor", "capturable": False, "foreach": False}),
    "AdamW": ("AdamW", {}),
    "AdamW, amsgrad": ("AdamW", {"amsgrad": True, "weight_decay": 0.2}),
    "AdamW, two groups": ("AdamW", {"groups": True}),
    "AdamW, named": ("AdamW", {"named": True}),
    "Adamax": ("Adamax", {}),
    "NAdam": ("NAdam", {"momentum_decay": 0.01}),
    "RAdam": ("RAdam", {"decoupled_weight_decay": True}),
    "Adagrad": ("Adagrad", {"initial_accumulator_value": 0.1}),
    "Adadelta": ("Adadelta", {}),
    "Adafactor": ("Adafactor", {}),
    "ASGD": ("ASGD", {}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop, centered": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "Rprop": ("Rprop", {}),
    "LBFGS": ("LBFGS", {"max_iter": 2, "history_size": 3}),
    "SparseAdam": ("SparseAdam", {}),
    "Muon": ("Muon", {}),
}


class Module(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6, bias=kind != "Muon")
        self.second = nn.Linear(6, 4, bias=False)


def made(name: str, kind: str, given: dict[str, Any]) -> tuple[nn.Module, optim.Optimizer]:
    torch.manual_seed(5)
    options = dict(given)
    module = Module(kind)
    parameters: Any = list(module.named_parameters() if options.pop("named", False) else module.parameters())
    if options.pop("groups", False):
        parameters = [{"params": parameters[:1], "weight_decay": 0.0}, {"params": parameters[1:]}]
    if options.get("lr") == "tensor":
        options["lr"] = torch.tensor(0.01)
    return module, getattr(optim, kind)(parameters, **options)


def trained(module: nn.Module, optimizer: optim.Optimizer, seed: int, steps: int = 3) -> dict[str, Any]:
    """The state dict after a few steps, with values of a seed's own."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for name, parameter in module.named_parameters():
            gradient = values_like(parameter, 1, name)
            parameter.grad = gradient.to_sparse() if isinstance(optimizer, optim.SparseAdam) else gradient
            total = total + parameter.detach().sum()
        return total

    for _ in range(steps):
        optimizer.step(closure)
    state = copy.deepcopy(optimizer.state_dict())
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.dim():
                entries[name] = values_like(value, seed, f"{index}{name}")
            elif isinstance(value, torch.Tensor):
                entries[name] = torch.full_like(value, 10 * seed + int(index))
            elif isinstance(value, list):
                entries[name] = [
                    values_like(item, seed, f"{name}{number}") if isinstance(item, torch.Tensor) else item
                    for number, item in enumerate(value)
                ]
    for group in state["param_groups"]:
        group["lr"] = group["lr"] * 0 + 0.125 * seed
    return state


# Situations


def good(state: Any) -> Any:
    return state


def entry_missing(state: Any) -> Any:
    if state["state"]:
        del state["state"][next(iter(state["state"]))]
    return state


def name_missing(state: Any) -> Any:
    for entries in state["state"].values():
        entries.pop(next(iter(entries), None), None)
    return state


def extra(state: Any) -> Any:
    lr = torch.as_tensor(state["param_groups"][0]["lr"])  # of the seed
    more = next((value for entries in state["state"].values() for value in entries.values()), lr)
    return {**state, "state": {**state["state"], 99: {"exp_avg": copy.deepcopy(more)}}}


def group_missing(state: Any) -> Any:
    return {**state, "param_groups": state["param_groups"][1:]}


def longer_group(state: Any) -> Any:
    state["param_groups"][0]["params"] = [*state["param_groups"][0]["params"], 77]
    return state


def reshaped(state: Any) -> Any:
    for entries in state["state"].values():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.dim() == 2:
                entries[name] = torch.cat([value, value[:1]])
    return state


def half(state: Any) -> Any:
    for entries in state["state"].values():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                entries[name] = value.to(torch.float16)
    return state


def swapped(state: Any) -> Any:
    keys = list(state["state"])
    return {**state, "state": dict(zip(keys, [state["state"][key] for key in reversed(keys)], strict=True))}


def empty(state: Any) -> Any:
    return {}


def other_options(state: Any) -> Any:
    for group in state["param_groups"]:
        group["weight_decay"], group["new_option"] = 0.75, "x"
        group.pop("maximize", None)
    return state


def numbers(state: Any) -> Any:
    """A step that is a number, as older releases wrote it."""
    for entries in state["state"].values():
        if isinstance(entries.get("step"), torch.Tensor):
            entries["step"] = float(entries["step"])
    return state


SITUATIONS: tuple[Callable[[Any], Any], ...] = (
    good, entry_missing, name_missing, extra, group_missing, longer_group, reshaped, half, swapped, empty,
    other_options, numbers,
)  # fmt: skip


def load(optimizer: optim.Optimizer, path: Path) -> None:
    optimizer.load_state_dict(torch.load(path)["optimizer"])


def tensors(value: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Every tensor and number in an optimizer's state and groups, by where it lies."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: found for name, item in items for key, found in tensors(item, (*path, name)).items()}
    return {path: value}


def state_of(optimizer: optim.Optimizer) -> dict[tuple[Any, ...], Any]:
    index = {id(p): n for n, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    state = {index.get(id(key), key): value for key, value in optimizer.state.items()}
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    return tensors({"state": state, "groups": groups})


def called(optimizer: optim.Optimizer, path: Path) -> str | None:
    seeded()
    try:
        load(optimizer, path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def agreement(name: str, situation: Callable[[Any], Any], folder: Path) -> str:
    kind, options = CONFIGURATIONS[name]
    folder.mkdir(parents=True)
    paths = []
    for seed in (1, 2):
        module, optimizer = made(name, kind, options)
        paths.append(folder / f"{seed}.pth")
        torch.save({"optimizer": situation(trained(module, optimizer, seed))}, paths[-1])
    ends = []
    for path in paths:
        _, optimizer = made(name, kind, options)
        ends.append((called(optimizer, path), state_of(optimizer)))
    _, optimizer = made(name, kind, options)
    seeded()
    found = ask(load, optimizer, paths[0])
    (raised, state), (_, other) = ends
    if found.raised != raised and without_addresses(str(found.raised)) != without_addresses(str(raised)):
        return f"WRONG raised {found.raised!r}, really {raised!r}"
    ours = state_of(optimizer)
    if list(ours) != list(state):
        return f"WRONG state {sorted(set(map(str, ours)) ^ set(map(str, state)))[:4]}"
    for key, true in state.items():
        number = situation is numbers and key[-1] == "step"  # of the pickle, and no tensor: not followed
        fault = fault_of(found, key, ours[key], true, true if number else other[key])
        if fault:
            return f"WRONG {key}: {fault}"
    return "agree"


def fault_of(found: Any, key: tuple[Any, ...], tensor: Any, true: Any, twin: Any) -> str:
    if not isinstance(true, torch.Tensor):
        return "" if type(tensor) in (type(true),) and tensor == true else f"{tensor!r}, really {true!r}"
    if tensor.shape != true.shape or tensor.dtype != true.dtype or type(tensor) is not type(true):
        return f"{tensor.dtype} {tuple(tensor.shape)}, really {true.dtype} {tuple(true.shape)}"
    if not torch.equal(bits(found.engine.value(tensor)), bits(true)):
        return "other values"
    fill = found.fill(tensor)
    really = bool(changed(true, twin).any()) if true.shape == twin.shape else True
    if (fill.by != "initial") != really:
        return f"{fill.by}, really {'of the file' if really else 'not of it'}"
    place = "optimizer/" + "/".join(map(str, key))
    if key[0] == "state" and fill.by == "file" and {source for _, source in fill.sources} != {place}:
        return f"from {fill.sources}, not {place}"
    return ""


class Configured:
    """A row of `running`."""

    needs = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def verdicts(self, situation: str, folder: Path) -> Any:
        for change in SITUATIONS:
            if situation in ("", change.__name__):
                yield change.__name__, lambda change=change: agreement(self.name, change, folder / change.__name__)


ROWS = [Configured(name) for name in CONFIGURATIONS if hasattr(optim, CONFIGURATIONS[name][0])]
