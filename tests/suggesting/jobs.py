"""Everyday repairs, made by construction: a trained network, what a file of an earlier time holds of it, and the truth.

Every job is a network of a real architecture's names, a way its file came to differ (wrappers, a refactoring, another
head, another arrangement of a tensor, several of these at once), and what is left open on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Change = Callable[[State], State]


def tree(shapes: Mapping[str, tuple[int, ...]], buffers: Iterable[str] = ()) -> nn.Module:
    """A network with exactly these keys: nested modules that hold parameters, or buffers where a name says so."""
    root = nn.Module()
    held = tuple(buffers)
    for key, shape in shapes.items():
        *path, leaf = key.split(".")
        home = root
        for part in path:
            if part not in home._modules:
                home.add_module(part, nn.Module())
            home = home._modules[part]  # type: ignore[assignment]  # never None here
        if leaf == "num_batches_tracked":
            home.register_buffer(leaf, torch.tensor(0))
        elif leaf.endswith(("running_mean", "running_var", *held)):
            home.register_buffer(leaf, torch.zeros(shape))
        else:
            home.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
    return root


def linear(name: str, out: int, into: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into), **({f"{name}.bias": (out,)} if bias else {})}


def conv(name: str, out: int, into: int, size: int = 3, *, bias: bool = False) -> Shapes:
    return {f"{name}.weight": (out, into, size, size), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm(name: str, width: int) -> Shapes:
    statistics = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}
    return {**norm(name, width), **statistics}


def resnet(classes: int = 10) -> Shapes:
    shapes = {**conv("conv1", 8, 3, 7), **batch_norm("bn1", 8)}
    into = 8
    for stage, width in enumerate((8, 16, 32, 64), 1):
        for block in range(2):
            home = f"layer{stage}.{block}"
            shapes |= {**conv(f"{home}.conv1", width, into), **batch_norm(f"{home}.bn1", width)}
            shapes |= {**conv(f"{home}.conv2", width, width), **batch_norm(f"{home}.bn2", width)}
            if into != width:
                shapes |= {**conv(f"{home}.downsample.0", width, into, 1), **batch_norm(f"{home}.downsample.1", width)}
            into = width
    return {**shapes, **linear("fc", classes, 64)}


def densenet(classes: int = 10) -> Shapes:
    shapes = {**conv("features.conv0", 8, 3, 7), **batch_norm("features.norm0", 8)}
    width = 8
    for block in (1, 2):
        for layer in (1, 2, 3):
            home = f"features.denseblock{block}.denselayer{layer}"
            shapes |= {**batch_norm(f"{home}.norm1", width), **conv(f"{home}.conv1", 16, width, 1)}
            shapes |= {**batch_norm(f"{home}.norm2", 16), **conv(f"{home}.conv2", 4, 16)}
            width += 4
        if block == 1:
            home = "features.transition1"
            shapes |= {**batch_norm(f"{home}.norm", width), **conv(f"{home}.conv", width // 2, width, 1)}
            width //= 2
    return {**shapes, **batch_norm("features.norm5", width), **linear("classifier", classes, width)}


def vit(classes: int = 10, grid: int = 16) -> Shapes:
    shapes = {"cls_token": (1, 1, 24), "pos_embed": (1, grid + 1, 24), **conv("patch_embed.proj", 24, 3, 4, bias=True)}
    for block in range(3):
        home = f"blocks.{block}"
        shapes |= {
            **norm(f"{home}.norm1", 24),
            **linear(f"{home}.attn.qkv", 72, 24),
            **linear(f"{home}.attn.proj", 24, 24),
        }
        shapes |= {
            **norm(f"{home}.norm2", 24),
            **linear(f"{home}.mlp.fc1", 96, 24),
            **linear(f"{home}.mlp.fc2", 24, 96),
        }
    return {**shapes, **norm("norm", 24), **linear("head", classes, 24)}


def llama(words: int = 100) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (words, 32)}
    for layer in range(3):
        home = f"model.layers.{layer}"
        for name, rows in (("q", 32), ("k", 16), ("v", 16)):
            shapes |= linear(f"{home}.self_attn.{name}_proj", rows, 32, bias=False)
        shapes |= linear(f"{home}.self_attn.o_proj", 32, 32, bias=False)
        shapes |= {
            **linear(f"{home}.mlp.gate_proj", 48, 32, bias=False),
            **linear(f"{home}.mlp.up_proj", 48, 32, bias=False),
        }
        shapes |= linear(f"{home}.mlp.down_proj", 32, 48, bias=False)
        shapes |= {f"{home}.input_layernorm.weight": (32,), f"{home}.post_attention_layernorm.weight": (32,)}
    return {**shapes, "model.norm.weight": (32,), "lm_head.weight": (words, 32)}


def bert(classes: int = 3) -> Shapes:
    shapes = {
        f"bert.embeddings.{name}_embeddings.weight": (size, 24)
        for name, size in (("word", 90), ("position", 40), ("token_type", 2))
    }
    shapes |= norm("bert.embeddings.LayerNorm", 24)
    for layer in range(3):
        home = f"bert.encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            shapes |= linear(f"{home}.attention.self.{name}", 24, 24)
        shapes |= {**linear(f"{home}.attention.output.dense", 24, 24), **norm(f"{home}.attention.output.LayerNorm", 24)}
        shapes |= {**linear(f"{home}.intermediate.dense", 96, 24), **linear(f"{home}.output.dense", 24, 96)}
        shapes |= norm(f"{home}.output.LayerNorm", 24)
    return {**shapes, **linear("bert.pooler.dense", 24, 24), **linear("classifier", classes, 24)}


def gpt2(words: int = 120) -> Shapes:
    shapes: Shapes = {"transformer.wte.weight": (words, 24), "transformer.wpe.weight": (32, 24)}
    for layer in range(3):
        home = f"transformer.h.{layer}"
        shapes |= {
            **norm(f"{home}.ln_1", 24),
            **linear(f"{home}.attn.c_attn", 72, 24),
            **linear(f"{home}.attn.c_proj", 24, 24),
        }
        shapes |= {
            **norm(f"{home}.ln_2", 24),
            **linear(f"{home}.mlp.c_fc", 96, 24),
            **linear(f"{home}.mlp.c_proj", 24, 96),
        }
    return {**shapes, **norm("transformer.ln_f", 24), "lm_head.weight": (words, 24)}


def unet(channels: int = 2) -> Shapes:
    shapes: Shapes = {}
    widths = (4, 8, 16)
    into = 1
    for level, width in enumerate(widths):
        shapes |= {**conv(f"down.{level}.conv1", width, into, bias=True), **batch_norm(f"down.{level}.bn1", width)}
        shapes |= {**conv(f"down.{level}.conv2", width, width, bias=True), **batch_norm(f"down.{level}.bn2", width)}
        into = width
    for level, width in enumerate((8, 4)):
        shapes |= {f"up.{level}.up.weight": (into, width, 2, 2), f"up.{level}.up.bias": (width,)}
        shapes |= {**conv(f"up.{level}.conv1", width, 2 * width, bias=True), **batch_norm(f"up.{level}.bn1", width)}
        into = width
    return {**shapes, **conv("out_conv", channels, into, 1, bias=True)}


def detector(classes: int = 6) -> Shapes:
    shapes = {f"backbone.{key}": shape for key, shape in resnet().items() if not key.startswith("fc.")}
    for level, width in enumerate((16, 32, 64)):
        shapes |= {
            **conv(f"neck.lateral.{level}", 16, width, 1, bias=True),
            **conv(f"neck.out.{level}", 16, 16, bias=True),
        }
        for kind, size in (("cls", classes), ("box", 4)):
            for step in range(2):
                shapes |= {
                    **conv(f"head.{kind}.{level}.{step}.conv", 16, 16),
                    **batch_norm(f"head.{kind}.{level}.{step}.bn", 16),
                }
            shapes |= conv(f"head.{kind}.{level}.2", size, 16, 1, bias=True)
    return shapes


def mixtral(experts: int = 4) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (80, 32)}
    for layer in range(2):
        home = f"model.layers.{layer}"
        for name, rows in (("q", 32), ("k", 16), ("v", 16), ("o", 32)):
            shapes |= linear(f"{home}.self_attn.{name}_proj", rows, 32, bias=False)
        shapes |= {f"{home}.mlp.gate.weight": (experts, 32)}
        shapes |= {
            f"{home}.mlp.experts.gate_up_proj": (experts, 96, 32),
            f"{home}.mlp.experts.down_proj": (experts, 32, 48),
        }
        shapes |= {f"{home}.input_layernorm.weight": (32,), f"{home}.post_attention_layernorm.weight": (32,)}
    return {**shapes, "model.norm.weight": (32,), "lm_head.weight": (80, 32)}


def renamed(*pairs: tuple[str, str]) -> Change:
    """Every key by these regular expressions, one after the other."""

    def change(state: State) -> State:
        names = list(state)
        for pattern, replacement in pairs:
            names = [re.sub(pattern, replacement, name) for name in names]
        return dict(zip(names, state.values(), strict=True))

    return change


def under(prefix: str) -> Change:
    return lambda state: {prefix + key: value for key, value in state.items()}


def without(expression: str) -> Change:
    return lambda state: {key: value for key, value in state.items() if not re.search(expression, key)}


def beside(**more: tuple[int, ...]) -> Change:
    """Keys of no use to the model, at the end."""
    return lambda state: {**state, **{key.replace("__", "."): torch.randn(shape) for key, shape in more.items()}}


def sized(expression: str, rows: int) -> Change:
    """Tensors of a head for another number of classes."""

    def change(state: State) -> State:
        return {
            key: torch.randn(rows, *value.shape[1:]) if re.search(expression, key) else value
            for key, value in state.items()
        }

    return change


def packed(*names: str, into: str) -> Change:
    """Tensors of these last modules laid under one another in one."""

    def change(state: State) -> State:
        made: State = {}
        for key, value in state.items():
            home, _, leaf = key.rpartition(".")
            first = re.sub(rf"{names[0]}$", "", home)
            if home.endswith(names[0]):
                made[f"{first}{into}.{leaf}"] = torch.cat([state[f"{first}{name}.{leaf}"] for name in names])
            elif not any(home.endswith(name) for name in names[1:]):
                made[key] = value
        return made

    return change


def unpacked(name: str, *into: str) -> Change:
    def change(state: State) -> State:
        made: State = {}
        for key, value in state.items():
            home, _, leaf = key.rpartition(".")
            if home.endswith(name):
                parts = value.chunk(len(into))
                made |= {
                    f"{home.removesuffix(name)}{part}.{leaf}": piece.clone()
                    for part, piece in zip(into, parts, strict=True)
                }
            else:
                made[key] = value
        return made

    return change


def turned(expression: str) -> Change:
    """Matrices the other way round, as Conv1D has them."""
    return lambda state: {
        key: value.T.contiguous() if value.ndim == 2 and re.search(expression, key) else value
        for key, value in state.items()
    }


def listed_experts(state: State) -> State:
    """Mixtral's experts one by one, w1 and w3 apart, as its published files have them."""
    made: State = {}
    for key, value in state.items():
        home = key.rsplit(".experts.", 1)[0].replace(".mlp", ".block_sparse_moe")
        if key.endswith("gate_up_proj"):
            for number, expert in enumerate(value):
                gate, up = expert.chunk(2)
                made |= {
                    f"{home}.experts.{number}.w1.weight": gate.clone(),
                    f"{home}.experts.{number}.w3.weight": up.clone(),
                }
        elif key.endswith("down_proj"):
            made |= {f"{home}.experts.{number}.w2.weight": expert.clone() for number, expert in enumerate(value)}
        else:
            made[key.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = value
    return made


def squeezed(expression: str) -> Change:
    return lambda state: {
        key: value.squeeze(0) if re.search(expression, key) else value for key, value in state.items()
    }


def all_of(*changes: Change) -> Change:
    def change(state: State) -> State:
        for step in changes:
            state = step(state)
        return state

    return change


@dataclass(frozen=True)
class Job:
    """`model` says the network's shapes; `change` makes the file from the trained state dict. `stays` is what the file
    does not hold: the keys that may keep initial values. `likely` where names alone cannot prove it."""

    model: Callable[[], Shapes]
    change: Change
    stays: str = "$^"
    likely: bool = False
    heads: tuple[int, int] | None = None

    def network(self) -> nn.Module:
        return tree(self.model())

    def trained(self) -> State:
        generator = torch.Generator().manual_seed(7)
        return {
            key: torch.randint(1, 999, (), generator=generator)
            if not value.is_floating_point()
            else torch.randn(value.shape, generator=generator)
            for key, value in self.network().state_dict().items()
        }


_OLD_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
_OLD_SPECTRUM = {
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}


def normed(model: Callable[[], Shapes], *, new: bool) -> Shapes:
    """Its convolutions under torch.nn.utils.(parametrizations.)weight_norm."""
    shapes: Shapes = {}
    for key, shape in model().items():
        if len(shape) == 4:
            home = key.removesuffix("weight")
            length, direction = _OLD_NORM if new else _OLD_NORM.values()
            shapes |= {f"{home}{length}": (shape[0], 1, 1, 1), f"{home}{direction}": shape}
        else:
            shapes[key] = shape
    return shapes


def spectral(model: Callable[[], Shapes], *, new: bool) -> Shapes:
    """Its convolutions under torch.nn.utils.(parametrizations.)spectral_norm."""
    shapes: Shapes = {}
    for key, shape in model().items():
        if len(shape) == 4:
            home = key.removesuffix("weight")
            original, left, right = _OLD_SPECTRUM if new else _OLD_SPECTRUM.values()
            rest = shape[1] * shape[2] * shape[3]
            shapes |= {f"{home}{original}": shape, f"{home}{left}": (shape[0],), f"{home}{right}": (rest,)}
        else:
            shapes[key] = shape
    return shapes


def respelled(pairs: Mapping[str, str]) -> Change:
    """The last components by these names."""

    def change(state: State) -> State:
        made: State = {}
        for key, value in state.items():
            ending = next((ending for ending in pairs if key.endswith(f".{ending}")), "")
            made[f"{key.removesuffix(ending)}{pairs[ending]}" if ending else key] = value
        return made

    return change


old_norms, new_norms = respelled(_OLD_NORM), respelled({old: new for new, old in _OLD_NORM.items()})
old_spectra, new_spectra = respelled(_OLD_SPECTRUM), respelled({old: new for new, old in _OLD_SPECTRUM.items()})

REFACTORINGS: dict[str, tuple[Callable[..., Shapes], Change, str]] = {
    "resnet stages": (
        resnet,
        renamed((r"^layer(\d)\.", r"stages.\1."), (r"^conv1", "stem.conv"), (r"^bn1", "stem.bn")),
        "fc",
    ),
    "resnet shortcut": (resnet, renamed((r"downsample", "shortcut"), (r"\bfc\b", "linear")), "linear"),
    "densenet of CheXNet": (
        densenet,
        renamed((r"(norm|conv)(\d)\.(?=\w+$)", r"\1.\2."), (r"features\.(norm|conv)\.(\d)", r"features.\1\2")),
        "classifier",
    ),
    "vit blocks": (
        vit,
        renamed((r"^blocks\.", "encoder.layers."), (r"\.attn\.", ".attention."), (r"\.mlp\.", ".ffn.")),
        "head",
    ),
    "vit norms": (vit, renamed((r"\.norm1\.", ".ln_1."), (r"\.norm2\.", ".ln_2."), (r"^norm\.", "ln_post.")), "head"),
    "llama flat": (llama, renamed((r"^model\.", ""), (r"self_attn", "attention"), (r"mlp", "feed_forward")), "lm_head"),
    "bert gamma": (
        bert,
        renamed((r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta")),
        "classifier",
    ),
    "bert plain": (
        bert,
        renamed((r"^bert\.encoder\.layer\.", "encoder.layers."), (r"^bert\.", ""), (r"attention\.self", "attn")),
        "classifier",
    ),
    "gpt2 blocks": (
        gpt2,
        renamed((r"transformer\.h\.", "transformer.blocks."), (r"\.ln_(\d)\.", r".norm\1.")),
        "lm_head",
    ),
    "unet names": (unet, renamed((r"^down\.", "encoder."), (r"^up\.", "decoder."), (r"^out_conv", "head")), "head"),
    "detector parts": (detector, renamed((r"^backbone\.", "body."), (r"^neck\.", "fpn.")), r"head\.cls\.\d\.2"),
}
PREFIXES = {
    "": "",
    "module": "module.",
    "lightning": "model.",
    "compiled": "_orig_mod.",
    "net": "net.",
    "ddp compiled": "module._orig_mod.",
}


def _refactored() -> Iterator[tuple[str, Job]]:
    """Every refactoring under every prefix, each third also with another head."""
    number = 0
    # Nothing but their place says that a stem is the first convolution: that is likely, not certain.
    unproven = {"resnet stages"}
    for name, (model, refactor, head) in REFACTORINGS.items():
        for title, prefix in PREFIXES.items():
            number += 1
            steps, stays = [refactor], "$^"
            if number % 3 != 1:
                rows = 17
                steps.append(sized(rf"^{head}\.", rows))
                stays = r"(^|\.)(fc|classifier|lm_head|out_conv|head\.(cls\.\d\.2\.)?\w+$)"
            steps.append(under(prefix))
            title = f"{name}, {title or 'plain'}{', another head' if stays != '$^' else ''}"
            yield title, Job(model, all_of(*steps), stays, likely=name in unproven)


JOBS: dict[str, Job] = {
    **dict(_refactored()),
    "gpt2 Conv1D": Job(gpt2, turned(r"c_(attn|proj|fc)\.weight$")),
    "gpt2 Conv1D, module": Job(gpt2, all_of(turned(r"c_(attn|proj|fc)\.weight$"), under("module."))),
    "vit q k v apart": Job(vit, unpacked("qkv", "q", "k", "v")),
    "vit q k v apart, module": Job(vit, all_of(unpacked("qkv", "q", "k", "v"), under("module."))),
    "vit q k v apart, refactored, another head": Job(
        vit,
        all_of(unpacked("qkv", "q", "k", "v"), renamed((r"^blocks", "encoder.layers")), sized(r"^head\.", 5)),
        r"^head\.",
    ),
    "llama qkv packed": Job(llama, packed("q_proj", "k_proj", "v_proj", into="qkv_proj")),
    "llama gate_up packed, model": Job(
        llama, all_of(packed("gate_proj", "up_proj", into="gate_up_proj"), under("model."))
    ),
    "mixtral listed": Job(mixtral, listed_experts),
    "mixtral listed, module": Job(mixtral, all_of(listed_experts, under("module."))),
    "vit squeezed position": Job(vit, all_of(squeezed("^pos_embed"), under("module."))),
    "resnet without head": Job(resnet, all_of(without(r"^fc\."), under("backbone.")), r"^fc\."),
    "resnet, head renamed and of two layers": Job(
        resnet,
        all_of(
            without(r"^fc\."),
            beside(fc__0__weight=(32, 64), fc__0__bias=(32,), fc__2__weight=(5, 32), fc__2__bias=(5,)),
            under("module."),
        ),
        r"^fc\.",
    ),
    "resnet with a loss": Job(resnet, all_of(under("model."), beside(criterion__pos_weight=(10,)))),
    # A regional torch.compile, activation checkpoints and FSDP stand in the middle of names.
    "llama compiled by layers": Job(llama, renamed((r"(layers\.\d+)\.", r"\1._orig_mod."))),
    "llama with checkpoint wrappers": Job(llama, renamed((r"(layers\.\d+)\.", r"\1._checkpoint_wrapped_module."))),
    "llama of FSDP": Job(
        llama,
        all_of(
            renamed((r"(layers\.\d+)\.", r"\1._fsdp_wrapped_module.")),
            under("_fsdp_wrapped_module."),
        ),
    ),
    "llama compiled by layers, refactored, module": Job(
        llama,
        all_of(
            renamed(
                (r"(layers\.\d+)\.", r"\1._orig_mod."), (r"self_attn", "attention"), (r"\.mlp\.", ".feed_forward.")
            ),
            under("module."),
        ),
    ),
    "bert averaged": Job(bert, all_of(under("module."), lambda state: {**state, "n_averaged": torch.tensor(5)})),
    "new weight_norm from old": Job(lambda: normed(unet, new=True), old_norms),
    "old weight_norm from new": Job(lambda: normed(unet, new=False), new_norms),
    "new weight_norm from old, module": Job(lambda: normed(unet, new=True), all_of(old_norms, under("module."))),
    "old weight_norm from new, model": Job(lambda: normed(unet, new=False), all_of(new_norms, under("model."))),
    "new spectral_norm from old": Job(lambda: spectral(unet, new=True), old_spectra),
    "old spectral_norm from new": Job(lambda: spectral(unet, new=False), new_spectra),
    "old spectral_norm from new, module": Job(lambda: spectral(unet, new=False), all_of(new_spectra, under("module."))),
}
