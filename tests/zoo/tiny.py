"""Real models of transformers, of every type that builds offline, small enough to be saved and loaded for real."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from tests.zoo.builders import TooSlow, _time_limit

MOST = 12_000_000
"""Elements that a tiny model may have in all."""
_LAYERS = (
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers", "depth", "num_blocks", "decoder_num_hidden_layers", "encoder_num_hidden_layers",
    "num_block_records", "num_mtp_modules", "num_nextn_predict_layers",
)  # fmt: skip
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_WORDS = (
    "vocab_size", "entity_vocab_size", "max_position_embeddings", "n_positions", "max_source_positions",
    "max_target_positions",
)  # fmt: skip
_WIDTHS = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embed_dim": 32, "embedding_size": 32, "hidden_dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "d_ff": 48, "n_inner": 48, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "mlp_dim": 48, "word_embed_proj_dim": 32,
    "num_attention_heads": 4, "num_heads": 4, "n_head": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8, "projection_dim": 16,
}  # fmt: skip


_NEEDED: dict[str, dict[str, Any]] = {
    "AutoformerModel": {"prediction_length": 4},
    "BambaForCausalLM": {
        "hidden_size": 32, "mamba_n_heads": 4, "mamba_d_head": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "MinistralForCausalLM": {"head_dim": 8},
}  # fmt: skip
"""What has to be set for a class to be built at all."""


def kinds() -> Iterator[tuple[str, str, str]]:
    """A model type, the class that has its base model alone, and one that has a head, "" where there is none."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tables = [
        table
        for name, table in vars(modeling_auto).items()
        if name.startswith("MODEL_FOR_") and name.endswith("_NAMES")
    ]
    for kind in sorted(CONFIG_MAPPING):
        base: Any = modeling_auto.MODEL_MAPPING_NAMES.get(kind)
        base = base if isinstance(base, str) else (list(base or ()) or [""])[0]
        head = next((table[kind] for table in tables if isinstance(table.get(kind), str)), "")
        if base or head:
            yield kind, base, head


def tiny(class_name: str, most: int = MOST) -> Any:
    """A model of a class with values of its own, as small as its configuration allows, and saves.

    Raises whatever its code raises, MemoryError where it stays larger than `most` elements.
    """
    import transformers

    cls = getattr(transformers, class_name)
    last: Exception = MemoryError("too large")
    for level in (3, 2, 1):
        try:
            with _time_limit(60):
                config = cls.config_class(**_NEEDED.get(class_name, {}))
                _shrink(config, level, set())
                if hasattr(config, "validate"):
                    config.validate()
                with torch.device("meta"):
                    size = sum(tensor.numel() for tensor in cls(config).state_dict().values())
                if size > most:
                    raise MemoryError(f"{class_name} has more than {most:,} elements")
                torch.manual_seed(0)
                return cls(config)
        except TooSlow:
            raise
        except Exception as error:
            last = error
    raise last


def _shrink(config: Any, level: int, seen: set[int]) -> None:
    if id(config) in seen:
        return
    seen.add(id(config))
    sizes = dict.fromkeys(_LAYERS, 2) | dict.fromkeys(_EXPERTS, 4)
    if level >= 2:
        sizes |= dict.fromkeys(_WORDS, 128)
    if level >= 3:
        sizes |= _WIDTHS
    for name, most in sizes.items():
        with contextlib.suppress(Exception):  # some may not be asked for, others not be set
            value = getattr(config, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > most:
                setattr(config, name, most)
    if level >= 2:
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "image_token_id", "decoder_start_token_id"):
            value = getattr(config, name, None)
            if isinstance(value, int) and value >= 128:
                with contextlib.suppress(Exception):
                    setattr(config, name, 1)
    for name in ("layer_types", "mlp_layer_types", "layers_block_type"):
        if isinstance(getattr(config, name, None), list):
            with contextlib.suppress(Exception):
                setattr(config, name, getattr(config, name)[:2])
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict"):
            _shrink(value, level, seen)
