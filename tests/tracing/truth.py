"""What a program really does: run to the first call of a model after it has loaded, twice, with two sets of values."""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

FORK = multiprocessing.get_context("fork")


@dataclass
class Truth:
    """For every class of model, the keys that came from a file, and the others; what ended the program."""

    filled: dict[str, set[str]]
    initial: dict[str, set[str]]
    raised: str | None


class _Called(BaseException):
    pass


def really(program: Path, folders: tuple[Path, Path]) -> Truth:
    """Run it for real in each folder, which hold the same files with other values."""
    (first, raised), (second, _) = (_run(program, folder) for folder in folders)
    filled: dict[str, set[str]] = {}
    initial: dict[str, set[str]] = {}
    for kind, state in first.items():
        for key, value in state.items():
            # Values are lists; None is on meta, where nothing came from a file.
            same = repr(value) == repr(second.get(kind, {}).get(key))
            (initial if same else filled).setdefault(kind, set()).add(key)
    return Truth(filled, initial, raised)


def _run(program: Path, folder: Path) -> tuple[dict[str, dict[str, Any]], str | None]:
    answer = folder / "truth.pt"
    process = FORK.Process(target=_in_child, args=(program, folder, answer))
    process.start()
    process.join(60)
    return torch.load(answer, weights_only=True)


def _in_child(program: Path, folder: Path, answer: Path) -> None:
    os.chdir(folder)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    torch.set_num_threads(1)
    sys.argv, sys.path[:0] = [str(program)], [str(program.parent)]
    torch.manual_seed(7)
    torch.compile = lambda model=None, *_, **__: OptimizedModule(model)
    reads: list[Any] = []
    _count_reads(reads)
    call, state = nn.Module.__call__, {}
    before = _modules()  # of whoever started this process

    def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if reads:
            state.update(_roots(before))
            os._exit(_save(answer, state, None))
        return call(module, *args, **kwargs)

    nn.Module.__call__ = called
    raised = None
    kept: Any = None
    try:
        kept = runpy.run_path(str(program), run_name="__main__")
    except SystemExit:
        raised = None
    except BaseException as error:
        raised = f"{type(error).__name__}: {error}"
        kept = error.__traceback__
    os._exit(_save(answer, _roots(before), raised))
    del kept  # what the program holds has lived on until here


class OptimizedModule(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def __getattr__(self, name: str) -> Any:
        return self._modules[name] if name == "_orig_mod" else getattr(self._modules["_orig_mod"], name)


def _count_reads(reads: list[Any]) -> None:
    import numpy as np
    import safetensors
    import safetensors.torch

    def counted(function: Any) -> Any:
        def reading(*args: Any, **kwargs: Any) -> Any:
            reads.append(args)
            return function(*args, **kwargs)

        return reading

    torch.load = counted(torch.load)
    np.load = counted(np.load)
    safetensors.safe_open = counted(safetensors.safe_open)
    safetensors.torch.load_file = counted(safetensors.torch.load_file)


def _modules() -> list[nn.Module]:
    return [item for item in gc.get_objects() if issubclass(type(item), nn.Module) and "_modules" in item.__dict__]


def _roots(before: list[nn.Module]) -> dict[str, dict[str, Any]]:
    known = {id(module) for module in before}
    modules = [module for module in _modules() if id(module) not in known]
    inside = {id(child) for module in modules for child in module._modules.values()}
    roots = [module for module in modules if id(module) not in inside and next(module.parameters(), None) is not None]
    return {
        type(root).__name__: {
            key: None if value.is_meta else value.tolist() for key, value in root.state_dict().items()
        }
        for root in roots
    }


def _save(answer: Path, state: Any, raised: str | None) -> int:
    torch.save((state, raised), answer)
    return 0


def _free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
