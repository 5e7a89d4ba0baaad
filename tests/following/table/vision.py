"""timm, open_clip, segment-anything, segmentation-models, torchvision, MONAI, kornia and their like."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.following.table.rows import Row, in_folder, pth, safetensors, under

TINY = {
    "img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5,
}  # fmt: skip


def vit() -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", pretrained=False, **TINY)


def mobilenet() -> nn.Module:
    import timm

    return timm.create_model("test_efficientnet", pretrained=False, num_classes=5)


def timm_checkpoint_path(p):
    import timm

    return timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(p), **TINY)


def timm_load_checkpoint(m, p):
    from timm.models import load_checkpoint

    return load_checkpoint(m, str(p), strict=False)


def timm_load_checkpoint_without_ema(m, p):
    from timm.models import load_checkpoint

    return load_checkpoint(m, str(p), use_ema=False)


def timm_load_state_dict(m, p):
    from timm.models import load_state_dict

    return m.load_state_dict(load_state_dict(str(p)), strict=True)


def timm_pretrained(p):
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay={"file": str(p), "num_classes": 5}, **TINY
    )


def timm_resampled(p):
    """Another image size, input channels and classes than those of the file."""
    import timm

    changed = {**TINY, "img_size": 64, "num_classes": 3, "in_chans": 1}
    overlay = {"file": str(p), "num_classes": 5, "input_size": (3, 32, 32)}
    return timm.create_model("vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, **changed)


def timm_resume(m, p):
    from timm.models import resume_checkpoint

    return resume_checkpoint(m, str(p), log_info=False)


def timm_ema(m, p):
    from timm.models import load_checkpoint
    from timm.utils import ModelEmaV3

    ema = ModelEmaV3(m, decay=0.9)
    load_checkpoint(ema.module, str(p), use_ema=True)
    ema.update(m)
    return ema.module


CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def clip() -> nn.Module:
    import open_clip

    return open_clip.CLIP(**CLIP)


def open_clip_load_checkpoint(m, p):
    from open_clip.factory import load_checkpoint

    return load_checkpoint(m, str(p))


def open_clip_loosely(m, p):
    from open_clip.factory import load_checkpoint

    return load_checkpoint(m, str(p), strict=False)


def open_clip_local(p):
    import open_clip

    return open_clip.create_model(f"local-dir:{p}")


def clip_folder(state: Mapping[str, Any], folder: Path) -> Path:
    safetensors(state, folder, "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    return folder


def build_sam(checkpoint: Any = None) -> nn.Module:
    from segment_anything.build_sam import _build_sam

    return _build_sam(32, 1, 2, (0,), checkpoint=checkpoint)


def sam(p):
    return build_sam(p)


def unet() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Unet(
        "timm-mobilenetv3_small_minimal_100", encoder_weights=None, classes=2, decoder_channels=(16, 8, 8, 4, 4)
    )


def smp_folder(state: Mapping[str, Any], folder: Path) -> Path:
    unet().save_pretrained(folder)
    return in_folder("model.safetensors", safetensors)(state, folder)


def smp_from_pretrained(p):
    import segmentation_models_pytorch as smp

    return smp.from_pretrained(str(p))


def smp_loosely(p):
    import segmentation_models_pytorch as smp

    return smp.from_pretrained(str(p), strict=False)


def resnet() -> nn.Module:
    from torchvision.models import get_model

    return get_model("squeezenet1_1", weights=None, num_classes=3)


def torchvision_backbone(m, p):
    """As its references train on from a checkpoint: the backbone alone."""
    state = torch.load(p, map_location="cpu")
    state = {k.replace("features.", "backbone."): v for k, v in state.items() if not k.startswith("classifier")}
    backbone = nn.ModuleDict({"backbone": m.features})
    return backbone.load_state_dict(state, strict=False)


def monai_net() -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, features=(4, 4, 8, 8, 8, 4))


def monai_copy(m, p):
    from monai.networks.utils import copy_model_state

    _, changed, unchanged = copy_model_state(m, torch.load(p, weights_only=True))
    return changed, unchanged


def monai_handler(m, p):
    from ignite.engine import Engine, Events
    from monai.handlers import CheckpointLoader

    engine = Engine(lambda engine, batch: None)
    CheckpointLoader(load_path=str(p), load_dict={"net": m}, strict=False).attach(engine)
    engine.fire_event(Events.STARTED)


def monai_handler_shapes(m, p):
    from ignite.engine import Engine, Events
    from monai.handlers import CheckpointLoader

    engine = Engine(lambda engine, batch: None)
    CheckpointLoader(load_path=str(p), load_dict={"net": m}, strict=False, strict_shape=False).attach(engine)
    engine.fire_event(Events.STARTED)


def monai_bundle(p):
    from monai.bundle import load

    return load("tiny", model=monai_net(), bundle_dir=str(p), source="monaihosting", load_ts_module=False)


def bundle(state: Mapping[str, Any], folder: Path) -> Path:
    made = pth(state, folder)
    (folder / "tiny" / "models").mkdir(parents=True)
    made.rename(folder / "tiny" / "models" / "model.pt")
    return folder


def kornia_net() -> nn.Module:
    import kornia

    return kornia.feature.HardNet(pretrained=False)


def kornia_load(m, p):
    from kornia.core.external import torch as _  # noqa: F401 - it has its own way to torch

    return m.load_state_dict(torch.load(p, map_location=torch.device("cpu"))["state_dict"], strict=True)


def efficientnet() -> nn.Module:
    from efficientnet_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-b0", num_classes=7, depth_coefficient=0.2, width_coefficient=0.2)


def efficientnet_weights(m, p):
    from efficientnet_pytorch.utils import load_pretrained_weights

    return load_pretrained_weights(m, "efficientnet-b0", weights_path=str(p), load_fc=False, verbose=False)


def lpips_load(m, p):
    """As its constructor loads its linear layers."""
    return m.load_state_dict(torch.load(p, map_location="cpu"), strict=False)


def lpips_net() -> nn.Module:
    import lpips

    return lpips.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, verbose=False)


ROWS = [
    Row("timm create_model(checkpoint_path=)", timm_checkpoint_path, pth, vit, makes_model=True, needs=("timm",)),
    Row(
        "timm checkpoint_path= of safetensors",
        timm_checkpoint_path,
        safetensors,
        vit,
        makes_model=True,
        needs=("timm",),
    ),
    Row(
        "timm load_checkpoint, EMA", timm_load_checkpoint, under("state_dict_ema", epoch=1), mobilenet, needs=("timm",)
    ),
    Row("timm load_checkpoint, no EMA", timm_load_checkpoint_without_ema, pth, mobilenet, needs=("timm",)),
    Row("timm load_state_dict", timm_load_state_dict, pth, vit, needs=("timm",)),
    Row("timm pretrained, of a file", timm_pretrained, pth, vit, makes_model=True, needs=("timm",)),
    Row("timm pretrained, resampled", timm_resampled, safetensors, vit, makes_model=True, needs=("timm",)),
    Row("timm resume_checkpoint", timm_resume, under("state_dict", epoch=4, version=2), mobilenet, needs=("timm",)),
    Row("timm ModelEmaV3", timm_ema, pth, vit, needs=("timm",)),
    Row("open_clip load_checkpoint", open_clip_load_checkpoint, pth, clip, needs=("open_clip",)),
    Row("open_clip load_checkpoint, not strict", open_clip_loosely, safetensors, clip, needs=("open_clip",)),
    Row(
        "open_clip create_model of a folder", open_clip_local, clip_folder, clip, makes_model=True, needs=("open_clip",)
    ),
    Row("segment_anything", sam, pth, build_sam, makes_model=True, needs=("segment_anything",)),
    Row(
        "segmentation_models from_pretrained",
        smp_from_pretrained,
        smp_folder,
        unet,
        makes_model=True,
        needs=("segmentation_models_pytorch",),
    ),
    Row(
        "segmentation_models, not strict",
        smp_loosely,
        smp_folder,
        unet,
        makes_model=True,
        needs=("segmentation_models_pytorch",),
    ),
    Row("torchvision, a backbone", torchvision_backbone, pth, resnet, needs=("torchvision",)),
    Row("MONAI copy_model_state", monai_copy, pth, monai_net, needs=("monai",)),
    Row("MONAI CheckpointLoader", monai_handler, under("net"), monai_net, needs=("monai.handlers", "ignite")),
    Row("MONAI CheckpointLoader, any shape", monai_handler_shapes, pth, monai_net, needs=("monai.handlers", "ignite")),
    Row("MONAI bundle load", monai_bundle, bundle, monai_net, makes_model=True, needs=("monai.bundle",)),
    Row("kornia", kornia_load, under("state_dict"), kornia_net, needs=("kornia",)),
    Row(
        "efficientnet_pytorch load_pretrained_weights",
        efficientnet_weights,
        pth,
        efficientnet,
        needs=("efficientnet_pytorch",),
    ),
    Row("lpips", lpips_load, pth, lpips_net, needs=("lpips",)),
]
