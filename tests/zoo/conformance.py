"""Is our answer torch's, for every architecture there is? `python -m tests.zoo.conformance [--all | --sample N]`

Each model is built on the meta device and compared with its own state dict, changed in every way of `perturb`; torch's
own loader then loads the same. The lists, their order and the text have to be equal in every case.
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import os
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.loaders.torch.answer import error_message
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from tests.loaders.torch.oracle import torch_says
from tests.zoo.builders import everything
from tests.zoo.perturb import perturbed


@dataclass
class Tally:
    """What came out. `disagreements` and `unsure` hold a line for each case; `unbuilt` a reason for each model."""

    models: Counter[str] = field(default_factory=Counter)
    cases: int = 0
    disagreements: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    unbuilt: dict[str, str] = field(default_factory=dict)
    ours: float = 0.0
    theirs: float = 0.0

    def __str__(self) -> str:
        lines = [f"agree {self.cases - len(self.disagreements)} of {self.cases}"]
        lines.append(
            f"models {sum(self.models.values())}: " + ", ".join(f"{k} {v}" for k, v in sorted(self.models.items()))
        )
        lines.append(f"CPU seconds: ckptdiff {self.ours:.1f}, torch {self.theirs:.1f}")
        if self.unsure:
            lines.append(f"not certain: {len(self.unsure)}")
            lines.extend(f"  {line}" for line in self.unsure[:50])
        lines.append(f"could not be built: {len(self.unbuilt)}")
        reasons = Counter(self.unbuilt.values())
        for reason, count in reasons.most_common():
            names = [name for name, why in self.unbuilt.items() if why == reason]
            lines.append(f"  {count:4}  {reason}  ({', '.join(names[:3])}{', …' if count > 3 else ''})")
        lines.extend(self.disagreements)
        return "\n".join(lines)


def check(names: dict[str, Callable[[], nn.Module]], tell: Callable[[str], None] = lambda _: None) -> Tally:
    """Compare every model that builds with every kind of state dict."""
    tally = Tally()
    for name, build in names.items():
        try:
            model = build()
            state_dict = model.state_dict()
        except Exception as error:
            tally.unbuilt[name] = _reason(error)
            continue
        tally.models[name.partition(":")[0]] += 1
        _check_model(name, model, state_dict, tally)
        tell(f"{name}: {tally.cases} cases, {len(tally.disagreements)} disagreements")
        del model, state_dict
        gc.collect()
    return tally


def _check_model(name: str, model: nn.Module, state_dict: Any, tally: Tally) -> None:
    has_code = any(node.custom for _, node in extract(model).walk())
    for kind, changed in perturbed(state_dict, name):
        tally.cases += 1
        start = time.process_time()
        try:
            ours = compare(extract(model), checkpoint_of(changed))
        except Exception:
            tally.disagreements.append(f"{name} {kind}: {traceback.format_exc()}")
            continue
        middle = time.process_time()
        theirs = torch_says(copy.deepcopy(model) if has_code else model, changed)
        tally.ours += middle - start
        tally.theirs += time.process_time() - middle
        if ours.doubts:
            tally.unsure.append(f"{name} {kind}: {ours.doubts[0]}")
        same_lists = theirs.missing is None or (
            (list(ours.problem_keys("missing")), list(ours.problem_keys("unexpected")))
            == (theirs.missing, theirs.unexpected)
        )
        if error_message(ours) != theirs.error or not same_lists:
            tally.disagreements.append(
                f"{name} {kind}:\n  ours   {error_message(ours)!r}\n  torch  {theirs.error!r}"[:3000]
            )


def _reason(error: Exception) -> str:
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\d+|0x[0-9a-f]+", "…", str(error).strip().split("\n")[0])
    return f"{type(error).__name__}: {text[:100]}"


def sample(names: dict[str, Callable[[], nn.Module]], count: int) -> dict[str, Callable[[], nn.Module]]:
    """The same models every time, a share of each library's."""
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    libraries = sorted({name.partition(":")[0] for name in names})
    chosen: list[str] = []
    for library in libraries:
        chosen += [name for name in ordered if name.startswith(library + ":")][: -(-count // len(libraries))]
    return {name: names[name] for name in chosen}


def main() -> int:
    """Print the tally; 1 where anything disagrees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every architecture (about 20 minutes)")
    parser.add_argument("--sample", type=int, default=60, help="that many of them")
    parser.add_argument("--only", default="", help="those whose name contains this")
    parser.add_argument("--part", default="1/1", help="the first of eight parts is 1/8")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    names = {name: make for name, make in everything().items() if options.only in name}
    if not options.all and not options.only:
        names = sample(names, options.sample)
    part, parts = map(int, options.part.split("/"))
    names = dict(list(names.items())[part - 1 :: parts])
    tally = check(names, tell=lambda line: None if options.quiet else print(line, file=sys.stderr, flush=True))
    print(tally)
    return 1 if tally.disagreements or not tally.cases else 0


if __name__ == "__main__":
    sys.exit(main())
