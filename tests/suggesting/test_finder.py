"""What the finder promises: it is right or it says so; identity is left alone; what looks alike is refused."""

from __future__ import annotations

import functools
import gzip
import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptdiff.renaming.rename_rules import apply_rules
from ckptdiff.renaming.tensor_rules import plan_operations
from ckptdiff.suggesting.families import looks_like
from ckptdiff.suggesting.finder import suggest_rules
from ckptdiff.suggesting.suggestion import Suggestion

Shapes = dict[str, tuple[int, ...]]
DATA = Path(__file__).parent / "data"


def load(name: str) -> dict[str, Any]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return dict(json.load(file))


CORPUS = load("rename_corpus.json.gz")["models"]
PAIRS = load("library_pairs.json.gz")


def shapes(mapping: Mapping[str, list[int]]) -> Shapes:
    return {key: tuple(shape) for key, shape in mapping.items()}


@functools.cache
def corpus_suggestion(name: str) -> Suggestion:
    return suggest_rules(shapes(CORPUS[name]["ckpt"]), shapes(CORPUS[name]["model"]))


@functools.cache
def pair_suggestion(name: str) -> Suggestion:
    return suggest_rules(shapes(PAIRS[name]["ckpt"]), shapes(PAIRS[name]["model"]))


def renamed(case: Mapping[str, Any]) -> dict[str, str]:
    return {old: new for old, new in case["truth"].items() if old != new}


def check_sound(found: Suggestion, checkpoint: Shapes, model: Shapes) -> None:
    """The rules do what the mapping says, to every key, and touch nothing that fits."""
    taken = {source for finding in found.operations for source in _sources(finding.rule, checkpoint)}
    renaming = apply_rules(found.rules, checkpoint)
    landed = {old: new for old, new in renaming.moved.items() if model.get(new) == checkpoint[old] and old not in taken}
    assert landed == dict(found.mapping)
    assert all(rule.confidence == "certain" and rule.keys and rule.reason for rule in found.rules)


def _sources(rule: Any, checkpoint: Shapes) -> set[str]:
    return {source for operation in plan_operations([rule], checkpoint) for source in operation.sources}


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_corpus_is_renamed_without_an_error(name: str) -> None:
    case = CORPUS[name]
    checkpoint, model = shapes(case["ckpt"]), shapes(case["model"])
    found = corpus_suggestion(name)
    truth = renamed(case)
    assert {old: new for old, new in found.mapping.items() if truth.get(old) != new} == {}
    check_sound(found, checkpoint, model)


def test_corpus_recall_holds() -> None:
    right = total = 0
    for name, case in CORPUS.items():
        truth = renamed(case)
        found = corpus_suggestion(name).mapping
        right += sum(truth.get(old) == new for old, new in found.items())
        total += len(truth)
    assert right >= 0.95 * total


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_the_same_network_of_two_libraries_is_never_misnamed(name: str) -> None:
    found, truth = pair_suggestion(name), renamed(PAIRS[name])
    assert {old: new for old, new in found.mapping.items() if truth.get(old) != new} == {}


def test_library_pairs_are_found_to_nine_tenths() -> None:
    right = total = 0
    for name, case in PAIRS.items():
        truth, mapping = renamed(case), pair_suggestion(name).mapping
        right += sum(truth.get(old) == new for old, new in mapping.items())
        total += len(truth)
    assert right >= 0.9 * total


@pytest.mark.parametrize(
    "name",
    [
        "ddp_resnet18",
        "old_bert__hf",
        "hf4_vit__hf5",
        "openai_whisper__hf",
        "dinov2_chunked__timm",
        "fairseq_roberta__hf",
    ],
)
def test_well_known_layouts_are_solved_completely(name: str) -> None:
    case = PAIRS[name]
    assert suggest_rules(shapes(case["ckpt"]), shapes(case["model"])).mapping == renamed(case)


def test_order_of_keys_is_no_evidence() -> None:
    for name in ("molmo2", "nomic_bert", "altclip"):
        case = CORPUS[name]
        checkpoint, model = shapes(case["ckpt"]), shapes(case["model"])
        expected = suggest_rules(checkpoint, model).mapping
        shuffled = list(checkpoint)
        random.Random(5).shuffle(shuffled)
        assert suggest_rules({key: checkpoint[key] for key in shuffled}, model).mapping == expected


def block(prefix: str, names: tuple[str, str, str], layers: int = 3) -> Shapes:
    found: Shapes = {}
    for layer in range(layers):
        for name in names:
            found[f"{prefix}.{layer}.attn.{name}.weight"] = (8, 8)
        found[f"{prefix}.{layer}.mlp.fc1.weight"] = (32, 8)
        found[f"{prefix}.{layer}.mlp.fc2.weight"] = (8, 32)
    return found


def test_qkv_with_unrelated_names_is_refused_with_candidates() -> None:
    found = suggest_rules(block("h", ("alpha", "omega", "sigma")), block("layers", ("q_proj", "k_proj", "v_proj")))
    assert not any("attn" in old for old in found.mapping)
    refused = [ambiguity for ambiguity in found.ambiguous if "alpha" in ambiguity.template]
    assert len(refused[0].candidates) == 3
    assert refused[0].sentence
    assert len(refused[0].keys) == 3


def test_qkv_with_known_names_is_found() -> None:
    found = suggest_rules(block("h", ("query", "key", "value")), block("layers", ("q_proj", "k_proj", "v_proj")))
    assert found.mapping["h.2.attn.key.weight"] == "layers.2.attn.k_proj.weight"
    assert found.complete


def test_twin_towers_are_refused() -> None:
    names = ("q", "k", "v")
    checkpoint = {**block("ping", names), **block("pong", names)}
    model = {**block("left.layers", names), **block("right.layers", names)}
    assert suggest_rules(checkpoint, model).mapping == {}
    one = suggest_rules(checkpoint, block("layers", names))
    assert one.mapping == {}
    assert one.ambiguous


def test_towers_told_apart_by_name_are_found() -> None:
    names = ("q", "k", "v")
    checkpoint = {**block("visual.blocks", names), **block("text.blocks", names)}
    model = {**block("vision_model.layers", names), **block("text_model.layers", names)}
    found = suggest_rules(checkpoint, model)
    assert found.mapping["visual.blocks.1.attn.q.weight"] == "vision_model.layers.1.attn.q.weight"
    assert found.complete


@pytest.mark.parametrize("name", ["llava", "rt_detr", "yolos"])
def test_what_fits_is_left_alone(name: str) -> None:
    model = shapes(CORPUS[name]["model"])
    found = suggest_rules(model, model)
    assert (found.rules, dict(found.mapping), found.already, found.complete) == ((), {}, len(model), True)


def test_permuted_layers_are_not_repaired() -> None:
    model = {f"layers.{layer}.weight": (8 * (layer + 1), 8) for layer in range(3)}
    checkpoint = {f"layers.{2 - layer}.weight": (8 * (layer + 1), 8) for layer in range(3)}
    assert suggest_rules(checkpoint, model).mapping == {}


def test_a_new_parameter_is_not_fed_an_old_one_of_its_shape() -> None:
    checkpoint = {f"layers.{layer}.attn.rotary.inv_freq": (64,) for layer in range(3)}
    model = {f"layers.{layer}.attn.q_norm.weight": (64,) for layer in range(3)}
    assert suggest_rules(checkpoint, model).mapping == {}
    assert suggest_rules(checkpoint, model, include_likely=True).mapping == {}


def test_optimizer_state_is_no_model() -> None:
    model = block("layers", ("q", "k", "v"))
    checkpoint = {f"state.{number}.exp_avg": shape for number, shape in enumerate(model.values())}
    found = suggest_rules(checkpoint, model)
    assert found.mapping == {}
    assert "optimizer" in found.looks_like


def test_numbering_from_one_is_shifted() -> None:
    checkpoint = {
        re.sub(r"h\.(\d)", lambda m: f"layer.{int(m[1]) + 1}", k): s for k, s in block("h", ("q", "k", "v")).items()
    }
    model = block("layers", ("q", "k", "v"))
    found = suggest_rules(checkpoint, model)
    assert found.complete
    assert found.mapping["layer.1.attn.q.weight"] == "layers.0.attn.q.weight"
    assert str(found.rules[0]) == "layer.{i}.{*} -> layers.{i-1}.{*}"


def test_a_changed_head_is_told_apart() -> None:
    case = PAIRS["lightning_resnet18_10"]
    found = suggest_rules(shapes(case["ckpt"]), shapes(case["model"]))
    assert found.head is not None
    assert found.head.mismatched["net.backbone.fc.weight"] == ("fc.weight", (1000, 512), (10, 512))
    assert "1000 → 10" in found.head.sentence
    assert [str(rule) for rule in found.rules] == ["net.backbone.{*} -> {*}"]


def test_a_plain_matrix_and_a_linear_are_not_confused() -> None:
    """GPT-2's Conv1D: the square matrix has the right shape and the wrong orientation."""
    case = PAIRS["nanogpt__hf"]
    checkpoint, model = shapes(case["ckpt"]), shapes(case["model"])
    found = suggest_rules(checkpoint, model)
    assert found.complete
    flipped = {key for finding in found.operations for key in _sources(finding.rule, checkpoint)}
    assert "_orig_mod.transformer.h.0.attn.c_proj.weight" in flipped
    assert {finding.rule.operation for finding in found.operations} == {"transpose"}


@pytest.mark.parametrize("include_likely", [False, True])
@pytest.mark.parametrize("name", ["meta_llama7__hf", "meta_llama__hf", "hf__meta_llama", "open_clip__hf"])
def test_what_a_doubt_forbids_is_refused_with_the_reason_at_every_level(name: str, include_likely: bool) -> None:
    case = PAIRS[name]
    checkpoint, model = shapes(case["ckpt"]), shapes(case["model"])
    found = suggest_rules(checkpoint, model, include_likely=include_likely)
    doubted = [item for item in found.ambiguous if "permutation" in item.sentence or "other side" in item.sentence]
    assert doubted
    renamed = apply_rules(found.rules, checkpoint).mapping
    for item in doubted:
        assert all(renamed[key] not in model for key in item.keys)


def test_a_likely_rule_moves_nothing_that_a_doubt_forbids() -> None:
    """A pattern learnt from likely pairs would cover the rotary ones, too."""
    case = PAIRS["meta_llama7__hf"]
    checkpoint = {f"net.{key}": shape for key, shape in shapes(case["ckpt"]).items()}
    model = {f"body.{key}": shape for key, shape in shapes(case["model"]).items()}
    found = suggest_rules(checkpoint, model, include_likely=True)
    renamed = apply_rules(found.rules, checkpoint).mapping
    assert not any("q_proj" in renamed[key] or "k_proj" in renamed[key] for key in checkpoint if "attention.w" in key)


def test_a_refusal_says_of_the_names_what_is_so() -> None:
    found = suggest_rules(shapes(PAIRS["tv_vit__timm"]["ckpt"]), shapes(PAIRS["tv_vit__timm"]["model"]))
    said = {item.template: item.sentence for item in found.ambiguous}
    assert "both speak of proj is too little" in said["conv_proj.weight"]
    found = suggest_rules(shapes(PAIRS["tv_swin__timm"]["ckpt"]), shapes(PAIRS["tv_swin__timm"]["model"]))
    said = {item.template: item.sentence for item in found.ambiguous}
    assert "nothing in the names says so" in said["features.0.0.weight"]


@pytest.mark.parametrize(
    ("name", "operation"),
    [("kolibri1", "stack"), ("nomic_bert", "split"), ("exaone_moe", "concat")],
)
def test_operations_are_recognised_and_make_what_the_model_lacks(name: str, operation: str) -> None:
    case = CORPUS[name]
    checkpoint, model = shapes(case["ckpt"]), shapes(case["model"])
    found = suggest_rules(checkpoint, model)
    assert operation in {finding.rule.operation for finding in found.operations}
    plan = plan_operations([finding.rule for finding in found.operations], checkpoint)
    used = {source for step in plan for source in step.sources}
    made = {
        key: shape for step in plan for key, shape in zip(step.targets, step.shapes, strict=True) if key not in used
    }
    assert made
    assert all(model[key] == shape for key, shape in made.items())


def test_likely_rules_come_on_request_and_marked() -> None:
    case = PAIRS["tv_resnet18__hf"]
    checkpoint, model = shapes(case["ckpt"]), shapes(case["model"])
    assert {rule.confidence for rule in suggest_rules(checkpoint, model).rules} == {"certain"}
    found = suggest_rules(checkpoint, model, include_likely=True)
    assert {rule.confidence for rule in found.rules} == {"certain", "likely"}
    assert not any("embedder" in new for new in found.mapping.values())
    renamed = apply_rules(found.rules, checkpoint).mapping
    assert renamed["conv1.weight"] == "resnet.embedder.embedder.convolution.weight"


@pytest.mark.parametrize(
    ("keys", "family"),
    [
        (["features.0.weight", "features.3.weight", "classifier.0.weight"], ""),
        (["features.0.weight", "features.3.squeeze.weight", "features.10.squeeze.weight", "classifier.1.weight"], ""),
        (["features.0.weight", "features.10.weight", "classifier.1.weight", "classifier.6.weight"], "VGG or AlexNet"),
        (
            [
                "swinViT.patch_embed.proj.weight",
                "swinViT.layers1.0.blocks.0.attn.qkv.weight",
                "encoder1.layer.conv1.conv.weight",
            ],
            "",
        ),
        (["m.patch_embed.proj.weight", "m.pos_embed", "m.blocks.0.attn.qkv.weight", "m.head.bias"], "a timm Vision"),
        (["model.0.conv.unit0.conv.weight", "model.1.submodule.0.conv.weight"], ""),
        (["transformer.h.0.self_attention.query_key_value.weight"], ""),
        (["decode_head.linear_fuse.weight", "decode_head.classifier.weight"], ""),
        (["transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.w1.weight"], ""),
    ],
)
def test_a_family_is_named_only_where_it_is_proved(keys: list[str], family: str) -> None:
    said = looks_like(keys)
    assert family in said if family else not said


@pytest.mark.parametrize("keys", [{}, {"": (1,)}, {"a..b": (2,)}, {"\x00": (3,)}, {".".join("a" * 5000): (1,)}])
def test_odd_keys_are_survived(keys: Shapes) -> None:
    assert suggest_rules(keys, {"weight": (1,), "x.y": (2,)}).mapping == {}
    assert suggest_rules({"weight": (1,)}, keys).mapping == {}


@st.composite
def networks(draw: st.DrawFn) -> tuple[Shapes, dict[str, str]]:
    """A random tree with repeated blocks, and every key under other names: wrapped, re-nested, some words replaced."""
    words = ["attn", "mlp", "norm1", "norm2", "conv", "proj", "embed", "head", "gate", "query", "fc1", "fc2", "alpha"]
    parts = draw(st.lists(st.sampled_from(words), min_size=1, max_size=6, unique=True))
    sizes = {part: draw(st.sampled_from([(4, 4), (4,), (8, 4)])) for part in parts}
    stacks = draw(
        st.lists(st.sampled_from(["encoder", "decoder", "tower", "net"]), min_size=1, max_size=2, unique=True)
    )
    layers = draw(st.integers(1, 3))
    model: Shapes = {}
    for stack in stacks:
        for layer in range(layers):
            for part in parts:
                model[f"{stack}.layers.{layer}.{part}.weight"] = sizes[part]
    other = {
        word: draw(st.sampled_from([word, word, f"wrap.{word}", f"new_{word}", "zork_" + word[::-1]])) for word in words
    }
    other |= {word: draw(st.sampled_from([word, f"m.{word}", "x" + word[::-1]])) for word in ("layers", *stacks)}
    names = {key: ".".join(other.get(part, part) for part in key.split(".")) for key in model}
    return model, {new: old for old, new in names.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_the_inverse_of_a_random_renaming_is_found_or_refused(case: tuple[Shapes, dict[str, str]]) -> None:
    model, truth = case
    checkpoint = {new: model[old] for new, old in truth.items()}
    found = suggest_rules(checkpoint, model)
    assert {old: new for old, new in found.mapping.items() if truth[old] != new} == {}
    check_sound(found, checkpoint, model)


@pytest.mark.one_in(5)
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_partners_that_are_gone_are_not_replaced(seed: int) -> None:
    """Whole templates are missing on either side, under a prefix: what is left must not be paired with what is left."""
    chance = random.Random(seed)
    case = CORPUS[sorted(CORPUS)[seed]]
    kinds = sorted({re.sub(r"\d+", "#", key) for key in (*case["ckpt"], *case["model"])})
    gone = [{kind for kind in kinds if chance.random() < 0.2} for _ in range(2)]

    def kept(keys: Mapping[str, list[int]], without: set[str]) -> Shapes:
        return {key: shape for key, shape in shapes(keys).items() if re.sub(r"\d+", "#", key) not in without}

    checkpoint = {f"module.{key}": shape for key, shape in kept(case["ckpt"], gone[0]).items()}
    model = kept(case["model"], gone[1])
    found = suggest_rules(checkpoint, model)
    truth = {f"module.{old}": new for old, new in case["truth"].items()}
    assert {old: new for old, new in found.mapping.items() if truth.get(old) != new} == {}


@pytest.mark.parametrize("prefix", ["module", "encoder", "a.b", "odd{name}"])
def test_one_prefix_that_makes_both_sides_the_same_is_certain_however_small_the_model(prefix: str) -> None:
    model = {"conv.weight": (4, 3, 3, 3), "norm.weight": (4,), "head.weight": (10, 4)}
    wrapped = {f"{prefix}.{key}": shape for key, shape in model.items()}
    for checkpoint, wanted in ((wrapped, model), (model, wrapped)):
        found = suggest_rules(checkpoint, wanted)
        assert [rule.confidence for rule in found.rules] == ["certain"]
        assert dict(apply_rules(found.rules, checkpoint).mapping) == dict(zip(checkpoint, wanted, strict=True))
        assert found.complete


def test_a_prefix_that_is_one_of_two_towers_is_not_certain() -> None:
    tower = {"conv.weight": (4, 3), "norm.weight": (4,)}
    towers = {f"{name}.{key}": shape for name in ("teacher", "student") for key, shape in tower.items()}
    assert not [rule for rule in suggest_rules(tower, towers).rules if rule.confidence == "certain"]


SMALL = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "head.weight": (10, 8), "head.bias": (10,)}


def test_a_wrapped_model_with_another_head_is_certain_to_the_prefix() -> None:
    saved = {f"module.{key}": shape for key, shape in SMALL.items()}
    saved |= {"module.head.weight": (1000, 8), "module.head.bias": (1000,), "optimizer.step": (1,)}
    found = suggest_rules(saved, SMALL)
    assert [str(rule) for rule in found.rules] == ["module.{*} -> {*}"]
    assert found.rules[0].confidence == "certain"
    assert found.mapping == {"module.conv.weight": "conv.weight", "module.conv.bias": "conv.bias"}
    assert found.head is not None
    assert set(found.head.mismatched) == {"module.head.weight", "module.head.bias"}
    assert (found.unfilled, found.unused) == (2, 3)


@pytest.mark.parametrize("other", ["teacher", "student.ema"])
def test_of_two_copies_none_is_certain(other: str) -> None:
    saved = {f"student.{key}": shape for key, shape in SMALL.items()}
    saved |= {f"{other}.{key}": shape for key, shape in SMALL.items()}
    assert not [rule for rule in suggest_rules(saved, SMALL).rules if rule.confidence == "certain"]


def test_thousands_of_names_without_repetition_are_not_aligned() -> None:
    """Guessing among them would take the square of their number; they are refused as they are, in a moment."""
    checkpoint = {f"a.{i * 7919 % 10007}.b.{i * 104729 % 10009}.w": (4,) for i in range(9000)}
    model = {f"x.{i * 7919 % 10007}.y.{i * 104729 % 10009}.w": (4,) for i in range(9000)}
    found = suggest_rules(checkpoint, model)
    assert found.rules == ()
    assert found.unfilled == len(model)


def test_an_operation_for_some_of_a_kind_takes_none_that_fit() -> None:
    """One layer has a size of 1 more than the others, which are as the model's."""
    model = {f"blocks.{number}.scale": (4,) for number in range(3)} | {"fc.weight": (3, 4)}
    checkpoint = {**model, "blocks.1.scale": (1, 4)}
    found = suggest_rules(checkpoint, model)
    assert [str(finding.rule) for finding in found.operations] == ["squeeze(0): blocks.1.scale -> blocks.1.scale"]
    assert plan_operations([finding.rule for finding in found.operations], checkpoint)


@pytest.mark.parametrize("model", [{}, {"": (4,)}, {"a": (4,)}])
@pytest.mark.parametrize("checkpoint", [{}, {"": (4,)}, {"module.": (4,)}])
def test_no_names_are_survived(checkpoint: Shapes, model: Shapes) -> None:
    assert not suggest_rules(checkpoint, model).rules
