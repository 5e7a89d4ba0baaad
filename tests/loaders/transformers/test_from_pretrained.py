"""`from_pretrained` on tiny models of a few kinds: its lists, what fills what, and the words on it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptdiff
from ckptdiff.errors import CkptdiffError

transformers = pytest.importorskip("transformers", minversion="5")

pytestmark = pytest.mark.zoo


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def changed(bert, tmp_path):
    """Write the directory anew with another state dict."""

    def write(change, name="model.safetensors"):
        state = change(load_file(bert / "model.safetensors"))
        (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
        if name.endswith(".bin"):
            torch.save(state, tmp_path / name)
        else:
            save_file(state, tmp_path / name, metadata={"format": "pt"})
        return tmp_path

    return write


def test_its_own_directory_is_complete(bert):
    report = ckptdiff.compare(f"hf:{bert}")
    assert report.complete
    assert report.verdict == "pass"
    assert (report.loader.name, report.loader.version) == ("transformers", transformers.__version__)
    assert report.loader.call == "BertForMaskedLM.from_pretrained"
    assert (report.missing_keys, report.unexpected_keys, report.mismatched_keys, report.raises) == ([], [], [], None)
    assert report.outcome.filled["cls.predictions.decoder.weight"].by == "tie"
    assert dict(report.outcome.machine.libraries)["transformers"] == transformers.__version__
    assert report.bare is not None
    assert len(report.bare.problem_keys("missing")) == 2


def test_the_lists_are_those_of_the_library(changed, bert):
    def change(state):
        state["bert.embeddings.LayerNorm.gamma"] = state.pop("bert.embeddings.LayerNorm.weight")
        del state["bert.encoder.layer.0.output.dense.bias"]
        state["more.weight"] = torch.zeros(3)
        return state

    folder = changed(change)
    report = ckptdiff.compare(f"hf:{folder}")
    _, info = transformers.BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert report.missing_keys == sorted(info["missing_keys"]) == ["bert.encoder.layer.0.output.dense.bias"]
    assert report.unexpected_keys == sorted(info["unexpected_keys"]) == ["more.weight"]
    renamed = (("bert.embeddings.LayerNorm.gamma",), ("bert.embeddings.LayerNorm.weight",), "rename")
    assert renamed in report.conversions
    assert {(finding.rule, finding.key) for finding in report.findings if finding.level != "note"} == {
        ("initial-value", "bert.encoder.layer.0.output.dense.bias"),
        ("ignored-key", "more.weight"),
    }
    assert report.raises is None
    assert not report.complete


@pytest.mark.slow
def test_another_shape_raises_unless_it_is_ignored(changed):
    def change(state):
        state["bert.embeddings.word_embeddings.weight"] = torch.zeros(40, 16)
        return state

    folder = changed(change)
    report = ckptdiff.compare(f"hf:{folder}")
    with pytest.raises(RuntimeError) as real:
        transformers.BertForMaskedLM.from_pretrained(folder)
    assert report.raises == f"RuntimeError: {real.value}"
    assert ("bert.embeddings.word_embeddings.weight", (40, 16), (50, 16)) in report.mismatched_keys
    report = ckptdiff.compare(f"hf:{folder}", loader_args={"ignore_mismatched_sizes": True})
    assert report.raises is None
    assert report.outcome.filled["bert.embeddings.word_embeddings.weight"].by == "initial"
    assert report.verdict == "fail"


def test_a_class_that_is_chosen(bert):
    report = ckptdiff.compare(f"hf:{bert}", loader_args={"auto_class": "AutoModelForSequenceClassification"})
    assert "classifier.weight" in report.missing_keys
    with pytest.raises(CkptdiffError, match="no such class"):
        ckptdiff.compare(f"hf:{bert}", loader_args={"auto_class": "AutoModelForNothing"})


def test_torch_is_asked_by_name_and_by_its_own_options(bert):
    file = bert / "model.safetensors"
    for options in ({"loader": "torch"}, {"assign": True}):
        report = ckptdiff.compare(f"hf:{bert}", file, **options)
        assert report.loader.name == "torch"
        assert len(report.missing_keys) == 2
    assert ckptdiff.compare(f"hf:{bert}", file).complete
