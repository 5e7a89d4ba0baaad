"""A small configuration of every model class of diffusers, found by shrinking what its constructor has as defaults."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch

SMALL = 200_000
"""Elements of a model that is small enough."""
_ROUNDS = 3
_BUILDS = 400


def classes() -> list[type]:
    """Every public model class that `from_pretrained` makes, by name."""
    import diffusers
    from diffusers import ModelMixin

    found: dict[str, type] = {}
    with quiet():
        for name in sorted(dir(diffusers)):
            item = getattr(diffusers, name, None)
            if isinstance(item, type) and issubclass(item, ModelMixin) and item is not ModelMixin:
                found[item.__name__] = item
    return list(found.values())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the library says meanwhile."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _size(cls: type, config: dict[str, Any]) -> int | None:
    try:
        with quiet(), torch.device("meta"):
            model = cls(**config)
        tensors = list(model.state_dict().values())
        return sum(tensor.numel() for tensor in tensors) if tensors else None
    except Exception:
        return None


def _smaller(value: Any) -> Iterator[Any]:
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int):
        for candidate in (1, 2, 4, 8, 16, 32, 64):
            if candidate < value:
                yield candidate
    elif (
        isinstance(value, (list, tuple))
        and value
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    ):
        for divisor in (80, 64, 40, 32, 16, 8, 4, 2):
            if all(item % divisor == 0 and item // divisor > 1 for item in value):
                yield type(value)(item // divisor for item in value)
        for single in (1, 2):
            if any(item > single for item in value):
                yield type(value)(min(item, single) for item in value)


def _scaled(config: dict[str, Any], divisor: int) -> dict[str, Any]:
    """Widths by a divisor; numbers of groups are made small."""
    made: dict[str, Any] = {}
    for name, value in config.items():
        if "groups" in name and isinstance(value, int):
            made[name] = min(value, 2)
        elif isinstance(value, bool) or not isinstance(value, (int, list, tuple)):
            continue
        elif isinstance(value, int):
            if value >= 64 and value % divisor == 0:
                made[name] = value // divisor
        elif value and all(isinstance(item, int) and not isinstance(item, bool) and item >= 64 for item in value):
            made[name] = type(value)(max(item // divisor, 2) for item in value)
    return made


_HINTS: dict[str, dict[str, Any]] = {
    "AudioLDM2ProjectionModel": {"text_encoder_dim": 8, "text_encoder_1_dim": 8, "langauge_model_dim": 8},
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (32, 32),
        "layers_per_block": 1, "spatial_compression_ratio": 2, "sample_size": 8,
    },
    "EasyAnimateTransformer3DModel": {"num_layers": 1, "text_embed_dim_t5": 8, "mmdit_layers": 1, "time_embed_dim": 8},
    "HunyuanDiT2DModel": {"sample_size": 8, "patch_size": 2, "pooled_projection_dim": 8, "num_layers": 2},
    "HunyuanDiT2DControlNetModel": {"sample_size": 8, "patch_size": 2, "transformer_num_layers": 4},
    "HiDreamImageTransformer2DModel": {
        "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1,
        "attention_head_dim": 8, "num_attention_heads": 2, "caption_channels": (8, 8), "text_emb_dim": 8,
        "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (4, 2, 2), "max_resolution": (8, 8),
    },
    "AudioLDM2UNet2DConditionModel": {
        "block_out_channels": (8, 16), "norm_num_groups": 8, "cross_attention_dim": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 8,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "UNet2DConditionModel": {
        "block_out_channels": (8, 16), "norm_num_groups": 8, "cross_attention_dim": 8, "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 2,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "I2VGenXLUNet": {
        "block_out_channels": (8, 16), "norm_num_groups": 2, "cross_attention_dim": 8, "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "num_attention_heads": 2,
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    },
    "ControlNetModel": {
        "block_out_channels": (8, 16), "norm_num_groups": 8, "cross_attention_dim": 8, "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 2,
        "conditioning_embedding_out_channels": (4, 8),
    },
    "ControlNetUnionModel": {
        "block_out_channels": (8, 16), "norm_num_groups": 8, "cross_attention_dim": 8, "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 8,
        "transformer_layers_per_block": 1, "conditioning_embedding_out_channels": (4, 8),
    },
}  # fmt: skip
"""Where to begin with classes whose defaults do not build, or do not shrink one by one."""


def tiny(cls: type) -> dict[str, Any] | None:
    """A configuration under which the class builds and is small, None where none was found."""
    parameters = inspect.signature(cls.__init__).parameters
    config: dict[str, Any] = {
        name: parameter.default
        for name, parameter in list(parameters.items())[1:]
        if parameter.default is not parameter.empty and isinstance(parameter.default, (int, list, tuple))
    }
    chosen: dict[str, Any] = dict(_HINTS.get(cls.__name__, {}))
    config |= chosen
    size = _size(cls, config)
    builds = 1
    if size is None:
        return None
    for divisor in (64, 32, 16, 8, 4, 2):  # all that are widths at once, since they depend on each other
        scaled = _scaled(config, divisor)
        made = _size(cls, {**config, **scaled})
        builds += 1
        if made is not None and made < size:
            config |= scaled
            chosen |= scaled
            size = made
            break
    for _ in range(_ROUNDS):
        before = size
        for name in list(config):
            if size <= SMALL or builds > _BUILDS:
                break
            for candidate in _smaller(config[name]):
                made = _size(cls, {**config, name: candidate})
                builds += 1
                if made is not None and made < size:
                    config[name] = chosen[name] = candidate
                    size = made
                    break
        if size <= SMALL or size == before or builds > _BUILDS:
            break
    return chosen
