"""timm: every architecture with a filter function (the smallest of each), in its own and in foreign layouts, each tried
for real beside the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.loaders.real_calls import Real, disagreements, other_values, quiet, really

MOST = 30_000_000
"""Elements of a model that is still tried."""
Tensors = dict[str, torch.Tensor]
_SMALL = (
    "test_",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xs",
    "micro",
    "mini",
    "tiny",
    "_t0",
    "s0",
    "small",
    "_s_",
    "base",
)


def architectures() -> list[str]:
    """The smallest architecture of each module, class and filter function."""
    import timm

    from ckptdiff.loaders.timm import filter_of_architecture

    groups: dict[object, list[str]] = {}
    with quiet():
        for name in timm.list_models():
            try:
                function = filter_of_architecture(name)
            except Exception:
                continue
            if function is not None:
                entry = timm.models.model_entrypoint(name)
                inner = getattr(function, "func", function)
                groups.setdefault((entry.__module__, inner.__module__, inner.__qualname__), []).append(name)
    chosen = []
    for names in groups.values():
        names.sort(key=lambda name: (next((i for i, word in enumerate(_SMALL) if word in name), 99), len(name)))
        sizes = {name: _size(name) for name in names[:4]}
        best = min((name for name in sizes if sizes[name]), key=lambda name: sizes[name], default=None)
        if best is not None and sizes[best] <= MOST:
            chosen.append(best)
    return sorted(chosen)


def _size(name: str) -> int:
    import timm

    try:
        with torch.device("meta"):
            model = timm.create_model(name)
        return sum(value.numel() for value in model.state_dict().values())
    except Exception:
        return 0


def _under(word: str) -> Callable[[Tensors], Any]:
    return lambda tensors: {word: tensors}


def _named(name: Callable[[str], str]) -> Callable[[Tensors], Any]:
    return lambda tensors: {name(key): value for key, value in tensors.items()}


def _averaged(tensors: Tensors) -> Any:
    return {"model_ema": {f"module.{key}": value for key, value in tensors.items()}, "model": {}}


def _less(tensors: Tensors) -> Any:
    gone = sorted(tensors)[len(tensors) // 2]
    return {key: value for key, value in tensors.items() if key != gone}


def _more(tensors: Tensors) -> Any:
    return {**tensors, "another.weight": torch.ones(2), "mask_token": torch.ones(1, 1, 3)}


def _other_shape(tensors: Tensors) -> Any:
    last = sorted(tensors)[-1]
    return {**tensors, last: torch.ones(3, *tensors[last].shape)}


def _numbered(tensors: Tensors) -> Any:
    """The stages of ConvNeXt, Swin and their like as their authors name them."""
    return {re.sub(r"^stages\.(\d+)\.blocks\.", r"stages.\1.", key): value for key, value in tensors.items()}


def _facebook(tensors: Tensors) -> Any:
    names = {
        "stem.": "downsample_layers.0.", "conv_dw": "dwconv", "mlp.fc": "pwconv", "head.norm.": "norm.",
        "head.fc.": "head.", "mlp.grn.weight": "grn.gamma", "mlp.grn.bias": "grn.beta", "ls1.gamma": "gamma_1",
        "ls2.gamma": "gamma_2",
    }  # fmt: skip
    made = {}
    for key, value in _numbered(tensors).items():
        for new, old in names.items():
            key = key.replace(new, old)
        made[key] = value
    return made


def _microsoft(tensors: Tensors) -> Any:
    """Swin's own: buffers that are no more, and the sampling at the end of a stage."""
    return {
        **{re.sub(r"^head\.fc\.", "head.", key): value for key, value in tensors.items()},
        "layers.0.blocks.1.attn_mask": torch.zeros(4, 9, 9),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(9, 9),
    }


def _open_clip(tensors: Tensors) -> Any:
    names = {
        "patch_embed.proj.": "conv1.", "cls_token": "class_embedding", "pos_embed": "positional_embedding",
        "norm_pre.": "ln_pre.", "blocks.": "transformer.resblocks.", "norm1.": "ln_1.", "norm2.": "ln_2.",
        "attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj.", "mlp.fc1.": "mlp.c_fc.",
        "mlp.fc2.": "mlp.c_proj.", "norm.": "ln_post.",
    }  # fmt: skip
    made = {}
    for key, value in tensors.items():
        for new, old in names.items():
            key = key.replace(new, old)
        made[f"visual.{key}"] = value.flatten(0, 1) if key in ("positional_embedding",) and value.dim() == 3 else value
    return made


CALLS: dict[str, tuple[Callable[[Tensors], Any], dict[str, Any], dict[str, Any]]] = {
    # what is in the file, arguments of the model, options of the loader
    "own": (_under("state_dict"), {}, {}),
    "EMA, of DDP": (_averaged, {}, {}),
    "compiled": (_named(lambda key: f"_orig_mod.module.{key}"), {}, {}),
    "key dropped": (_less, {}, {}),
    "key dropped, not strict": (_less, {}, {"strict": False}),
    "key added": (_more, {}, {}),
    "shape changed": (_other_shape, {}, {}),
    "filter": (_under("model"), {}, {"filter_fn": True}),
    "filter, key added": (_more, {}, {"filter_fn": True}),
    "filter, key dropped": (_less, {}, {"filter_fn": True}),
    "pretrained": (_under("model"), {}, {"pretrained": True}),
    "pretrained, one channel": (_under("model"), {"in_chans": 1}, {"pretrained": True}),
    "pretrained, other head": (_under("model"), {"num_classes": 7}, {"pretrained": True}),
    "pretrained, no head": (_under("model"), {"num_classes": 0}, {"pretrained": True}),
    "pretrained, larger": (_under("model"), {"img_size": 256}, {"pretrained": True}),
    "pretrained, shape changed": (_other_shape, {}, {"pretrained": True}),
    "remap": (_named(lambda key: f"net.{key}"), {}, {"remap": True}),
    "facebook": (_facebook, {}, {"filter_fn": True}),
    "facebook, pretrained": (_facebook, {}, {"pretrained": True}),
    "microsoft": (_microsoft, {}, {"pretrained": True}),
    "open_clip": (_open_clip, {}, {"pretrained": True}),
    "encoder.": (_named(lambda key: f"encoder.{key}"), {}, {"pretrained": True}),
    "backbone.": (_named(lambda key: f"backbone.{key}"), {}, {"pretrained": True}),
    "visual.trunk.": (_named(lambda key: f"visual.trunk.{key}"), {}, {"pretrained": True}),
}  # fmt: skip


def real_call(name: str, arguments: dict[str, Any], options: dict[str, Any]) -> Callable[[Path], Real]:
    """The call that the options stand for, with the lists that it returns."""

    def call(path: Path) -> Real:
        import timm
        from timm.models import load_checkpoint

        from ckptdiff.loaders.timm import filter_of_architecture

        if options.get("pretrained"):
            overlay = {"file": str(path)}
            return Real(model=timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments))
        if not options and not arguments:
            return Real(model=timm.create_model(name, checkpoint_path=str(path)))
        model = timm.create_model(name, **arguments)
        given = {**options, "filter_fn": filter_of_architecture(name)} if options.get("filter_fn") else options
        result = load_checkpoint(model, str(path), **given)
        return Real(None, set(result.missing_keys), set(result.unexpected_keys), model=model)

    return call


def tried(
    folder: Path, names: tuple[str, ...] = (), calls: tuple[str, ...] = tuple(CALLS)
) -> Iterator[tuple[str, list[str]]]:
    """Every case by name, and in what the answer is not what happened."""
    import timm

    from ckptdiff.loaders.asked import Asked
    from ckptdiff.loaders.timm import ask
    from ckptdiff.model.reference import parse_reference

    for name in names or tuple(architectures()):
        with quiet():
            torch.manual_seed(3)
            state: Tensors = dict(timm.create_model(name).state_dict())
        for call in calls:
            change, arguments, options = CALLS[call]
            try:
                with torch.device("meta"), quiet():
                    timm.create_model(name, **arguments)
            except Exception:
                continue  # no architecture for these arguments
            paths = folder / "a.pth", folder / "b.pth"
            torch.save(change(state), paths[0])
            torch.save(
                change({**state, **other_values({k: v for k, v in state.items() if v.is_floating_point()})}), paths[1]
            )
            real = really(real_call(name, arguments, options), *paths)
            torch.manual_seed(5)
            case = f"{name} {call}"
            try:
                outcome = ask(Asked(parse_reference(f"timm:{name}"), str(paths[0]), arguments, options)).outcome
            except Exception as error:
                yield case, [f"no answer: {type(error).__name__}: {error}"]
                continue
            if real.filled is not None and real.model is not None:
                whole = {key for key, value in real.model.state_dict().items() if not value.is_floating_point()}
                real.filled |= whole & {key for key, item in outcome.filled.items() if item.by in ("file", "tie")}
            yield case, disagreements(outcome, real)


def model_of(name: str) -> nn.Module:
    """An architecture."""
    import timm

    return timm.create_model(name)
