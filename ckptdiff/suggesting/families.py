"""Whose checkpoint it looks like, from its keys alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ckptdiff.renaming.prefixes import has_prefix, strip_prefix
from ckptdiff.suggesting.key_patterns import LONGEST

_LIMIT = 20_000
"""Keys looked at; no layout hides its character longer."""

# Every expression of a row must occur in some key. More telling layouts come first.
_LAYOUTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("an optimizer's state", (r"(^|\.)(exp_avg|momentum_buffer)$",)),
    ("LoRA or another PEFT adapter", (r"\.lora_[AB]\b|\.lora_(down|up)\.",)),
    ("a Stable Diffusion checkpoint (CompVis layout)", (r"^model\.diffusion_model\.", r"^first_stage_model\.")),
    ("a diffusers UNet", (r"(^|\.)down_blocks\.\d+\.resnets\.", r"(^|\.)up_blocks\.")),
    ("a diffusers autoencoder", (r"^encoder\.down_blocks\.", r"^decoder\.up_blocks\.")),
    ("OpenAI's or open_clip's CLIP", (r"(^|\.)visual\.transformer\.resblocks\.", r"(^|\.)transformer\.resblocks\.")),
    ("OpenAI's or open_clip's CLIP with a ResNet", (r"(^|\.)visual\.attnpool\.",)),
    (
        "transformers' CLIP or SigLIP",
        (r"(^|\.)vision_model\.encoder\.layers\.", r"(^|\.)text_model\.encoder\.layers\."),
    ),
    ("OpenAI's Whisper", (r"(^|\.)decoder\.blocks\.\d+\.cross_attn\.query\.",)),
    ("Whisper, BART or a relative (transformers or fairseq)", (r"decoder\.layers\.\d+\.encoder_attn\.q_proj\.",)),
    ("Segment Anything in Meta's layout", (r"(^|\.)image_encoder\.blocks\.", r"(^|\.)mask_decoder\.")),
    ("transformers' T5", (r"\.layer\.0\.SelfAttention\.q\.",)),
    ("Llama or Mistral in Meta's layout", (r"(^|\.)layers\.\d+\.attention\.wq\.", r"\.feed_forward\.w1\.")),
    ("transformers' Llama, Mistral or Qwen", (r"layers\.\d+\.self_attn\.q_proj\.", r"layers\.\d+\.mlp\.gate_proj\.")),
    ("GPT-2 (or nanoGPT)", (r"(^|\.)h\.\d+\.attn\.c_attn\.", r"(^|\.)h\.\d+\.mlp\.c_fc\.", r"(^|\.)h\.\d+\.ln_1\.")),
    ("GPT-NeoX", (r"layers\.\d+\.attention\.query_key_value\.",)),
    (
        "Megatron-LM",
        (r"language_model\..*attention\.query_key_value\.|decoder\.layers\.\d+\.self_attention\.linear_qkv\.",),
    ),
    ("transformers' BERT", (r"encoder\.layer\.\d+\.attention\.self\.query\.",)),
    ("transformers' DistilBERT", (r"transformer\.layer\.\d+\.attention\.q_lin\.",)),
    ("transformers' ViT, DeiT or DINOv2", (r"encoder\.layer\.\d+\.attention\.attention\.query\.",)),
    ("DINOv2 or DINOv3 in Meta's layout", (r"(^|\.)blocks\.(\d+\.)?\d+\.ls1\.gamma$", r"(^|\.)mask_token$")),
    ("torchvision's Vision Transformer", (r"encoder\.layers\.encoder_layer_\d+\.self_attention\.",)),
    ("torchvision's Swin Transformer", (r"^features\.\d+\.\d+\.attn\.relative_position_bias_table$",)),
    ("a Swin Transformer (timm or Microsoft)", (r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table$",)),
    ("a timm Vision Transformer", (r"(^|\.)blocks\.\d+\.attn\.qkv\.", r"(^|\.)patch_embed\.proj\.")),
    ("torchvision's ConvNeXt", (r"^features\.\d+\.\d+\.layer_scale$",)),
    ("a ConvNeXt (timm or Meta)", (r"stages\.\d+\.(blocks\.)?\d+\.(conv_dw|dwconv)\.",)),
    ("torchvision's EfficientNet or MobileNet", (r"^features\.\d+\.\d+\.block\.\d+\.\d+\.",)),
    ("a timm EfficientNet or MobileNet", (r"(^|\.)blocks\.\d+\.\d+\.conv_(pw|dw)\.",)),
    ("detectron2", (r"(^|\.)backbone\.bottom_up\.|(^|\.)proposal_generator\.",)),
    ("mmdetection or mmsegmentation", (r"^(bbox_head|rpn_head|roi_head|decode_head\.conv_seg)\.",)),
    ("torchvision's Faster or Mask R-CNN", (r"^roi_heads\.box_predictor\.",)),
    ("an Ultralytics YOLO", (r"^model\.(model\.)?\d+\.cv1\.conv\.weight$", r"^model\.(model\.)?\d+\.(m\.\d+|cv2)\.")),
    ("transformers' ResNet", (r"encoder\.stages\.\d+\.layers\.\d+\.(layer|shortcut)\.",)),
    ("a MoCo pretraining checkpoint", (r"(^|\.)encoder_q\.", r"(^|\.)(encoder_k\.|queue$)")),
    ("a torchvision or timm ResNet", (r"(^|\.)conv1\.weight$", r"(^|\.)layer1\.0\.conv1\.weight$", r"(^|\.)layer4\.")),
    (
        "torchvision's VGG or AlexNet",
        (r"^features\.(8|10)\.weight$", r"^classifier\.6\.weight$"),
    ),
)
# A key of another kind says that it is something else with parts of the same names (SwinUNETR has a ViT's and more).
_NOTHING_ELSE = {
    "a timm Vision Transformer": r"(cls_token|dist_token|reg_token|mask_token|pos_embed|patch_embed\.proj\..*"
    r"|(fc_norm|norm|norm_pre|head|head_dist|head_drop|pre_logits\.fc)\.(weight|bias)"
    r"|blocks\.\d+\.(norm\d|attn\.(qkv|proj|q_norm|k_norm|norm)|mlp\.(fc\d|norm|fc1_[gx])|ls\d)\.\w+"
    r"|blocks\.\d+\.(gamma_\d|attn\.(q_bias|v_bias)))",
    "torchvision's VGG or AlexNet": r"(features|classifier)\.\d+\.\w+",
}
_WRAPPERS = (("module", "saved from DataParallel"), ("_orig_mod", "saved from torch.compile"))


def looks_like(keys: Iterable[str]) -> str:
    """What the keys look like, as a phrase (`a timm Vision Transformer`), or "" where nothing is recognised."""
    seen = [key for key, _ in zip(keys, range(_LIMIT), strict=False) if len(key) <= LONGEST]
    notes = []
    for prefix, note in _WRAPPERS:
        if seen and all(has_prefix(key, prefix) for key in seen):
            seen = [strip_prefix(key, prefix) for key in seen]
            notes.append(note)
    for name, expressions in _LAYOUTS:
        if all(any(expression.search(key) for key in seen) for expression in map(re.compile, expressions)) and (
            name not in _NOTHING_ELSE or _only(seen, _NOTHING_ELSE[name])
        ):
            return ", ".join([name, *notes])
    return ", ".join(["a model", *notes]) if notes else ""


def _only(keys: list[str], expression: str) -> bool:
    """Whether every key is of this kind, below what all of them begin with."""
    first = min(keys, key=len)
    prefixes = [first[:end] for end in (0, *(place + 1 for place, letter in enumerate(first) if letter == "."))]
    kind = re.compile(expression)
    return any(all(key.startswith(prefix) and kind.fullmatch(key, len(prefix)) for key in keys) for prefix in prefixes)
