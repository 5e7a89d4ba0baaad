"""The walk against torch's own, on trees of growing size. Both only match keys: everything lies on the meta device."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract

TORCH_AT_MOST = 3e8
"""Keys torch's loader may look at, one minute's work or so: trees in which it looks at more are left to the walk."""


class Leaf(nn.Module):
    """A layer of `count` parameters."""

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        for index in range(count):
            self.register_parameter(f"p{index}", nn.Parameter(torch.empty(1, device="meta")))


def flat(layers: int, parameters: int = 2) -> nn.Module:
    """A ModuleList of that many leaves."""
    return nn.ModuleList(Leaf(parameters) for _ in range(layers))


def deep(depth: int, width: int, parameters: int) -> nn.Module:
    """A chain of `depth` modules with `width` leaves each."""
    module: nn.Module = nn.ModuleList(Leaf(parameters) for _ in range(width))
    for _ in range(depth - 1):
        module = nn.ModuleList([*(Leaf(parameters) for _ in range(width)), module])
    return module


def experts() -> nn.Module:
    """DeepSeek-V3's shape: 61 layers, 58 of them with 256 experts of three matrices."""

    def expert() -> nn.Module:
        return nn.ModuleDict({name: Leaf(1) for name in ("gate_proj", "up_proj", "down_proj")})

    def layer(index: int) -> nn.Module:
        mlp = expert() if index < 3 else nn.ModuleDict({"experts": nn.ModuleList(expert() for _ in range(256))})
        return nn.ModuleDict({"self_attn": Leaf(7), "mlp": mlp, "norms": Leaf(2)})

    return nn.ModuleDict({"layers": nn.ModuleList(layer(index) for index in range(61)), "head": Leaf(2)})


def hooked(module: nn.Module) -> nn.Module:
    """The same with a load hook at the root and at ten modules below it."""

    def look(state_dict: Mapping[str, object], prefix: str, *_: object) -> None:
        assert prefix + "nowhere" not in state_dict

    modules = list(module.modules())
    for chosen in modules[:: max(1, len(modules) // 10)]:
        chosen._register_load_state_dict_pre_hook(look)
    return module


CASES: dict[str, Callable[[], nn.Module]] = {
    "flat, 1k layers": lambda: flat(1_000),
    "flat, 4k layers": lambda: flat(4_000),
    "flat, 16k layers": lambda: flat(16_000),
    "flat, 64k layers": lambda: flat(64_000),
    "DeepSeek-V3": experts,
    "DeepSeek-V3, hooks on eleven modules": lambda: hooked(experts()),
    "flat, 100 layers of 10k": lambda: flat(100, 10_000),
    "flat, 20k layers of 50": lambda: flat(20_000, 50),
    "20 deep, 20 layers of 2.5k each": lambda: deep(20, 20, 2_500),
    "100 deep, 100 layers of 100 each": lambda: deep(100, 100, 100),
    "100 deep, hooks on eleven modules": lambda: hooked(deep(100, 100, 100)),
}


def looked_at(module: nn.Module) -> int:
    """How many keys torch's loader looks at: for each child all that its parent was given."""

    def visit(node: nn.Module) -> tuple[int, int]:
        below = [visit(child) for child in node.children()]
        keys = len(node._parameters) + sum(keys for keys, _ in below)
        return keys, len(below) * keys + sum(steps for _, steps in below)

    return visit(module)[1]


def seconds(work: Callable[[], object], runs: int) -> float:
    """The median CPU time."""
    times = []
    for _ in range(runs):
        gc.collect()
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    print("### the walk: CPU seconds\n")
    print("| tree | modules | keys | reading the model | walk | torch's own | torch's ÷ walk |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, make in CASES.items():
        module = make()
        state_dict: OrderedDict[str, torch.Tensor] = module.state_dict()
        runs = 5 if len(state_dict) < 200_000 else 3
        reading = seconds(lambda module=module: extract(module), runs)
        tree, checkpoint = extract(module), checkpoint_of(state_dict)
        walking = seconds(lambda tree=tree, checkpoint=checkpoint: compare(tree, checkpoint), runs)
        cells = ("not waited for", "")
        if looked_at(module) <= TORCH_AT_MOST:
            theirs = seconds(lambda module=module, state=state_dict: module.load_state_dict(state), 1)
            cells = (f"{theirs:.2f}", f"{theirs / walking:.1f}")
        modules = sum(1 for _ in module.modules())
        counts = f"{modules:,} | {len(state_dict):,}"
        print(f"| {name} | {counts} | {reading:.2f} | {walking:.2f} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)  # torch's loader calls itself at every level
    main()
