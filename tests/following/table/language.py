"""whisper, speechbrain, litgpt and torchtune."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.following.table.rows import Row, pth

DIMS = {
    "n_mels": 4, "n_audio_ctx": 6, "n_audio_state": 8, "n_audio_head": 2, "n_audio_layer": 1, "n_vocab": 20,
    "n_text_ctx": 5, "n_text_state": 8, "n_text_head": 2, "n_text_layer": 1,
}  # fmt: skip


def whisper_net() -> nn.Module:
    import whisper

    return whisper.model.Whisper(whisper.model.ModelDimensions(**DIMS))


def whisper_file(state: Mapping[str, Any], folder: Path) -> Path:
    return pth({"dims": DIMS, "model_state_dict": dict(state)}, folder)


def whisper_load(p):
    import whisper

    return whisper.load_model(str(p), device="cpu")


def whisper_in_memory(p):
    import whisper

    return whisper.load_model(str(p), device="cpu", in_memory=True)


def torch_recovery(m, p):
    from speechbrain.utils.checkpoints import torch_recovery

    return torch_recovery(m, p, True)


def parameter_transfer(m, p):
    from speechbrain.utils.checkpoints import torch_parameter_transfer

    return torch_parameter_transfer(m, p)


def checkpointer(m, p):
    from speechbrain.utils.checkpoints import Checkpointer

    return bool(Checkpointer(p, {"model": m}).recover_if_possible())


def speechbrain_folder(state: Mapping[str, Any], folder: Path) -> Path:
    made = pth(state, folder)
    (folder / "all" / "CKPT+one").mkdir(parents=True)
    made.rename(folder / "all" / "CKPT+one" / "model.ckpt")
    (folder / "all" / "CKPT+one" / "CKPT.yaml").write_text("end-of-epoch: true\nunixtime: 1.0\n")
    return folder / "all"


def pretrainer(m, p):
    from speechbrain.utils.parameter_transfer import Pretrainer

    fetcher = Pretrainer(loadables={"model": m}, paths={"model": str(p)}, collect_in=str(p.parent / "got"))
    fetcher.collect_files()
    fetcher.load_collected()


def gpt_config() -> Any:
    from litgpt import Config

    return Config(
        block_size=8, vocab_size=16, padded_vocab_size=16, n_layer=2, n_head=2, n_embd=8, n_query_groups=1,
        rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP", intermediate_size=12,
    )  # fmt: skip


def gpt() -> nn.Module:
    from litgpt import GPT

    return GPT(gpt_config())


def litgpt_load(m, p):
    from lightning.fabric import Fabric
    from litgpt.utils import load_checkpoint

    return load_checkpoint(Fabric(accelerator="cpu"), m, p)


def litgpt_loosely(m, p):
    from lightning.fabric import Fabric
    from litgpt.utils import load_checkpoint

    return load_checkpoint(Fabric(accelerator="cpu"), m, p, strict=False)


def litgpt_from_hf(m, p):
    """Converted from the names of transformers, as `litgpt convert_to_litgpt` does."""
    from lightning.fabric.utilities.load import _lazy_load
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama

    state: dict[str, Any] = {}
    copy_weights_hf_llama(gpt_config(), {}, state, dict(_lazy_load(p)))
    return m.load_state_dict(state, strict=True)


def litgpt_to_hf(m, p):
    """And back, into transformers' model."""
    from litgpt.scripts.convert_lit_checkpoint import copy_weights_llama
    from litgpt.utils import lazy_load

    state: dict[str, Any] = {}
    copy_weights_llama(gpt_config(), state, lazy_load(p), untie_weights=False)
    return m.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()}, strict=False)


def small_llama() -> nn.Module:
    import transformers

    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=12,
    ))  # fmt: skip


def hf_state(seed: int) -> dict[str, torch.Tensor]:
    from tests.following.table.rows import valued

    return valued(small_llama(), seed)


def lit_state(seed: int) -> dict[str, torch.Tensor]:
    from tests.following.table.rows import valued

    return valued(gpt(), seed)


def torchtune_checkpointer(m, p):
    from torchtune.training import FullModelTorchTuneCheckpointer

    loader = FullModelTorchTuneCheckpointer(
        str(p.parent), checkpoint_files=[p.name], model_type="LLAMA2", output_dir=str(p.parent / "out")
    )
    return m.load_state_dict(loader.load_checkpoint()["model"])


SPEECH = ("speechbrain.utils.checkpoints",)
LITGPT = ("litgpt", "lightning")

ROWS = [
    Row("whisper.load_model", whisper_load, whisper_file, whisper_net, makes_model=True, needs=("whisper",)),
    Row(
        "whisper.load_model, in memory",
        whisper_in_memory,
        whisper_file,
        whisper_net,
        makes_model=True,
        needs=("whisper",),
    ),
    Row("speechbrain torch_recovery", torch_recovery, pth, needs=SPEECH),
    Row("speechbrain torch_parameter_transfer", parameter_transfer, pth, needs=SPEECH),
    Row("speechbrain Checkpointer", checkpointer, speechbrain_folder, needs=SPEECH),
    Row("speechbrain Pretrainer", pretrainer, pth, needs=("speechbrain.utils.parameter_transfer",)),
    Row("litgpt load_checkpoint", litgpt_load, pth, gpt, needs=LITGPT),
    Row("litgpt load_checkpoint, not strict", litgpt_loosely, pth, gpt, needs=LITGPT),
    Row(
        "litgpt, converted from transformers", litgpt_from_hf, pth, gpt, state=hf_state, needs=(*LITGPT, "transformers")
    ),
    Row(
        "litgpt, converted to transformers",
        litgpt_to_hf,
        pth,
        small_llama,
        state=lit_state,
        needs=(*LITGPT, "transformers"),
    ),
    # Its last release imports what the torchao of the quantised rows no longer has: for an environment of its own.
    Row("torchtune FullModelTorchTuneCheckpointer", torchtune_checkpointer, pth, needs=("torchtune.training",)),
]
