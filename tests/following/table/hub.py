"""huggingface_hub, transformers, diffusers, peft and sentence-transformers, as functions that call them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.following.table.rows import Row, flat, in_folder, pth, safetensors


def mixin() -> type[nn.Module]:
    from huggingface_hub import PyTorchModelHubMixin

    class Hub(nn.Module, PyTorchModelHubMixin):
        def __init__(self, width: int = 8) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))

    return Hub


def hub_net() -> nn.Module:
    return mixin()()


def hub_folder(state: Mapping[str, Any], folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps({"width": 8}))
    return in_folder("model.safetensors", safetensors)(state, folder)


def hub_pickled(state: Mapping[str, Any], folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps({"width": 8}))
    return in_folder("pytorch_model.bin", pth)(state, folder)


def hub_from_pretrained(p):
    return mixin().from_pretrained(str(p))


def hub_strict(p):
    return mixin().from_pretrained(str(p), strict=True)


def load_torch_model(m, p):
    from huggingface_hub import load_torch_model

    return load_torch_model(m, p, strict=False)


def load_torch_model_strictly(m, p):
    from huggingface_hub import load_torch_model

    return load_torch_model(m, p, strict=True, safe=False)


def load_state_dict_from_file(m, p):
    from huggingface_hub import load_state_dict_from_file

    return m.load_state_dict(load_state_dict_from_file(p))


def bert_config() -> Any:
    import transformers

    return transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12,
    )  # fmt: skip


def bert() -> nn.Module:
    import transformers

    return transformers.BertForMaskedLM(bert_config())


def llama_config() -> Any:
    import transformers

    return transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=24,
    )  # fmt: skip


def llama() -> nn.Module:
    import transformers

    return transformers.LlamaForCausalLM(llama_config())


def pretrained_folder(config: Any, architecture: str) -> Any:
    def save(state: Mapping[str, Any], folder: Path) -> Path:
        made = config()
        made.architectures = [architecture]
        made.save_pretrained(folder)
        return in_folder("model.safetensors", safetensors)(state, folder)

    return save


def with_lists(model: Any, info: Any) -> Any:
    return model, {name: sorted(map(str, value)) for name, value in info.items()}


def transformers_auto(p):
    import transformers

    return with_lists(*transformers.AutoModelForCausalLM.from_pretrained(p, output_loading_info=True))


def transformers_other_head(p):
    import transformers

    return with_lists(
        *transformers.BertForSequenceClassification.from_pretrained(
            p, output_loading_info=True, ignore_mismatched_sizes=True, num_labels=3
        )
    )


def transformers_half(p):
    import transformers

    return with_lists(*transformers.BertForMaskedLM.from_pretrained(p, dtype=torch.float16, output_loading_info=True))


def transformers_state_dict(p):
    import transformers

    state = torch.load(p, weights_only=True)
    return transformers.BertForMaskedLM.from_pretrained(None, config=bert_config(), state_dict=state)


def transformers_mapped(p):
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(p, device_map="cpu", low_cpu_mem_usage=True)


def transformers_trainer(m, p):
    import transformers

    arguments = transformers.TrainingArguments(output_dir=str(p / "out"), use_cpu=True, report_to=[])
    trainer = transformers.Trainer(m, arguments)
    return trainer._load_from_checkpoint(str(p))


def encoder() -> nn.Module:
    import transformers

    return transformers.BertModel(bert_config())


def sentence_folder(state: Mapping[str, Any], folder: Path) -> Path:
    pretrained_folder(bert_config, "BertModel")(state, folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 8, "do_lower_case": False}))
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 122))])
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def sentence_transformer(p):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(p), device="cpu")


def diffusion() -> nn.Module:
    import diffusers

    return diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def diffusion_folder(state: Mapping[str, Any], folder: Path) -> Path:
    diffusion().save_config(folder)
    return in_folder("diffusion_pytorch_model.safetensors", safetensors)(state, folder)


def diffusers_load(p):
    import diffusers

    return diffusers.UNet2DModel.from_pretrained(p)


def diffusers_eager(p):
    import diffusers

    return diffusers.UNet2DModel.from_pretrained(
        p, low_cpu_mem_usage=False, ignore_mismatched_sizes=True, output_loading_info=True
    )


def pipeline_folder(state: Mapping[str, Any], folder: Path) -> Path:
    import diffusers

    diffusers.DDPMPipeline(diffusion(), diffusers.DDPMScheduler()).save_pretrained(folder)
    return in_folder("unet/diffusion_pytorch_model.safetensors", safetensors)(state, folder)


def diffusers_pipeline(p):
    import diffusers

    return diffusers.DDPMPipeline.from_pretrained(p).unet


def vae() -> nn.Module:
    import diffusers

    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def old_attention(state: Mapping[str, Any], folder: Path) -> Path:
    """The names that attention layers had before."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in flat(state):
        for new, old in names.items():
            key = key.replace(f".{new}.", f".{old}.")
        renamed[key] = value
    vae().save_config(folder)
    return in_folder("diffusion_pytorch_model.safetensors", safetensors)(renamed, folder)


def diffusers_old_names(p):
    import diffusers

    return diffusers.AutoencoderKL.from_pretrained(p)


def adapted() -> nn.Module:
    import peft

    torch.manual_seed(3)
    return peft.get_peft_model(
        llama(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )


def adapter_state(seed: int) -> dict[str, torch.Tensor]:
    import peft

    from tests.following.table.rows import values_like

    return {key: values_like(value, seed, key) for key, value in peft.get_peft_model_state_dict(adapted()).items()}


def adapter_folder(state: Mapping[str, Any], folder: Path) -> Path:
    adapted().save_pretrained(folder)
    return in_folder("adapter_model.safetensors", safetensors)(state, folder)


def peft_from_pretrained(m, p):
    import peft

    return peft.PeftModel.from_pretrained(m, p)


def peft_merged(m, p):
    import peft

    return peft.PeftModel.from_pretrained(m, p).merge_and_unload()


def peft_set(m, p):
    import peft

    model = peft.get_peft_model(m, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    print(peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(p), device="cpu")))
    return model


def transformers_adapter(m, p):
    m.load_adapter(str(p))
    return m


HUB, DIFFUSERS, PEFT = ("huggingface_hub",), ("diffusers",), ("peft", "transformers")
FOLDER = pretrained_folder(bert_config, "BertForMaskedLM")
LLAMA = pretrained_folder(llama_config, "LlamaForCausalLM")

ROWS = [
    Row("PyTorchModelHubMixin.from_pretrained", hub_from_pretrained, hub_folder, hub_net, makes_model=True, needs=HUB),
    Row("PyTorchModelHubMixin, strict", hub_strict, hub_folder, hub_net, makes_model=True, needs=HUB),
    Row("PyTorchModelHubMixin, pickled", hub_from_pretrained, hub_pickled, hub_net, makes_model=True, needs=HUB),
    Row("huggingface_hub load_torch_model", load_torch_model, safetensors, needs=HUB),
    Row("huggingface_hub load_torch_model, strict", load_torch_model_strictly, pth, needs=HUB),
    Row("huggingface_hub load_state_dict_from_file", load_state_dict_from_file, safetensors, needs=HUB),
    Row("transformers AutoModel", transformers_auto, LLAMA, llama, makes_model=True, needs=("transformers",)),
    Row("transformers, another head", transformers_other_head, FOLDER, bert, makes_model=True, needs=("transformers",)),
    Row("transformers, in half precision", transformers_half, FOLDER, bert, makes_model=True, needs=("transformers",)),
    Row(
        "transformers, with state_dict=", transformers_state_dict, pth, bert, makes_model=True, needs=("transformers",)
    ),
    Row(
        "transformers, with a device map",
        transformers_mapped,
        LLAMA,
        llama,
        makes_model=True,
        needs=("transformers", "accelerate"),
    ),
    Row("transformers Trainer", transformers_trainer, LLAMA, llama, needs=("transformers", "accelerate")),
    Row(
        "SentenceTransformer",
        sentence_transformer,
        sentence_folder,
        encoder,
        makes_model=True,
        needs=("sentence_transformers",),
    ),
    Row("diffusers from_pretrained", diffusers_load, diffusion_folder, diffusion, makes_model=True, needs=DIFFUSERS),
    Row(
        "diffusers from_pretrained, eager",
        diffusers_eager,
        diffusion_folder,
        diffusion,
        makes_model=True,
        needs=DIFFUSERS,
    ),
    Row("diffusers pipeline", diffusers_pipeline, pipeline_folder, diffusion, makes_model=True, needs=DIFFUSERS),
    Row("diffusers, old attention names", diffusers_old_names, old_attention, vae, makes_model=True, needs=DIFFUSERS),
    Row("PeftModel.from_pretrained", peft_from_pretrained, adapter_folder, llama, state=adapter_state, needs=PEFT),
    Row("peft, merged", peft_merged, adapter_folder, llama, state=adapter_state, needs=PEFT),
    Row("set_peft_model_state_dict", peft_set, adapter_folder, llama, state=adapter_state, needs=PEFT),
    Row("transformers load_adapter", transformers_adapter, adapter_folder, llama, state=adapter_state, needs=PEFT),
]
