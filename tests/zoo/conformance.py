"""The walk against torch's own loader on every published architecture that can be built here.

    python -m tests.zoo.conformance --all          # everything; prints "agree N of N"
    python -m tests.zoo.conformance --sample 60    # that many models, spread over all

Models are built on the meta device, so that neither side moves a byte; torch then loads meta tensors into them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import signal
import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ckptdiff.matching.live import checkpoint_of
from ckptdiff.matching.walk import compare
from ckptdiff.model.build import build
from ckptdiff.model.extract import extract

SECONDS = 120
"""How long one model may take to be built and put through all perturbations."""


def names() -> list[str]:
    """References to every torchvision and timm architecture, and the name of every transformers model type."""
    import timm
    import torchvision
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return [
        *(f"torchvision:{name}" for name in torchvision.models.list_models()),
        *(f"timm:{name}" for name in timm.list_models()),
        *(f"transformers:{name}" for name in sorted(MODEL_MAPPING_NAMES)),
    ]


def module_of(name: str) -> nn.Module:
    """The model on the meta device."""
    library, _, rest = name.partition(":")
    if library != "transformers":
        return build(name).module.to("meta")
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        model: nn.Module = AutoModel.from_config(AutoConfig.for_model(rest))
    return model.to("meta")


def perturbed(whole: OrderedDict[str, Any], rng: random.Random) -> Iterator[tuple[str, OrderedDict[str, Any]]]:
    """(what was done, state dict), the identity first. Tensors are on the meta device."""
    metadata = getattr(whole, "_metadata", None)

    def made(items: Any, *, kept: bool = True) -> OrderedDict[str, Any]:
        state_dict = OrderedDict(items)
        if kept:
            state_dict._metadata = metadata  # type: ignore[attr-defined]
        return state_dict

    keys = list(whole)
    some = set(rng.sample(keys, max(1, len(keys) // 10)))
    few = rng.sample(keys, min(5, len(keys)))
    yield "identity", made(whole.items())
    yield "dropped keys", made((key, value) for key, value in whole.items() if key not in some)
    shapes = [(3,), (1,), (), (2, 2), (0,)]
    yield "changed shapes", made({**whole, **{key: meta(shape) for key, shape in zip(few, shapes, strict=False)}}.items())
    below = {f"{key}.{extra}": meta((1,)) for key, extra in zip(few, ("x", "x.y", "", "weight", "0"), strict=False)}
    owners = {f"{key.rpartition('.')[0]}._extra_state": meta((1,)) for key in few}
    empty = dict.fromkeys(("", ".", "a..b", "_extra_state", keys[0].partition(".")[0]), meta((1,)))
    extra = [*{**below, **owners, **empty}.items(), *whole.items()]
    rng.shuffle(extra)
    yield "awkward extra keys", made(extra)
    yield "prefix", made((f"module.{key}", value) for key, value in whole.items())
    shuffled = list(whole.items())
    rng.shuffle(shuffled)
    yield "shuffled", made(item for item in shuffled if item[0] not in some)
    without = (item for item in whole.items() if not item[0].endswith("num_batches_tracked"))
    yield "no metadata", made(without, kept=False)
    values: list[Any] = [1, None, "text", [1.0], torch.float32]
    yield "non-tensors", made({**whole, **dict(zip(few, values, strict=False))}.items())


def meta(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def torch_says(module: nn.Module, state_dict: OrderedDict[str, Any], strict: bool) -> tuple[Any, Any, str | None]:
    try:
        result = module.load_state_dict(state_dict, strict=strict)
    except Exception as error:
        text = str(error)
        return None, None, text if text.startswith("Error(s) in") else f"{type(error).__name__}: {text}"
    return result.missing_keys, result.unexpected_keys, None


def disagreements(module: nn.Module, seed: str) -> tuple[int, list[str]]:
    """(cases tried, what differs in those that do not agree)."""
    tree = extract(module)
    whole = module.state_dict()
    tried, wrong = 0, []
    if not whole:
        return 0, []
    for what, state_dict in perturbed(whole, random.Random(seed)):
        tried += 1
        ours = compare(tree, checkpoint_of(state_dict))
        for strict in (True, False):
            missing, unexpected, error = torch_says(module, state_dict, strict)
            lists = missing is None or (list(ours.missing_keys), list(ours.unexpected_keys)) == (missing, unexpected)
            if ours.error_message(strict) != error or not lists:
                wrong.append(f"{what}, strict={strict}")
                break
    return tried, wrong


@dataclass
class Outcome:
    """What a run over the zoo came to."""

    models: int = 0
    cases: int = 0
    agree: int = 0
    wrong: list[str] = field(default_factory=list)
    unbuilt: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = Counter(reason.partition(":")[0] for reason in self.unbuilt.values())
        lines = [f"agree {self.agree} of {self.cases} ({self.models} models)", *self.wrong]
        lines.append(f"not built: {len(self.unbuilt)}")
        lines += [f"  {count} x {reason}" for reason, count in reasons.most_common()]
        return "\n".join(lines)


def run(chosen: list[str], say: Any = None) -> Outcome:
    """Try every model; one that cannot be built is counted with the reason, not as an agreement."""
    outcome = Outcome()
    for name in chosen:
        try:
            with limited(SECONDS), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = module_of(name)
                tried, wrong = disagreements(module, name)
        except Exception as error:
            outcome.unbuilt[name] = f"{type(error).__name__}: {error}"
            continue
        outcome.models += 1
        outcome.cases += tried
        outcome.agree += tried - len(wrong)
        outcome.wrong += [f"{name}: {what}" for what in wrong]
        if say is not None:
            say(f"{name}: {tried - len(wrong)} of {tried}")
    return outcome


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def expire(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def sample(everything: list[str], count: int) -> list[str]:
    """`count` of them at equal distances, so that every library has its share."""
    step = max(1, len(everything) // count)
    return everything[::step][:count]


def main() -> int:
    """Run from the command line; exit code 1 where anything disagrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--all", action="store_true", help="every architecture")
    group.add_argument("--sample", type=int, metavar="N", help="N of them")
    parser.add_argument("--library", choices=("torchvision", "timm", "transformers"), help="only this one's")
    parser.add_argument("--verbose", action="store_true", help="a line a model")
    options = parser.parse_args()
    everything = [name for name in names() if not options.library or name.startswith(options.library + ":")]
    chosen = everything if options.all else sample(everything, options.sample)
    outcome = run(chosen, (lambda line: print(line, flush=True)) if options.verbose else None)
    print(outcome)
    if options.verbose:
        for name, reason in outcome.unbuilt.items():
            print(f"  {name}: {reason.splitlines()[0][:200]}")
    return int(bool(outcome.wrong) or not outcome.cases)


if __name__ == "__main__":
    sys.exit(main())
