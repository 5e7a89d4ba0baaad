"""vLLM's own loader, on a CPU, of a Llama that lacks `k_proj` and `up_proj`: it says nothing; parts stay as they were.

`python -m tests.following.releases.vllm_llama`: what is followed has to be what two real calls leave.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(VLLM_TARGET_DEVICE="cpu", VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1", VLLM_PLUGINS="")

import torch

import ckptdiff

LACKS = ("k_proj", "up_proj")


def write(folder: Path, seed: int) -> Path:
    """A small Llama as `save_pretrained` writes it, with values between `seed` and `seed + 1`."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=256, max_position_embeddings=128, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    folder.mkdir()
    config.save_pretrained(folder)
    torch.manual_seed(seed)
    state = LlamaForCausalLM(config).state_dict()
    kept = {
        key: torch.rand(value.shape) * 0.9 + seed for key, value in state.items() if not any(n in key for n in LACKS)
    }
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def load(path: Any) -> torch.nn.Module:
    """As vLLM's worker does."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized as parallel
    from vllm.distributed import init_distributed_environment, model_parallel_is_initialized
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model_loader

    config = EngineArgs(
        model=str(path), skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=64
    ).create_engine_config()
    with set_current_vllm_config(config):
        if not model_parallel_is_initialized():
            init_distributed_environment(1, 0, f"file://{tempfile.mktemp()}", 0, "gloo")
            parallel(1, 1)
        loader = get_model_loader(config.load_config)
        return loader.load_model(vllm_config=config, model_config=config.model_config)


def main() -> int:
    """Print what is filled of every key; 1 where that is not so."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # what nobody initialises is NaN, not what was there
    with tempfile.TemporaryDirectory() as temporary:
        folders = [write(Path(temporary) / str(seed), seed) for seed in (1, 2)]
        report = ckptdiff.compare(None, folders[0], loader=load)
        again = ckptdiff.compare(None, folders[0], loader=load)  # with what was imported meanwhile
        real = [{key: value.clone() for key, value in load(folder).state_dict().items()} for folder in folders]
    wrong = report.raises is not None or report.complete
    for key, filled in report.outcome.filled.items():
        truth = ((real[0][key] >= 1) & (real[0][key] < 2) & (real[1][key] >= 2)).float()
        mine = torch.zeros_like(truth)
        if filled.by == "file":
            for low, high in filled.rows or ((0, len(mine) if mine.dim() else 1),):
                mine[low:high] = 1
        same = torch.equal(mine, truth) and again.outcome.filled[key] == filled
        wrong |= not same
        print(f"{key}: {mine.mean():.2f}, really {truth.mean():.2f}{'' if same else ' WRONG'}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
