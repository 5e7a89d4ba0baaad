"""Whose names the keys of a LoRA file are: only PEFT's own are known to PEFT, the others have to be converted first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ckptdiff.spelling import options


@dataclass(frozen=True, slots=True)
class Naming:
    """One way to name the tensors of a LoRA. `by_diffusers`: its pipelines read it, and convert it."""

    name: str
    pattern: re.Pattern[str]
    by_diffusers: bool = True

    @property
    def conversion(self) -> str:
        """What converts it, as a sentence; "" where nothing has to."""
        if self.by_diffusers:
            return "diffusers converts them, by pipeline.load_lora_weights(FILE)."
        if self.name == "PEFT":
            return ""
        return f"ckptdiff rewrite with {options(add_prefix='base_model.model.')} gives them PEFT's prefix."


_OF_KOHYA = r"lora_(unet|te\d?|transformer|prior_unet|prior_te)_\w+\.(lora_|alpha|dora_|hada_|lokr_|oft_|diff)"
_OF_COMFY = r"(model\.)?diffusion_model\..*\.(lora_[AB]|lora_(up|down)|alpha|diff)"
_OF_DIFFUSERS = (
    r"(unet|transformer|text_encoder(_\d)?|controlnet)\..*(lora|alpha)|.*\.(lora|processor)\..*\.(up|down)\."
)

NAMINGS = (
    # The more particular ones first.
    Naming("PEFT", re.compile(r"base_model\."), by_diffusers=False),
    Naming("XLabs", re.compile(r"(double|single)_blocks\.\d+\.processor\.")),
    Naming("kohya", re.compile(_OF_KOHYA)),
    Naming("LyCORIS", re.compile(r"lycoris_|.*\.(hada_w|lokr_w)\d")),
    Naming("ComfyUI", re.compile(_OF_COMFY)),
    Naming("diffusers", re.compile(_OF_DIFFUSERS)),
    Naming("another trainer", re.compile(r"lora_|bundle_emb|.*\.(lora_(up|down)|alpha)(\.weight)?$")),
    Naming(
        "PEFT without its prefix",
        re.compile(r".*\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)\b"),
        by_diffusers=False,
    ),
)


def naming_of(keys: Iterable[str]) -> Naming | None:
    """Whose names most keys are, None where they are none of a LoRA's."""
    counts: Counter[str] = Counter()
    total = 0
    for key in keys:
        total += 1
        naming = next((naming for naming in NAMINGS if naming.pattern.match(key)), None)
        if naming is not None:
            counts[naming.name] += 1
    if not counts or counts.total() * 2 < total:
        return None
    most, _ = counts.most_common(1)[0]
    return next(naming for naming in NAMINGS if naming.name == most)
