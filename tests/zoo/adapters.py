"""PEFT: every tuner that the library has, on a few bases, in several situations; each tried for real beside the answer.

A tuner that takes no part on a base (its own constructor says so) is left out there.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.loaders.real_calls import Real, disagreements, filled, other_values, quiet, really


class Perceptron(nn.Module):
    """Two layers, and nothing of a library's."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)


class Convolutions(nn.Module):
    """Convolutions, an embedding and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3)
        self.second = nn.Conv2d(width, width, 1)
        self.embed = nn.Embedding(12, width)
        self.head = nn.Linear(width, 4)


def llama(width: int = 16, vocabulary: int = 48) -> nn.Module:
    """A causal language model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=vocabulary
        )
    )


def bert(width: int = 16) -> nn.Module:
    """A classifier."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=48)
    )


BASES: dict[str, tuple[Callable[..., nn.Module], list[str], str | None, list[str]]] = {
    "llama": (llama, ["q_proj", "v_proj"], "CAUSAL_LM", ["lm_head"]),
    "bert": (bert, ["query", "value"], "SEQ_CLS", ["classifier"]),
    "perceptron": (Perceptron, ["first", "second"], None, ["head"]),
    "convolutions": (Convolutions, ["first", "second"], None, ["head"]),
}

_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "LORA": [{}, {"use_dora": True}, {"use_rslora": True}, {"bias": "all"}, {"lora_bias": True}],
    "PREFIX_TUNING": [{"num_virtual_tokens": 3}],
    "PROMPT_TUNING": [{"num_virtual_tokens": 3}],
    "P_TUNING": [{"num_virtual_tokens": 3, "encoder_hidden_size": 8}],
    "MULTITASK_PROMPT_TUNING": [{"num_virtual_tokens": 3, "num_tasks": 2}],
    "ADAPTION_PROMPT": [{"adapter_len": 3, "adapter_layers": 1}],
    "ADALORA": [{"total_step": 10}],
    "IA3": [{"feedforward_modules": []}],
    "VERA": [{"r": 4, "save_projection": True}, {"r": 4, "save_projection": False}],
    "FOURIERFT": [{"n_frequency": 8}],
    "VBLORA": [{"num_vectors": 8, "vector_length": 4, "topk": 2}],
    "BOFT": [{"boft_block_size": 4}],
    "OFT": [{"oft_block_size": 4, "r": 0}],
    "LN_TUNING": [{"target_modules": ["norm", "input_layernorm", "LayerNorm"]}],
    "TRAINABLE_TOKENS": [{"token_indices": [1, 2], "target_modules": ["embed_tokens", "word_embeddings", "embed"]}],
    "C3A": [{"block_size": 4}],
    "POLY": [{"r": 2, "n_tasks": 2, "n_skills": 2, "n_splits": 2}],
    "CPT": [{"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]}],
    "WAVEFT": [{"n_frequency": 8}],
    "ROAD": [{"group_size": 4}],
    "SHIRA": [{"r": 2}],
}  # fmt: skip


def configurations(base: str) -> Iterator[tuple[str, Any]]:
    """Every tuner's configurations for a base, by name."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    _, targets, task, to_save = BASES[base]
    for kind in PeftType:
        cls = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
        for number, settings in enumerate(_SETTINGS.get(kind.value, [{}])):
            wanted = dict(settings)
            names = set(cls.__dataclass_fields__)
            if "target_modules" in names and kind.value != "ADAPTION_PROMPT":
                wanted.setdefault("target_modules", targets)
            for saving in (
                ([], to_save) if number == 0 and "modules_to_save" in names and "target_modules" in wanted else ([],)
            ):
                chosen = {**wanted, **({"modules_to_save": saving} if saving else {})}
                try:
                    with quiet():
                        made = cls(**({"task_type": task} if task else {}), **chosen)
                except Exception:
                    continue
                shown = ",".join(key for key in chosen if key not in ("target_modules",))
                yield f"{kind.value}({shown})", made


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[sorted(tensors)[len(tensors) // 2]]


def _add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.more.lora_A.weight"] = torch.ones(2, 3)


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    key = sorted(tensors)[0]
    tensors[key] = torch.ones(3, *tensors[key].shape)


def _unprefix(tensors: dict[str, torch.Tensor]) -> None:
    _rename(tensors, lambda key: key.removeprefix("base_model.model."))


def _kohya(tensors: dict[str, torch.Tensor]) -> None:
    _rename(
        tensors,
        lambda key: (
            "lora_unet_"
            + key.removeprefix("base_model.model.")
            .replace(".lora_A.", "|lora_down.")
            .replace(".lora_B.", "|lora_up.")
            .replace(".", "_")
            .replace("|", ".")
            .replace("_weight", ".weight")
        ),
    )


def _rename(tensors: dict[str, torch.Tensor], name: Callable[[str], str]) -> None:
    renamed = {name(key): value for key, value in tensors.items()}
    tensors.clear()
    tensors.update(renamed)


def _halve(tensors: dict[str, torch.Tensor]) -> None:
    for key, value in tensors.items():
        if value.is_floating_point():
            tensors[key] = value.to(torch.bfloat16)


def _nothing(_: dict[str, torch.Tensor]) -> None:
    pass


SITUATIONS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], dict[str, Any], dict[str, Any]]] = {
    # what is done to the file, arguments of the base, options of the call
    "as saved": (_nothing, {}, {}),
    "bin": (_nothing, {}, {}),
    "key dropped": (_drop, {}, {}),
    "key added": (_add, {}, {}),
    "shape changed": (_reshape, {}, {}),
    "shape changed, ignored": (_reshape, {}, {"ignore_mismatched_sizes": True}),
    "without prefix": (_unprefix, {}, {}),
    "kohya": (_kohya, {}, {}),
    "bfloat16": (_halve, {}, {}),
    "wider base": (_nothing, {"width": 32}, {}),
    "adapter name": (_nothing, {}, {"adapter_name": "other"}),
    "on meta": (_nothing, {}, {"low_cpu_mem_usage": True}),
    "trainable": (_nothing, {}, {"is_trainable": True}),
}


def saved(folder: Path, base: str, config: Any) -> bool:
    """Save an adapter, with values that no initialisation has; False where it does not build."""
    from peft import get_peft_model

    shutil.rmtree(folder, ignore_errors=True)
    try:
        with quiet():
            torch.manual_seed(3)
            model = get_peft_model(BASES[base][0](), config)
            model.save_pretrained(folder)
    except Exception:
        return False
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return False
    tensors = load_file(file)
    if not tensors:
        return False
    generator = torch.Generator().manual_seed(9)
    for key, value in tensors.items():
        if value.is_floating_point():
            tensors[key] = torch.rand(value.shape, generator=generator).to(value.dtype) / 8 + 0.25
    save_file(tensors, file, metadata={"format": "pt"})
    return True


def placed(source: Path, situation: str) -> tuple[Path, Path]:
    """A situation of an adapter, and its twin with other values."""
    from safetensors.torch import load_file, save_file

    change = SITUATIONS[situation][0]
    folders = []
    for number in (0, 1):
        folder = source.with_name(f"{source.name}-{number}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        if number:
            # What are indices stays as it is, since another may not be one.
            floats = {key: value for key, value in tensors.items() if value.is_floating_point()}
            tensors |= other_values(floats)
        if situation == "bin":
            file.unlink()
            torch.save(tensors, folder / "adapter_model.bin")
        else:
            save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata={"format": "pt"})
        folders.append(folder)
    return folders[0], folders[1]


def real_call(base: Callable[[], nn.Module], options: dict[str, Any]) -> Callable[[Path], Real]:
    """`PeftModel.from_pretrained`, its warning read for the missing keys."""

    def call(path: Path) -> Real:
        from peft import PeftModel

        torch.manual_seed(4)
        model = base()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, path, **options)
        missing: set[str] = set()
        for warning in said:
            found = re.search(r"missing adapter keys while loading the checkpoint: (\[.*\])\.$", str(warning.message))
            missing |= set(ast.literal_eval(found[1])) if found else set()
        return Real(None, missing, model=adapted)

    return call


def tried(
    folder: Path,
    bases: tuple[str, ...] = (),
    situations: tuple[str, ...] = tuple(SITUATIONS),
    kinds: tuple[str, ...] = (),
) -> Iterator[tuple[str, list[str]]]:
    """Every case by name, and in what the answer is not what happened."""
    from ckptdiff.loaders.asked import Asked
    from ckptdiff.loaders.peft import ask

    for base in bases or tuple(BASES):
        for name, config in configurations(base):
            if (kinds and config.peft_type.value not in kinds) or not saved(folder / "adapter", base, config):
                continue
            for situation in situations:
                _, arguments, options = SITUATIONS[situation]
                path, twin = placed(folder / "adapter", situation)

                def make(arguments: dict[str, Any] = arguments, base: str = base) -> nn.Module:
                    return BASES[base][0](**arguments)

                real = really(real_call(make, options), path, twin)
                torch.manual_seed(4)
                case = f"{base} {name} {situation}"
                try:
                    outcome = ask(Asked(make(), str(path), options=options)).outcome
                except Exception as error:
                    yield case, [f"no answer: {type(error).__name__}: {error}"]
                    continue
                if real.filled is not None and real.model is not None:
                    whole = {key for key, value in real.model.state_dict().items() if not value.is_floating_point()}
                    real.filled |= whole & filled(outcome)  # what the twin has no other values of
                found = disagreements(outcome, real)
                healthy = situation in ("as saved", "bin", "bfloat16", "adapter name", "trainable")
                left = sorted(key for key, item in outcome.filled.items() if item.by in ("initial", "code", "meta"))
                if healthy and real.raised is None and left and not real.missing:
                    found.append(f"a healthy adapter is said to leave {left[:3]}")
                yield case, found


def config_of(path: Path) -> dict[str, Any]:
    """An adapter's configuration."""
    return json.loads((path / "adapter_config.json").read_text())


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write an adapter's configuration anew."""
    (path / "adapter_config.json").write_text(json.dumps(config))
