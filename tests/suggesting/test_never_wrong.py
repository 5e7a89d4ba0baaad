"""What loads without an error and computes nonsense is never called certain: twins, rotary rows, square matrices."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.renaming.rename_rules import apply_rules
from ckptdiff.suggesting.finder import suggest_rules
from ckptdiff.suggesting.suggestion import Suggestion

Shapes = dict[str, tuple[int, ...]]
NET: Shapes = {f"layer{i}.{leaf}": shape for i in range(3) for leaf, shape in (("weight", (8, 8)), ("bias", (8,)))}
TWINS = [
    ("student", "teacher"),
    ("model", "model_ema"),
    ("online", "target"),
    ("encoder_q", "encoder_k"),
    ("net", "copy"),
    ("netG", "netG_ema"),
    ("backbone", "momentum_backbone"),
    ("module", "averaged"),
    ("original", "copied.default"),
]
WORDS = ["net", "model", "ema", "copy", "teacher", "a", "b", "main", "backbone", "target", "module_ema", "x1", "old"]


def under(prefix: str, keys: Shapes = NET) -> Shapes:
    return {f"{prefix}.{key}": shape for key, shape in keys.items()}


def decided(found: Suggestion) -> dict[str, str]:
    """What the certain rules and operations move."""
    return {**found.mapping, **{str(operation.rule): "" for operation in found.operations}}


@pytest.mark.parametrize("twins", TWINS)
def test_two_places_for_one_purpose_are_never_told_apart_by_shape(twins: tuple[str, str]) -> None:
    both = under(twins[0]) | under(twins[1])
    assert not decided(suggest_rules(NET, both))
    assert not decided(suggest_rules(under("anything"), both))
    assert not decided(suggest_rules(both, NET))
    assert suggest_rules(NET, both).ambiguous
    assert not suggest_rules(NET, both, include_likely=True).rules


@pytest.mark.parametrize("twins", TWINS)
def test_a_name_tells_them_apart(twins: tuple[str, str]) -> None:
    both = under(twins[0]) | under(twins[1])
    for one in twins:
        assert suggest_rules(under("wrapped." + one), both).mapping in (
            {},
            {f"wrapped.{one}.{key}": f"{one}.{key}" for key in NET},
        )


@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=2, unique=True), st.sampled_from(["", "w.", "core."]))
@settings(deadline=None, max_examples=40)
def test_twins_under_any_names(names: list[str], wrapper: str) -> None:
    both = under(wrapper + names[0]) | under(wrapper + names[1])
    assert not decided(suggest_rules(NET, both))
    assert not decided(suggest_rules(both, NET))


@pytest.mark.parametrize("twins", TWINS)
def test_a_prefix_that_another_one_equals_is_not_the_answer(twins: tuple[str, str], tmp_path: Path) -> None:
    """What `compare` and `filter` say of two copies in a file names both."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    both = {f"{twin}.{key}": value for twin in twins for key, value in model.state_dict().items()}
    torch.save(both, tmp_path / "two.pth")
    (advice,) = (one for one in ckptdiff.compare(model, both).advice if one.kind == "prefix")
    said = ckptdiff.compare(model, both).to_text()
    with pytest.raises(ckptdiff.CkptdiffError) as refused:
        ckptdiff.filter(model, tmp_path / "two.pth", tmp_path / "one.pth")
    for twin in twins:
        assert f"'{twin}" in said.partition("what would help")[2]
        assert f"'{twin}" in refused.value.hint
    assert advice.facts["alike"]


def test_a_norm_is_not_the_other_one() -> None:
    """torchtune's names, which say `sa` and `mlp` where transformers says what comes before and after."""
    found = suggest_rules(torchtune(), llama(), include_likely=True)
    assert found.mapping["layers.1.mlp_norm.scale"] == "model.layers.1.post_attention_layernorm.weight"
    assert found.mapping["layers.1.sa_norm.scale"] == "model.layers.1.input_layernorm.weight"


# --- rotary rows


def llama(width: int = 16, kv: int = 8, hidden: int = 40, layers: int = 2) -> Shapes:
    shapes = {"model.embed_tokens.weight": (50, width)}
    for i in range(layers):
        block = f"model.layers.{i}"
        for name, shape in attention(width, kv).items():
            shapes[f"{block}.self_attn.{name}_proj.weight"] = shape
        for name, shape in (("gate", (hidden, width)), ("up", (hidden, width)), ("down", (width, hidden))):
            shapes[f"{block}.mlp.{name}_proj.weight"] = shape
        shapes |= {f"{block}.{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (50, width)}


def attention(width: int, kv: int) -> Shapes:
    return {"q": (width, width), "k": (kv, width), "v": (kv, width), "o": (width, width)}


def renamed(names: dict[str, str]) -> Shapes:
    out = {}
    for key, shape in llama().items():
        for old, new in names.items():
            key = key.replace(old, new)
        out[key] = shape
    return out


def torchtune() -> Shapes:
    return renamed(
        {
            "model.embed_tokens": "tok_embeddings",
            "lm_head": "output",
            "model.": "",
            "self_attn.o_proj": "attn.output_proj",
            "self_attn": "attn",
            "gate_proj": "w1",
            "down_proj": "w2",
            "up_proj": "w3",
            "input_layernorm.weight": "sa_norm.scale",
            "post_attention_layernorm.weight": "mlp_norm.scale",
            "norm.weight": "norm.scale",
        }
    )


def meta() -> Shapes:
    return renamed(
        {
            "model.embed_tokens": "tok_embeddings",
            "lm_head": "output",
            "model.": "",
            **{f"self_attn.{name}_proj": f"attention.w{name}" for name in "qkvo"},
            "mlp.gate_proj": "feed_forward.w1",
            "mlp.down_proj": "feed_forward.w2",
            "mlp.up_proj": "feed_forward.w3",
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "ffn_norm",
        }
    )


def own() -> Shapes:
    """Names that nobody knows, of a rotary attention all the same."""
    return renamed({"self_attn.q_proj": "mixer.query", "self_attn.k_proj": "mixer.key", "self_attn": "mixer"})


@pytest.mark.parametrize("other", [torchtune, meta], ids=lambda make: make.__name__)
@pytest.mark.parametrize("likely", [False, True])
def test_rotary_rows_in_another_order_are_refused_at_every_level(other: object, likely: bool) -> None:
    for checkpoint, model in ((other(), llama()), (llama(), other()), (other(), own())):  # type: ignore[operator]
        found = suggest_rules(checkpoint, model, include_likely=likely)
        renaming = apply_rules(found.rules, checkpoint, strict=False).mapping
        turned = [key for key in checkpoint if re.search(r"(wq|wk|q_proj|k_proj)\.weight$", key)]
        assert turned
        assert all(renaming[key] not in model for key in turned), found.rules
        assert sum("rotary" in refused.sentence for refused in found.ambiguous) == 2


def test_rows_that_keep_their_name_are_undecided() -> None:
    model = {key.replace("w1", "gate").replace("output_proj", "o_proj"): shape for key, shape in torchtune().items()}
    found = suggest_rules(torchtune(), model)
    assert not found.complete
    assert set(found.undecided) == {f"layers.{i}.attn.{name}_proj.weight" for i in range(2) for name in "qk"}


def scores(q: torch.Tensor, k: torch.Tensor, heads: int, kv: int, *, halves: bool) -> torch.Tensor:
    """What a rotary attention makes of its weights, turned by pairs or by halves (written from the definition)."""

    def turned(weight: torch.Tensor, count: int) -> torch.Tensor:
        x = (hidden @ weight.T).unflatten(1, (count, -1))
        size = x.shape[-1]
        speeds = 10000 ** (-torch.arange(0, size, 2).double() / size)
        angle = torch.outer(torch.arange(len(x)).double(), speeds)[:, None]
        one, two = (x[..., : size // 2], x[..., size // 2 :]) if halves else (x[..., ::2], x[..., 1::2])
        return torch.cat([one * angle.cos() - two * angle.sin(), one * angle.sin() + two * angle.cos()], -1)

    hidden = torch.linspace(-1, 1, 5 * q.shape[1]).reshape(5, -1).double()
    keys = turned(k.double(), kv).repeat_interleave(heads // kv, 1)
    return torch.einsum("ihd,jhd->hij", turned(q.double(), heads), keys)


def test_rotary_rows_are_reordered_with_the_heads_of_the_configuration(tmp_path: Path) -> None:
    state = {key: torch.randn(shape) for key, shape in meta().items()}
    torch.save(state, tmp_path / "consolidated.00.pth")
    (tmp_path / "params.json").write_text(json.dumps({"dim": 16, "n_heads": 4, "n_kv_heads": 2}))
    found = ckptdiff.suggest({key: list(shape) for key, shape in llama().items()}, tmp_path / "consolidated.00.pth")
    assert found.complete
    found.save(tmp_path / "to.rules.toml")
    ckptdiff.rewrite(tmp_path / "consolidated.00.pth", tmp_path / "hf.pth", rules=tmp_path / "to.rules.toml")
    made = torch.load(tmp_path / "hf.pth")
    assert {key: tuple(value.shape) for key, value in made.items()} == llama()
    for i in range(2):
        before = [state[f"layers.{i}.attention.w{name}.weight"] for name in "qk"]
        after = [made[f"model.layers.{i}.self_attn.{name}_proj.weight"] for name in "qk"]
        wanted = scores(*before, 4, 2, halves=False)
        assert torch.allclose(scores(*after, 4, 2, halves=True), wanted)
        assert not torch.allclose(scores(*before, 4, 2, halves=True), wanted)
    back = ckptdiff.suggest({key: list(shape) for key, shape in meta().items()}, tmp_path / "hf.pth", heads=(4, 2))
    back.save(tmp_path / "back.rules.toml")
    ckptdiff.rewrite(tmp_path / "hf.pth", tmp_path / "again.pth", rules=tmp_path / "back.rules.toml")
    again = torch.load(tmp_path / "again.pth")
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_heads_are_asked_for_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({key: torch.zeros(shape) for key, shape in torchtune().items()}, tmp_path / "tune.pth")
    model = nn.Module()
    for key, shape in llama().items():
        home = model
        *parents, name = key.split(".")
        for parent in parents:
            if not hasattr(home, parent):
                home.add_module(parent, nn.Module())
            home = getattr(home, parent)
        home.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    (tmp_path / "llama.json").write_text(ckptdiff.snapshot(model))
    words = ["suggest", str(tmp_path / "llama.json"), str(tmp_path / "tune.pth"), "--format", "text"]
    assert main(words) == 1
    assert "rotary" in capfd.readouterr().out
    assert main([*words, "--heads", "4,2"]) == 0
    assert "rotary_to_halves(2): layers.{i:int}.attn.k_proj.weight" in capfd.readouterr().out.replace("{i}", "{i:int}")
    assert main([*words, "--heads", "four"]) == 2
    assert main([*words, "--heads", "5"]) == 1


# --- matrices that lie the other way round


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn, self.attn.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class NanoGPT(nn.Module):
    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(50, width),
                "wpe": nn.Embedding(32, width),
                "h": nn.ModuleList(Block(width) for _ in range(layers)),
                "ln_f": nn.LayerNorm(width),
            }
        )


def test_the_square_matrix_of_a_conv1d_is_transposed_with_its_siblings(tmp_path: Path) -> None:
    """transformers' own GPT-2, whose matrices are the transposes of nn.Linear's."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=32)
    state = {f"transformer.{key}": value for key, value in transformers.GPT2Model(config).state_dict().items()}
    torch.save(state, tmp_path / "gpt2.pth")
    for checkpoint in (tmp_path / "gpt2.pth",):
        found = ckptdiff.suggest(NanoGPT(), checkpoint)
        assert found.complete
        found.save(tmp_path / "gpt2.rules.toml")
        ckptdiff.filter(NanoGPT(), checkpoint, tmp_path / "nano.pth", rules=tmp_path / "gpt2.rules.toml")
        made = torch.load(tmp_path / "nano.pth")
        NanoGPT().load_state_dict(made)
        for key, value in state.items():
            matrix = re.search(r"(c_attn|c_fc|c_proj)\.weight$", key)
            assert torch.equal(made[key], value.T if matrix else value), key


@pytest.mark.parametrize("straight", [False, True])
def test_a_square_matrix_beside_one_that_is_transposed_is_undecided(
    straight: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint: Shapes = {}
    for i in range(3):
        checkpoint |= {f"b.{i}.fc.weight": (16, 64), f"b.{i}.proj.weight": (16, 16)}
        if straight:
            checkpoint |= {f"b.{i}.up.weight": (64, 16), f"b.{i}.down.weight": (20, 16)}
    model = {key: shape[::-1] if "fc" in key or "up" in key else shape for key, shape in checkpoint.items()}
    found = suggest_rules(checkpoint, model)
    assert found.undecided == ("b.0.proj.weight", "b.1.proj.weight", "b.2.proj.weight")
    assert not found.complete
    assert "nothing says whether these must" in found.ambiguous[0].sentence

    torch.save({key: torch.zeros(shape) for key, shape in checkpoint.items()}, tmp_path / "w.pth")
    sizes = {key.split(".")[2]: shape for key, shape in model.items()}
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass B(nn.Module):\n    def __init__(self, shapes):\n        super().__init__()\n"
        "        for name, (o, i) in shapes.items():\n            setattr(self, name, nn.Linear(i, o, bias=False))\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.b = nn.ModuleList(B({sizes}) for _ in range(3))\n"
    )
    assert main(["suggest", f"{tmp_path / 'net.py'}:Net", str(tmp_path / "w.pth"), "--format", "text"]) == 1
    assert "with it" in (out := capfd.readouterr().out) or "with them" in out
    assert "3 keys may lie in another order" in out


@pytest.mark.parametrize("named", ["mlp.*.weight", "*.c_*.weight"])
def test_an_adaptation_that_leaves_a_square_matrix_straight_says_so(named: str, tmp_path: Path) -> None:
    state = NanoGPT().state_dict()
    matrices = {key for key in state if re.search(r"(c_attn|c_fc|c_proj)\.weight$", key)}
    torch.save({key: v.T.contiguous() if key in matrices else v for key, v in state.items()}, tmp_path / "gpt2.pth")
    globs = [f"transformer.h.{i}.{part}=transpose" for i in range(2) for part in ("attn.c_attn.weight", named)]
    job = ckptdiff.filter(NanoGPT(), tmp_path / "gpt2.pth", tmp_path / "o.pth", adapt=globs, dry_run=True)
    said = [text for text in job.plan.uncertain if "square" in text]
    assert bool(said) == (named == "mlp.*.weight")
    assert all("2 square matrices fit either way round" in text for text in said)


def test_a_kernel_is_no_weight_of_the_same_shape() -> None:
    """flax and Keras put the inputs first."""
    checkpoint = {"enc.Dense_0.kernel": (8, 8), "enc.Dense_0.bias": (8,), "enc.norm.scale": (8,)}
    model = {"enc.dense_0.weight": (8, 8), "enc.dense_0.bias": (8,), "enc.norm.weight": (8,)}
    for likely in (False, True):
        found = suggest_rules(checkpoint, model, include_likely=likely)
        assert apply_rules(found.rules, checkpoint, strict=False).mapping["enc.Dense_0.kernel"] not in model


# --- what the evidence says


def test_the_keys_that_fit_are_counted_and_no_others() -> None:
    checkpoint = {"a.weight": (3, 4), "b.weight": (3, 4), "c.weight": (5, 4), "d.weight": (6, 6)}
    model = {f"net.{key}": shape for key, shape in checkpoint.items()} | {"net.c.weight": (2, 4)}
    del model["net.d.weight"]
    (rule,) = suggest_rules(checkpoint, model).rules
    assert rule.keys == 4
    assert rule.reason.endswith("; 2 fit")
    model["net.e.weight"] = (7, 7)
    (rule,) = suggest_rules(checkpoint, model).rules
    assert rule.keys == 4
    assert rule.reason.startswith("2 of the 4 keys that it moves fit")


# --- adapters


def adapter(*names: str) -> tuple[Shapes, Shapes]:
    """An adapter's file and the state dict of a model that peft wrapped, by peft's naming."""
    q, head = "base_model.model.layers.0.q_proj", "base_model.model.score"
    checkpoint = {f"{q}.lora_A.weight": (8, 16), f"{q}.lora_B.weight": (16, 8), f"{head}.weight": (4, 16)}
    model = {f"{q}.base_layer.weight": (16, 16), f"{head}.original_module.weight": (4, 16)}
    for name in names:
        model |= {f"{q}.lora_A.{name}.weight": (8, 16), f"{q}.lora_B.{name}.weight": (16, 8)}
        model[f"{head}.modules_to_save.{name}.weight"] = (4, 16)
    return checkpoint, model


def test_a_trained_head_goes_where_peft_puts_it() -> None:
    found = suggest_rules(*adapter("default"))
    assert found.mapping["base_model.model.score.weight"] == "base_model.model.score.modules_to_save.default.weight"
    assert len(found.mapping) == 3
    assert found.unused == 0


def test_an_adapter_may_hold_embeddings_of_the_base() -> None:
    """As peft saves them where it adapts them (`save_embedding_layers`)."""
    checkpoint, model = adapter("default")
    embedding = {"base_model.model.embed.base_layer.weight": (50, 16)}
    found = suggest_rules(checkpoint | embedding, model | embedding)
    assert found.mapping == suggest_rules(checkpoint, model).mapping
    assert found.already == 1
    assert found.unused == 0


def test_which_of_two_adapters_is_meant_is_not_guessed() -> None:
    assert not decided(suggest_rules(*adapter("default", "other")))


def test_a_base_model_is_not_put_beside_its_own_copy() -> None:
    _, model = adapter("default")
    found = suggest_rules({"layers.0.q_proj.weight": (16, 16), "score.weight": (4, 16)}, model)
    assert "score.weight" not in found.mapping
