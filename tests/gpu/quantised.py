"""`from_pretrained` of quantised directories as it was recorded on an H200 and on the same machine without it.

`python -m tests.gpu.quantised [ONLY]` asks ckptdiff the same, as on each machine, here. quantised.zip has the
directories, four kinds saved and four quantised on the fly, and both recordings, of transformers 5.17.0 (torch 2.11,
bitsandbytes 0.50.2, torchao 0.18.0, accelerate 1.15.0); large tensors are zeros there, which no answer hangs on.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ARCHIVE = Path(__file__).with_name("quantised.zip")
RECORDED = "5.17.0"
ANSWERS = {"cuda": "answers_gpu.json", "cpu": "answers_cpu.json"}
SIDES = ("scale", "absmax", "quant_map", "SCB", "quant_state", "_inv", "_shape", "qzeros", "g_idx")
LISTS = ("missing", "unexpected", "mismatched")


def situations(source: Path, folder: Path) -> None:
    """Write each directory as it is, and changed in up to seven ways, as when the answers were recorded."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder)
    for name in [path.name for path in folder.iterdir() if path.is_dir()]:
        file = folder / name / "model.safetensors"
        if not file.exists():
            shutil.copy(folder / "ao8-fly" / file.name, file)  # all four are made from the same weights
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {"format": "pt"}
        keys = sorted(tensors)
        sides = [key for key in keys if any(side in key for side in SIDES)]
        query = next((key for key in keys if "q_proj.weight" in key), keys[0])
        small = tensors[query].flatten()[: max(2, tensors[query].numel() // 4)].reshape(2, -1).contiguous()
        changes: dict[str, Callable[[dict[str, Any]], object]] = {
            "dropped": lambda state, query=query: state.pop(query),  # type: ignore[misc]
            "added": lambda state: state.update({"zzz.weight": torch.ones(2)}),
            "shape": lambda state, query=query, small=small: state.update({query: small}),  # type: ignore[misc]
            "norm": lambda state: state.update({"model.norm.weight": torch.ones(3)}),
            "nohead": lambda state: state.pop("lm_head.weight", None),
        }
        if sides:
            changes["noscale"] = lambda state, sides=sides: state.pop(sides[0])  # type: ignore[misc]
            changes["nosides"] = lambda state, sides=sides: [state.pop(side) for side in sides]  # type: ignore[misc]
        for change, make in changes.items():
            shutil.copytree(folder / name, folder / f"{name}+{change}")
            state = dict(tensors)
            make(state)
            save_file(state, folder / f"{name}+{change}" / file.name, metadata=metadata)


def configurations() -> Mapping[str, Callable[[], Any]]:
    """How each kind is quantised on the fly."""
    import torch
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import BitsAndBytesConfig, FineGrainedFP8Config, TorchAoConfig

    return {
        "bnb4": lambda: BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        "bnb8": lambda: BitsAndBytesConfig(load_in_8bit=True),
        "fp8": FineGrainedFP8Config,
        "ao8": lambda: TorchAoConfig(Int8WeightOnlyConfig()),
    }  # fmt: skip


def answer(folder: Path, device: str, ignore: bool) -> dict[str, Any]:
    """What ckptdiff says of a directory, in the words of the recordings."""
    import torch
    import transformers

    import ckptdiff
    from ckptdiff.errors import ModelError
    from ckptdiff.loaders.transformers.load_report import reported

    def load(path: str) -> Any:
        kind, _, how = folder.name.partition("+")[0].partition("-")
        options = {"quantization_config": configurations()[kind]()} if how == "fly" else {}
        return transformers.AutoModelForCausalLM.from_pretrained(
            path, device_map=device, dtype=torch.bfloat16, ignore_mismatched_sizes=ignore, **options
        )

    with reported() as said:
        try:
            raised = ckptdiff.compare(None, folder, loader=load, device=device).raises
        except ModelError as error:  # before there was a model
            raised = error.message.partition("look at: ")[2] or error.message
    mismatched = [entry[0] for entry in said.mismatched]
    lists = {"missing": said.missing, "unexpected": said.unexpected, "mismatched": mismatched}
    return {**{name: sorted(keys) for name, keys in lists.items()}, "raised": raised, "returned": raised is None}


def same(got: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Whether an answer is the one that was recorded, the first line of its error included."""
    wanted = {**recorded, "mismatched": sorted(entry[0] for entry in recorded["mismatched"])}
    texts = [" ".join((one["raised"] or "").split())[:120] for one in (got, wanted)]
    return texts[0] == texts[1] and all(got[name] == sorted(wanted[name]) for name in LISTS)


def cases(folder: Path, only: str) -> Iterator[tuple[str, str, bool, Mapping[str, Any]]]:
    """Directory, device, `ignore_mismatched_sizes` and the recorded answer."""
    for device, file in ANSWERS.items():
        for name, recorded in json.loads((folder / file).read_text()).items():
            directory, _, ignore = name.partition(" ignore=")
            if only in f"{directory} {device}":
                yield directory, device, ignore == "True", recorded


def main(only: str = "") -> int:
    """Every case in a process of its own, as people run them."""
    import transformers
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found: Counter[bool] = Counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        situations(ARCHIVE, folder)
        for directory, device, ignore, recorded in cases(folder, only):
            child = os.fork()
            if not child:
                agrees, got = False, {}
                try:
                    got = answer(folder / directory, device, ignore)
                    agrees = same(got, recorded)
                finally:
                    if not agrees:
                        print(f"OTHER {directory} {device} ignore={ignore}\n  {got}\n  {recorded}", flush=True)
                    os._exit(0 if agrees else 1)
            found[os.waitpid(child, 0)[1] == 0] += 1
    print(
        f"{found[True]} of {found.total()} as recorded with transformers {RECORDED}; this is {transformers.__version__}"
    )
    return int(bool(found[False]) and transformers.__version__ == RECORDED)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
