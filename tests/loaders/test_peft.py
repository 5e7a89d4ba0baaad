"""PEFT adapters on tiny bases: what the real call does, what an adapter reaches, and the words on it."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.errors import CkptdiffError
from ckptdiff.render import render_report
from ckptdiff.render.view import View

pytestmark = [pytest.mark.zoo, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
peft = pytest.importorskip("peft")
pytest.importorskip("transformers", minversion="5")

from tests.zoo import adapters  # noqa: E402 - it needs them

SAMPLE = ("as saved", "key dropped", "key added", "shape changed", "kohya", "wider base", "on meta")


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """An adapter of a model that has a class, and one of a model that is none of a library's."""
    folder = tmp_path_factory.mktemp("peft")
    for base in ("llama", "perceptron"):
        _, targets, task, _ = adapters.BASES[base]
        assert adapters.saved(folder / base, base, peft.LoraConfig(target_modules=targets, task_type=task))
    return folder


@pytest.mark.parametrize("kind", ["LORA", "PREFIX_TUNING"])
@pytest.mark.parametrize("base", ["llama", "perceptron"])
def test_a_sample_of_tuners_and_situations(kind, base, tmp_path):
    cases = dict(
        adapters.tried(tmp_path, (base,), SAMPLE[:1] if kind != "LORA" or base != "perceptron" else SAMPLE, (kind,))
    )
    assert {case: found for case, found in cases.items() if found} == {}
    assert cases or (kind, base) == ("PREFIX_TUNING", "perceptron")


@pytest.mark.parametrize(
    "place",
    ["peft.PeftModel.load_adapter", "peft.utils.get_peft_model_state_dict", "peft.tuners.tuners_utils.BaseTunerLayer"],
)
def test_a_release_that_has_it_elsewhere_is_no_answer(place, lora, monkeypatch):
    monkeypatch.delattr(place)
    with pytest.raises(CkptdiffError, match="keeps what it says of a load elsewhere"):
        ckptdiff.compare(adapters.llama(), lora / "llama")


def test_what_peft_misses_it_says_so_of_though_the_modules_share_it(tmp_path):
    """RandLoRA has one tensor under the names of all modules, and warns of the one that the file lacks."""
    cases = dict(adapters.tried(tmp_path, ("llama",), ("key dropped",), ("RANDLORA",)))
    assert {case: found for case, found in cases.items() if found} == {}
    assert len(cases) == 2


def test_a_healthy_adapter_is_complete_though_it_has_none_of_the_bases_keys(lora):
    report = ckptdiff.compare(adapters.llama(), lora / "llama")
    assert report.loader.name == "peft", "recognised by its directory"
    assert report.complete
    assert report.verdict == "pass"
    assert report.loader.call == "PeftModel.from_pretrained(model, path)"
    assert report.coverage.keys == report.coverage.total_keys == 8
    assert report.outcome.remarks == ("The adapter touches 4 of 4 modules (q_proj, v_proj), rank 8.",)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert report.outcome.filled[key].sources == (("adapter_model.safetensors", key.replace(".default", "")),)
    assert report.outcome.filled["base_model.model.lm_head.weight"].by == "base"
    assert "bare load_state_dict" not in render_report("text", report, View())


def test_a_base_by_its_directory(lora, tmp_path):
    adapters.llama().save_pretrained(tmp_path / "base")
    assert ckptdiff.compare(f"hf:{tmp_path / 'base'}", lora / "llama").complete
    shutil.copytree(lora / "llama", tmp_path / "adapter")
    config = adapters.config_of(tmp_path / "adapter") | {"base_model_name_or_path": str(tmp_path / "base")}
    adapters.write_config(tmp_path / "adapter", config)
    assert ckptdiff.compare(None, tmp_path / "adapter").complete, "and by the name that the adapter has for it"


def test_an_adapter_that_touches_nothing_is_an_error(lora, tmp_path):
    path, _ = adapters.placed(lora / "perceptron", "kohya")
    report = ckptdiff.compare(adapters.Perceptron(), path, loader="peft")
    assert not report.complete
    assert report.verdict == "fail"
    assert report.raises is None
    finding = next(finding for finding in report.findings if finding.rule == "load-error")
    assert finding.arguments["text"] == "This adapter touches 0 of 2 modules."
    assert "kohya" in report.outcome.remarks[1]
    assert "pipeline.load_lora_weights(FILE)" in report.outcome.remarks[1]
    assert "This adapter touches 0 of 2 modules." in render_report("text", report, View())


def test_other_names_for_the_model_are_an_error_in_pefts_own_words(lora):
    report = ckptdiff.compare(nn.Sequential(nn.Linear(4, 4)), lora / "perceptron")
    assert report.raises is not None
    assert "not found in the base model" in report.raises


def test_a_file_of_weights_alone_is_told_by_its_names(lora, tmp_path):
    path, _ = adapters.placed(lora / "perceptron", "kohya")
    with pytest.raises(CkptdiffError, match="with the names of kohya"):
        ckptdiff.compare(adapters.Perceptron(), path / "adapter_model.safetensors", loader="peft")
    with pytest.raises(CkptdiffError, match=r"has no adapter_config\.json"):
        ckptdiff.compare(adapters.Perceptron(), tmp_path, loader="peft")


def test_a_vocabulary_that_was_resized_is_named_with_what_to_do(tmp_path):
    torch.manual_seed(0)
    base = adapters.llama(vocabulary=48)
    base.resize_token_embeddings(52, mean_resizing=False)
    config = peft.LoraConfig(target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    report = ckptdiff.compare(adapters.llama(vocabulary=48), tmp_path / "adapter")
    assert report.raises is not None
    assert "size mismatch for base_model.model.model.embed_tokens" in report.raises
    assert any("call model.resize_token_embeddings(52)" in remark for remark in report.outcome.remarks)
    resized = adapters.llama(vocabulary=48)
    resized.resize_token_embeddings(52, mean_resizing=False)
    assert ckptdiff.compare(resized, tmp_path / "adapter").complete


def test_modules_to_save_that_are_not_there_are_a_key_error(tmp_path):
    _, targets, _, to_save = adapters.BASES["perceptron"]
    assert adapters.saved(
        tmp_path / "a", "perceptron", peft.LoraConfig(target_modules=targets, modules_to_save=to_save)
    )
    assert ckptdiff.compare(adapters.Perceptron(), tmp_path / "a").complete
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    del tensors["base_model.model.head.bias"]
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    report = ckptdiff.compare(adapters.Perceptron(), tmp_path / "a")
    assert report.raises == "KeyError: 'base_model.model.head.bias'"


TUNERS = {
    "LoRA and a head": lambda: peft.LoraConfig(target_modules="all-linear", modules_to_save=["lm_head"]),
    "DoRA, embedding": lambda: peft.LoraConfig(target_modules=["q_proj", "embed_tokens"], use_dora=True),
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
}


@pytest.mark.parametrize("name", TUNERS)
def test_a_snapshot_of_the_base_is_answered_as_the_base_itself(name, tmp_path):
    from safetensors.torch import load_file, save_file

    config = TUNERS[name]()
    config.task_type = "CAUSAL_LM"
    peft.get_peft_model(adapters.llama(), config).save_pretrained(tmp_path / "adapter")
    adapters.llama().save_pretrained(tmp_path / "base")
    snapshot = tmp_path / "base.ckptdiff.json"
    snapshot.write_text(ckptdiff.snapshot(f"hf:{tmp_path / 'base'}"))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(weights)
    first = sorted(state)[0]
    shape = torch.zeros([extent + 1 for extent in state[first].shape])
    for change in (state, {key: state[key] for key in state if key != first}, {**state, first: shape}):
        save_file(change, weights, metadata={"format": "pt"})
        itself = ckptdiff.compare(f"hf:{tmp_path / 'base'}", tmp_path / "adapter")
        told = ckptdiff.compare(snapshot, tmp_path / "adapter")
        assert told.loader == itself.loader
        assert told.raises == itself.raises
        assert (told.complete, told.missing_keys) == (itself.complete, itself.missing_keys)
        assert told.outcome.remarks == itself.outcome.remarks
        mine, its = (
            {key: (item.by, item.sources) for key, item in one.outcome.filled.items()} for one in (told, itself)
        )
        assert mine == its


def test_what_no_snapshot_can_tell_is_no_answer(tmp_path):
    adapters.llama().save_pretrained(tmp_path / "base")
    (tmp_path / "base.ckptdiff.json").write_text(ckptdiff.snapshot(f"hf:{tmp_path / 'base'}"))
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(adapters.llama(), config).save_pretrained(tmp_path / "prefix")
    with pytest.raises(CkptdiffError, match="goes by the base model's configuration, which no snapshot holds"):
        ckptdiff.compare(tmp_path / "base.ckptdiff.json", tmp_path / "prefix")

    class Linear(nn.Linear):
        """PEFT takes it for what it is, and a snapshot has its name alone."""

    net = nn.Sequential(Linear(4, 4))
    peft.get_peft_model(net, peft.LoraConfig(target_modules=["0"])).save_pretrained(tmp_path / "own")
    (tmp_path / "own.ckptdiff.json").write_text(ckptdiff.snapshot(nn.Sequential(Linear(4, 4))))
    assert ckptdiff.compare(nn.Sequential(Linear(4, 4)), tmp_path / "own").complete
    with pytest.raises(CkptdiffError, match="known by a snapshot alone, PEFT cannot tell"):
        ckptdiff.compare(tmp_path / "own.ckptdiff.json", tmp_path / "own")


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "embed_tokens"]])
def test_an_adapters_keys_are_suggested_where_peft_puts_them(targets, tmp_path):
    """The trained head goes into its copy, not into the original; embeddings of the base may lie beside."""
    import transformers
    from safetensors.torch import load_file

    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50, num_labels=3
    )

    def made():
        torch.manual_seed(1)
        adapter = peft.LoraConfig(task_type="SEQ_CLS", target_modules=targets, r=4)
        return peft.get_peft_model(transformers.LlamaForSequenceClassification(config), adapter)

    trained = made()
    for parameter in trained.parameters():
        parameter.data.normal_()
    trained.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    ours, real = made(), made()
    found = ckptdiff.suggest(ours, file)
    assert (found.unused, found.ambiguous) == (0, ())
    found.save(tmp_path / "a.rules.toml")
    ckptdiff.rewrite(file, tmp_path / "renamed.safetensors", rules=tmp_path / "a.rules.toml")
    assert not ours.load_state_dict(load_file(tmp_path / "renamed.safetensors"), strict=False).unexpected_keys
    peft.set_peft_model_state_dict(real, load_file(file))
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in real.state_dict().items())


def test_prompts_are_taken_though_the_load_lists_them_as_unexpected(tmp_path):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(adapters.llama(), config).save_pretrained(tmp_path)
    report = ckptdiff.compare(adapters.llama(), tmp_path)
    assert report.complete
    assert report.unexpected_keys == ["prompt_embeddings"], "which the library's own list says"
    assert {finding.rule for finding in report.findings} == {"converted"}
    assert report.outcome.unused == {}


def test_adapters_that_lie_deeper_are_named(lora):
    with pytest.raises(CkptdiffError, match="Of those inside, name one: llama, perceptron"):
        ckptdiff.compare(adapters.llama(), lora, loader="peft")


def test_an_adapter_of_other_names_is_mended_where_peft_reads_it(tmp_path):
    from safetensors.torch import load_file, save_file

    adapted = peft.get_peft_model(adapters.llama(), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    state = load_file(file)
    save_file({key.removeprefix("base_model."): value for key, value in state.items()}, file)
    found = ckptdiff.suggest(adapters.llama(), tmp_path, loader="peft")
    assert found.complete
    fixed = ckptdiff.fix(adapters.llama(), tmp_path, tmp_path / "new.safetensors", loader="peft")
    assert (fixed.whole, fixed.stays) == (True, ())
    (tmp_path / "new.safetensors").replace(file)
    loaded = peft.PeftModel.from_pretrained(adapters.llama(), tmp_path)
    kept = adapted.state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in loaded.state_dict().items() if "lora_" in key)
