"""Is our answer `from_pretrained`'s, for every model type of transformers? `python -m tests.zoo.pretrained [--all]`

Each tiny model is saved by its own `save_pretrained`, its directory changed in every way of `SITUATIONS`; the real call
loads what lies there, and the loader of that name is asked. Lists, shapes and what is raised have to be equal in every
case.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ckptdiff.loaders.asked import Asked
from ckptdiff.loaders.transformers.from_pretrained import ask
from ckptdiff.model.reference import parse_reference
from tests.zoo.conformance import Tally, _reason
from tests.zoo.tiny import MOST, kinds, tiny

State = dict[str, torch.Tensor]
Answer = tuple[Any, ...]


# What is changed in a directory: its state dict, its files, or the way it is called.


def _key(state: State, dims: int = 1) -> str:
    """A key somewhere in the middle, with so many dimensions at least."""
    keys = [key for key, value in state.items() if value.dim() >= dims] or list(state)
    return keys[len(keys) // 2]


def _dropped(state: State, model: Any) -> State:
    key = _key(state)
    return {name: value for name, value in state.items() if name != key}


def _several_dropped(state: State, model: Any) -> State:
    return {name: value for number, (name, value) in enumerate(state.items()) if number % 5 != 2}


def _added(state: State, model: Any) -> State:
    key = _key(state)
    return {**state, "more.weight": torch.zeros(3), f"{key}.below": torch.zeros(2), f"{key}_scale": torch.zeros(1)}


def _reshaped(state: State, model: Any) -> State:
    key = _key(state)
    shape = list(state[key].shape) or [2]
    return {**state, key: torch.zeros(shape[0] + 1, *shape[1:])}


def _transposed(state: State, model: Any) -> State:
    key = _key(state, 2)
    return {**state, key: state[key].transpose(0, -1).contiguous() if state[key].dim() > 1 else state[key]}


def _prefixed(state: State, model: Any) -> State:
    prefix = model.base_model_prefix or "model"
    return {f"{prefix}.{name}": value for name, value in state.items()}


def _wrapped(state: State, model: Any) -> State:
    return {f"module.{name}": value for name, value in state.items()}


def _stripped(state: State, model: Any) -> State:
    prefix = f"{model.base_model_prefix}."
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _legacy(state: State, model: Any) -> State:
    renamed = {}
    for name, value in state.items():
        owner, _, last = name.rpartition(".")
        if "norm" in owner.lower().rpartition(".")[2] and last in ("weight", "bias"):
            name = f"{owner}.{'gamma' if last == 'weight' else 'beta'}"
        renamed[name] = value
    return renamed


def _old_buffers(state: State, model: Any) -> State:
    owner = _key(state).rpartition(".")[0]
    buffers = ("position_ids", "rotary_emb.inv_freq", "masked_bias", "attn.bias", "embed_positions.weight")
    return {
        **state,
        **{f"{owner}.{name}": torch.zeros(4) for name in buffers},
        "embeddings.position_ids": torch.zeros(1, 4),
    }


def _in_memory(state: State, model: Any) -> State:
    return {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}


def _half(state: State, model: Any) -> State:
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def _same(state: State, model: Any) -> State:
    return state


Change = Callable[[State, Any], State]
SITUATIONS: dict[str, tuple[Change, str, dict[str, Any]]] = {
    "saved": (_same, "safetensors", {}),
    "dropped": (_dropped, "safetensors", {}),
    "several dropped": (_several_dropped, "safetensors", {}),
    "added": (_added, "safetensors", {}),
    "reshaped": (_reshaped, "safetensors", {}),
    "reshaped, ignored": (_reshaped, "safetensors", {"ignore_mismatched_sizes": True}),
    "transposed": (_transposed, "safetensors", {}),
    "prefixed": (_prefixed, "safetensors", {}),
    "wrapped": (_wrapped, "safetensors", {}),
    "stripped": (_stripped, "safetensors", {}),
    "gamma and beta": (_legacy, "safetensors", {}),
    "old buffers": (_old_buffers, "safetensors", {}),
    "in-memory names": (_in_memory, "safetensors", {}),
    "bin": (_same, "bin", {}),
    "bin, dropped": (_dropped, "bin", {}),
    "sharded": (_same, "sharded", {}),
    "half": (_half, "safetensors", {}),
    "as half": (_same, "safetensors", {"dtype": "float16"}),
}


def written(state: State, source: Path, folder: Path, layout: str) -> None:
    """A directory like `source` with another state dict."""
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix == ".json" and "index" not in file.name:
            shutil.copy(file, folder)
    if layout == "bin":
        torch.save(state, folder / "pytorch_model.bin")
        return
    state = {name: value.contiguous() for name, value in state.items()}
    if layout == "safetensors":
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(state)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for name, keys in halves.items():
        save_file({key: state[key] for key in keys}, folder / name, metadata={"format": "pt"})
    places = {key: name for name, keys in halves.items() for key in keys}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def real(class_name: str, folder: Path, options: dict[str, Any]) -> Answer:
    """What the call itself does: its lists as it reports them, and what it raises."""
    import transformers
    from transformers import modeling_utils

    kept: list[Any] = []
    report = modeling_utils.log_state_dict_report

    def seen(*args: Any, **kwargs: Any) -> Any:
        kept.append(kwargs["loading_info"])
        return report(*args, **kwargs)

    raised = None
    modeling_utils.log_state_dict_report = seen
    try:
        getattr(transformers, class_name).from_pretrained(folder, **options)
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
    finally:
        modeling_utils.log_state_dict_report = report
    if not kept:
        return [], [], [], [], raised
    info = kept[-1]
    shapes = sorted((key, tuple(given), tuple(wanted)) for key, given, wanted in info.mismatched_keys)
    return sorted(info.missing_keys), sorted(info.unexpected_keys), shapes, sorted(info.conversion_errors), raised


def asked(class_name: str, folder: Path, options: dict[str, Any]) -> tuple[Answer, Any]:
    """The same of ours, and the outcome."""
    chosen = {**options, "auto_class": class_name}
    outcome = ask(Asked(parse_reference(f"hf:{folder}"), str(folder), options=chosen)).outcome
    lists = [list(outcome.problem_keys(kind)) for kind in ("missing", "unexpected")]
    failed = sorted(outcome.problem_keys("conversion"))
    return (*lists, outcome.mismatches(), failed, outcome.raised), outcome


def check(chosen: list[tuple[str, str, str]], tell: Callable[[str], None] = lambda _: None) -> Tally:
    """Every situation of every model type that builds."""
    tally = Tally()
    for kind, base, head in chosen:
        with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
            del stack
            _check_kind(kind, base, head, Path(place), tally)
        tell(f"{kind}: {tally.cases} cases, {len(tally.disagreements)} disagreements, {len(tally.unsure)} unsure")
        gc.collect()
    return tally


def _check_kind(kind: str, base: str, head: str, place: Path, tally: Tally) -> None:
    saved: dict[str, Path] = {}
    models: dict[str, Any] = {}
    for name in dict.fromkeys(filter(None, (head, base))):
        try:
            models[name] = tiny(name)
            models[name].save_pretrained(place / name)
            saved[name] = place / name
        except Exception as error:
            tally.unbuilt[f"{kind}:{name}"] = _reason(error)
    if not saved:
        return
    tally.models[kind] += 1
    name, source = next(iter(saved.items()))
    state: State = {}
    for file in sorted(source.glob("*.safetensors")):
        state.update(load_file(file))
    for number, (situation, (change, layout, options)) in enumerate(SITUATIONS.items()):
        folder = place / f"case{number}"
        written(change(dict(state), models[name]), source, folder, layout)
        _check_case(f"{kind}:{name} {situation}", name, folder, options, tally)
        shutil.rmtree(folder)
    for one, other in [(one, other) for one in saved for other in saved if one != other]:
        if _fits(one, saved[other]):
            _check_case(f"{kind}: {one} from {other}", one, saved[other], {}, tally)


def _fits(class_name: str, folder: Path) -> bool:
    """Whether a class makes no giant of another's configuration: what that has no part on is of its full size."""
    import transformers

    cls = getattr(transformers, class_name)
    try:
        config = cls.config_class.from_pretrained(folder)
        with torch.device("meta"):
            return bool(sum(tensor.numel() for tensor in cls(config).state_dict().values()) <= 4 * MOST)
    except Exception:
        return True  # it raises for real too


def _check_case(title: str, class_name: str, folder: Path, options: dict[str, Any], tally: Tally) -> None:
    tally.cases += 1
    start = time.process_time()
    try:
        ours, outcome = asked(class_name, folder, options)
    except Exception:
        tally.disagreements.append(f"{title}: {traceback.format_exc()[-1500:]}")
        return
    middle = time.process_time()
    theirs = real(class_name, folder, options)
    tally.ours += middle - start
    tally.theirs += time.process_time() - middle
    if outcome.doubts:
        tally.unsure.append(f"{title}: {outcome.doubts[0]}")
    if ours != theirs:
        parts = ("missing", "unexpected", "mismatched", "failed", "raised")
        for part, mine, its in zip(parts, ours, theirs, strict=True):
            if mine != its:
                tally.disagreements.append(f"{title}: {part}\n  ours  {str(mine)[:700]}\n  real  {str(its)[:700]}")
    elif ours[4] is None and title.endswith(" saved"):
        left = [key for key, item in outcome.filled.items() if item.by not in ("file", "tie") or item.rows is not None]
        if left and not ours[0]:
            tally.unsure.append(
                f"{title}: not filled though not missing: {[(k, outcome.filled[k].by) for k in left[:4]]}"
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers' own words and bars aside, and no network."""
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> int:
    """Print the tally; 1 where anything disagrees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every model type (hours)")
    parser.add_argument("--only", default="", help="those whose type contains this")
    parser.add_argument("--part", default="1/1", help="the first of eight parts is 1/8")
    options = parser.parse_args()
    chosen = [row for row in kinds() if options.only in row[0]]
    if not options.all and not options.only:
        chosen = [row for row in chosen if row[0] in SAMPLE]
    part, parts = map(int, options.part.split("/"))
    with quiet():
        tally = check(chosen[part - 1 :: parts], tell=lambda line: print(line, file=sys.stderr, flush=True))
    tally.models = Counter({"transformers": sum(tally.models.values())})
    print(tally)
    return 1 if tally.disagreements or not tally.cases else 0


SAMPLE = ("bert", "mixtral", "t5")
"""What the smaller run tries: legacy names and ties, converted experts, several ties."""

if __name__ == "__main__":
    sys.exit(main())
