"""Do the walk and the engine say the same? `python -m tests.zoo.witness [--all | --sample N]`

Both answer what `load_state_dict` does: the walk from headers, the engine by running it. Each is the other's witness,
for every architecture and every kind of state dict in a file: what is raised, to the letter, and which keys are filled.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ckptdiff.loaders.function import ask
from ckptdiff.loaders.outcome import Filled, Outcome
from ckptdiff.loaders.plain import load_state_dict
from ckptdiff.loaders.torch.answer import error_message
from ckptdiff.requests import CheckpointRequest, ModelRequest
from tests.zoo.builders import everything
from tests.zoo.conformance import Tally, sample
from tests.zoo.perturb import perturbed

MOST = 1 << 32
"""Bytes up to which a model is tried: its files are sparse, but its memory is asked for."""


def check(names: dict[str, Callable[[], nn.Module]], tell: Callable[[str], None] = lambda _: None) -> Tally:
    """Ask both about every model that builds, with every kind of file."""
    tally = Tally()
    for name, build in names.items():
        try:
            described = build()
            if sum(value.nbytes for value in described.state_dict().values()) > MOST:
                raise MemoryError("larger than what is tried")
            model = copy.deepcopy(described).to_empty(device="cpu")
        except Exception as error:
            tally.unbuilt[name] = f"{type(error).__name__}: {str(error)[:60]}"
            continue
        tally.models[name.partition(":")[0]] += 1
        with tempfile.TemporaryDirectory() as folder:
            for kind, path in _files(described.state_dict(), name, Path(folder)):
                tally.cases += 1
                walk = _walked(model, path)
                if walk.doubts:  # no answer of its own, so none to hold the engine to
                    tally.unsure.append(f"{name} {kind}: {walk.doubts[0]}"[:2000])
                elif fault := differing(model, path, walk):
                    tally.disagreements.append(f"{name} {kind}: {fault}"[:2000])
        tell(f"{name}: {tally.cases} cases, {len(tally.disagreements)} disagreements")
        del model, described
        gc.collect()
    return tally


def _files(state_dict: Any, name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """A file of each kind of state dict that holds tensors under texts, without their values."""
    for kind, changed in perturbed(state_dict, name):
        if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in changed.items()):
            continue
        real = OrderedDict((key, torch.empty_like(value, device="cpu")) for key, value in changed.items())
        if hasattr(changed, "_metadata"):
            real._metadata = changed._metadata  # type: ignore[attr-defined]
        path = folder / f"{kind}.pth"
        with torch.serialization.skip_data():
            torch.save(real, path)
        yield kind, path
        path.unlink()


def differing(model: nn.Module, path: Path, walk: Outcome) -> str:
    """What the engine says otherwise than the walk, "" where they agree."""
    engine = ask(load_state_dict, model, path)
    theirs = engine.raised.partition(": ")[2] if engine.raised else None
    ours = error_message(walk)
    if ours != theirs and ours != engine.raised:
        return f"the walk: {ours!r}; the engine: {engine.raised!r}"
    filled = [
        {key for key, item in outcome.filled.items() if item.by in ("file", "tie") and _has_elements(item)}
        for outcome in (walk, engine)
    ]
    if filled[0] != filled[1]:
        return f"filled by one of both: {sorted(filled[0] ^ filled[1])[:6]}"
    return ""


def _has_elements(item: Filled) -> bool:
    """Whether there is anything to fill, by which the engine goes; the walk goes by what torch calls missing."""
    return item.slot is None or item.slot.tensor.numel > 0


def _walked(model: nn.Module, path: Path) -> Outcome:
    from ckptdiff.loaders.torch.ask import ask as ask_torch

    return ask_torch(ModelRequest.of(model).describe(), CheckpointRequest(path).read())


def main() -> int:
    """Print the tally; 1 where anything disagrees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every architecture: hours")
    parser.add_argument("--sample", type=int, default=60, help="that many of them")
    parser.add_argument("--only", default="", help="those whose name contains this")
    parser.add_argument("--part", default="1/1", help="the first of eight parts is 1/8")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    names = {name: make for name, make in everything().items() if options.only in name}
    if not options.all and not options.only:
        names = sample(names, options.sample)
    part, parts = map(int, options.part.split("/"))
    names = dict(list(names.items())[part - 1 :: parts])
    gc.collect()
    gc.freeze()  # what is imported by now holds nothing of a model: looking through it would take half of the time
    tally = check(names, tell=lambda line: print(line, file=sys.stderr, flush=True))
    print(tally)
    return 1 if tally.disagreements or not tally.cases else 0


if __name__ == "__main__":
    sys.exit(main())
