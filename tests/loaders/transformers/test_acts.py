"""What other commands do with the loader, and what becomes of it where its library is absent or has changed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.errors import CkptdiffError

transformers = pytest.importorskip("transformers", minversion="5")

pytestmark = pytest.mark.zoo


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    config = transformers.MixtralConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=24,
        vocab_size=40, num_local_experts=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("mixtral")
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(folder)
    return model, folder


def test_conversions_with_their_sources_and_operations(mixtral):
    _, folder = mixtral
    report = ckptdiff.compare(f"hf:{folder}")
    assert report.complete
    made = {targets: (sources, operation) for sources, targets, operation in report.conversions}
    sources, operation = made["model.layers.0.mlp.experts.gate_up_proj",]
    experts = "model.layers.0.block_sparse_moe.experts"
    assert sources == tuple(f"{experts}.{number}.{name}.weight" for number in (0, 1) for name in ("w1", "w3"))
    assert operation == "stack, concat"
    told = {finding.key: finding.arguments.get("change") for finding in report.findings if finding.rule == "converted"}
    assert told["model.layers.0.mlp.experts.down_proj"] == "stack of block_sparse_moe.experts.*.w2.weight (x2)"


def test_what_cannot_be_converted(mixtral, tmp_path):
    _, folder = mixtral
    state = load_file(folder / "model.safetensors")
    name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    save_file({**state, name: torch.zeros(3, 3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    report = ckptdiff.compare(f"hf:{tmp_path}")
    with pytest.raises(RuntimeError) as real:
        transformers.MixtralForCausalLM.from_pretrained(tmp_path)
    assert report.raises == f"RuntimeError: {real.value}"
    assert "conversion-error" in {finding.rule for finding in report.findings}


@pytest.mark.slow
def test_the_values_that_it_leaves(mixtral, tmp_path):
    model, folder = mixtral
    live = transformers.MixtralForCausalLM(model.config)
    assert ckptdiff.load(live, folder, loader="transformers", strict=True).complete
    ckptdiff.convert(f"hf:{folder}", folder, tmp_path / "new.safetensors")
    converted = load_file(tmp_path / "new.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(live.state_dict()[key], value), key
        assert torch.equal(converted[key], value), key


def test_filter_writes_what_from_pretrained_loads(llama, tmp_path):
    state = load_file(llama / "model.safetensors")
    state["lm_head.weight"], state["more"] = torch.zeros(51, 16), torch.zeros(2)
    save_file(state, tmp_path / "wrong.safetensors")
    model = transformers.LlamaForCausalLM.from_pretrained(llama)
    (tmp_path / "fits").mkdir()
    out = tmp_path / "fits" / "model.safetensors"
    ckptdiff.filter(model, tmp_path / "wrong.safetensors", out, loader="transformers")
    (tmp_path / "fits" / "config.json").write_bytes((llama / "config.json").read_bytes())
    _, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "fits", output_loading_info=True)
    assert (set(info["missing_keys"]), set(info["unexpected_keys"])) == ({"lm_head.weight"}, set())


def test_a_snapshot_of_what_it_leaves_stands_for_its_directory(llama, tmp_path):
    assert main(["snapshot", f"hf:{llama}", "--loader", "transformers", "-o", str(tmp_path / "s.json")]) == 0
    assert ckptdiff.snapshot(f"hf:{llama}", loader="transformers") == (tmp_path / "s.json").read_text()
    with pytest.raises(CkptdiffError, match="describes a model") as refused:
        ckptdiff.compare(tmp_path / "s.json", llama, loader="transformers")
    assert "hf:DIRECTORY" in refused.value.hint


def test_a_target_of_a_gate(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckptdiff.toml").write_text(
        f'[[targets]]\nname = "itself"\nmodel = "hf:{llama}"\n'
        f'[[targets]]\nname = "head"\nmodel = "hf:{llama}"\n'
        'loader = "transformers"\nloader_args = { auto_class = "AutoModelForSequenceClassification" }\n'
    )
    itself, head = ckptdiff.check().targets
    assert itself.outcome == "pass"
    assert head.report.missing_keys == ["score.weight"]
    assert head.outcome == "fail"


def test_on_the_command_line(llama, capfd):
    assert main(["compare", f"hf:{llama}"]) == 0
    version = transformers.__version__
    out = capfd.readouterr()[0]
    assert f"Complete, as transformers {version}'s LlamaForCausalLM.from_pretrained would load it." in out
    chosen = ["--loader-arg", "auto_class=AutoModelForSequenceClassification", "--format", "json"]
    assert main(["compare", f"hf:{llama}", *chosen]) == 1
    told = json.loads(capfd.readouterr()[0])
    assert told["loader"] == {
        "name": "transformers",
        "version": version,
        "call": "AutoModelForSequenceClassification.from_pretrained",
    }
    assert (told["missing_keys"], told["unexpected_keys"], told["complete"]) == (
        ["score.weight"],
        ["lm_head.weight"],
        False,
    )
    assert main(["compare", f"hf:{llama}", "--loader", "transformer"]) == 2
    assert "there is no such loader" in capfd.readouterr()[1]


def test_a_library_that_is_absent(llama, monkeypatch):
    monkeypatch.setattr("ckptdiff.loaders.named_loaders.find_spec", lambda name: None)
    with pytest.raises(CkptdiffError, match="transformers is not installed") as error:
        ckptdiff.compare(f"hf:{llama}")
    assert "pip install 'ckptdiff[transformers]'" in error.value.hint


@pytest.mark.one_in(3)
@pytest.mark.parametrize("place", ["transformers.modeling_utils.log_state_dict_report", "lists"])
def test_a_release_that_has_it_elsewhere(place, llama, monkeypatch):
    """Fails loudly where transformers moves the place at which its lists are taken."""
    from transformers.utils import loading_report

    assert set(loading_report.LoadStateDictInfo.__annotations__) >= {
        "missing_keys", "unexpected_keys", "mismatched_keys", "conversion_errors", "error_msgs",
    }  # fmt: skip
    if place == "lists":
        monkeypatch.setattr("ckptdiff.loaders.transformers.load_report._LISTS", ("other_keys",))
    else:
        monkeypatch.delattr(place)
    with pytest.raises(CkptdiffError, match="keeps what it says of a load elsewhere"):
        ckptdiff.compare(f"hf:{llama}")


def test_copies_of_converters_are_what_transformers_copies():
    import copy

    from transformers import core_model_loading

    assert core_model_loading.deepcopy is copy.deepcopy, "or converters_reused does nothing"
