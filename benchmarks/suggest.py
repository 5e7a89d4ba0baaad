"""Rename rules against what others do: how many renamed keys each finds, and how many it gets wrong.

    python -m benchmarks.suggest                          # the table over tests/suggesting/data
    python -m benchmarks.suggest --weightbridge PYTHON    # with weightbridge, run by a Python that has it

Recall and precision are over the keys whose name changes; a key that needs a tensor operation counts as wrong when it
is renamed. `solved` counts architectures with every such key right and none wrong.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from ckptdiff.suggesting.finder import suggest_rules

DATA = Path(__file__).parents[1] / "tests" / "suggesting" / "data"
Shapes = Mapping[str, tuple[int, ...]]
Method = Callable[[Shapes, Shapes], Mapping[str, str] | None]
SEED = 20261123
"""Splits the corpus into the half the finder was developed on and the half it was measured on."""


def ours(checkpoint: Shapes, model: Shapes) -> Mapping[str, str]:
    """The certain rules of `ckptdiff suggest`."""
    return suggest_rules(checkpoint, model).mapping


def plain(checkpoint: Shapes, model: Shapes) -> Mapping[str, str]:
    """What load_state_dict(strict=False) does: equal names."""
    return {key: key for key, shape in checkpoint.items() if model.get(key) == shape}


def prefix(checkpoint: Shapes, model: Shapes) -> Mapping[str, str]:
    """The one prefix to strip or to add that makes the most keys fit."""

    def leading(keys: Shapes) -> set[str]:
        return {
            "".join(f"{part}." for part in key.split(".")[:depth])
            for key in keys
            for depth in range(1, min(4, key.count(".") + 1))
        }

    best = plain(checkpoint, model)
    for text in sorted(leading(checkpoint)):
        stripped = {key: key.removeprefix(text) for key in checkpoint if key.startswith(text)}
        found = {old: new for old, new in stripped.items() if model.get(new) == checkpoint[old]}
        best = max(best, found, key=len)
    for text in sorted(leading(model)):
        found = {key: text + key for key, shape in checkpoint.items() if model.get(text + key) == shape}
        best = max(best, found, key=len)
    return best


def suffix(checkpoint: Shapes, model: Shapes) -> Mapping[str, str]:
    """The idea of detectron2's align_and_update_state_dicts: the longest name that ends the other."""

    def endings(key: str) -> list[str]:
        parts = key.split(".")
        return [".".join(parts[start:]) for start in range(len(parts))]

    found: dict[str, str] = {}
    for new in model:
        for old in endings(new):
            if checkpoint.get(old) == model[new]:
                found.setdefault(old, new)
                break
    taken = set(found.values())
    for old in checkpoint:
        for new in endings(old):
            if old not in found and new not in taken and model.get(new) == checkpoint[old]:
                found[old] = new
                taken.add(new)
                break
    return found


BRIDGE = """
import json, sys, tempfile, os
import numpy as np
from weightbridge import adapt
case = json.load(sys.stdin)
tensors = [{key: np.broadcast_to(np.zeros((), np.int8), shape) for key, shape in side.items()} for side in case]
path = os.path.join(tempfile.mkdtemp(), "cache.json")
try:
    adapt(*tensors, in_separator=".", out_separator=".", cache=path,
          ignore_unmatched_inputs=True, ignore_unmatched_outputs=True)
except Exception as error:
    print(type(error).__name__, str(error)[:200], file=sys.stderr)
pairs = json.load(open(path))["mapping"] if os.path.exists(path) else None
print("\\nRESULT" + json.dumps(pairs))
"""


def bridge(python: str, seconds: float = 60) -> Method:
    """weightbridge with zero-size stand-ins for the tensors. It pairs everything or raises; None where it raised."""

    def method(checkpoint: Shapes, model: Shapes) -> Mapping[str, str] | None:
        case = json.dumps([checkpoint, model])
        command = [python, "-c", BRIDGE]
        try:
            done = subprocess.run(command, input=case, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return None
        answer = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        pairs = json.loads(answer[-1].removeprefix("RESULT")) if answer else None
        if pairs is None:
            return None
        new = {new.split(".", 1)[1] if new not in model else new: old for new, old in pairs}
        return {old.split(".", 1)[1] if old not in checkpoint else old: name for name, old in new.items()}

    return method


def load(name: str) -> dict[str, dict[str, dict[str, list[int]]]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        data = json.load(file)
    return dict(data.get("models", data))


def measure(method: Method, cases: Mapping[str, Mapping[str, Mapping[str, list[int]]]], show: bool) -> str:
    """One line of totals; with `show`, a line for each architecture above it."""
    total: Counter[str] = Counter()
    slowest = 0.0
    for name, case in cases.items():
        checkpoint, model = ({key: tuple(shape) for key, shape in case[side].items()} for side in ("ckpt", "model"))
        truth = {old: str(new) for old, new in case["truth"].items() if old != str(new)}
        start = time.perf_counter()
        answer = method(checkpoint, model)
        seconds = time.perf_counter() - start
        found = {old: new for old, new in (answer or {}).items() if old != new}
        right = sum(truth.get(old) == new for old, new in found.items())
        slowest = max(slowest, seconds)
        total["right"] += right
        total["wrong"] += len(found) - right
        total["renamed"] += len(truth)
        total["solved"] += right == len(truth) == len(found)
        total["raised"] += answer is None
        if show:
            recall = right / len(truth) if truth else 1.0
            print(
                f"| {name} | {len(checkpoint)} | {len(truth)} | {recall:.1%} | {len(found) - right} | {seconds:.2f} s |"
            )
    moved = total["right"] + total["wrong"]
    return (
        f"{total['right'] / total['renamed']:.1%} | {total['right'] / moved if moved else 0:.2%} | {total['wrong']} "
        f"| {total['solved']}/{len(cases)} | {slowest:.2f} s | {total['raised'] or ''} |"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weightbridge", metavar="PYTHON", help="a Python interpreter that can import weightbridge")
    options = parser.parse_args()
    corpus, pairs = load("rename_corpus.json.gz"), load("library_pairs.json.gz")
    names = sorted(corpus)
    random.Random(SEED).shuffle(names)
    sets = {
        "corpus, developed on": {name: corpus[name] for name in sorted(names[: len(names) // 2])},
        "corpus, held out": {name: corpus[name] for name in sorted(names[len(names) // 2 :])},
        "other libraries": pairs,
    }
    methods: dict[str, Method] = {
        "ckptdiff suggest": ours,
        "equal names": plain,
        "best prefix": prefix,
        "longest suffix": suffix,
    }
    if options.weightbridge:
        methods["weightbridge"] = bridge(options.weightbridge)
    for title, cases in sets.items():
        print(f"\n### {title}: each architecture\n\n| architecture | keys | renamed | recall | wrong | time |")
        print("|---|---|---|---|---|---|")
        measure(ours, cases, show=True)
    print("\n### totals\n\n| set | method | recall | precision | wrong | solved | slowest | raised |")
    print("|---|---|---|---|---|---|---|---|")
    for title, cases in sets.items():
        for name, method in methods.items():
            print(f"| {title} | {name} | {measure(method, cases, show=False)}", flush=True)
    if not options.weightbridge:
        print("\nweightbridge was not run: give --weightbridge PYTHON.", file=sys.stderr)


if __name__ == "__main__":
    main()
