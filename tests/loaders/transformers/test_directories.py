"""What lies in a directory: other layouts, other configurations, adapters, code, and names of the hub's cache."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

import ckptdiff
from ckptdiff.errors import CkptdiffError

transformers = pytest.importorskip("transformers", minversion="5")

pytestmark = pytest.mark.zoo


@pytest.fixture
def copied(llama, tmp_path):
    """A copy of the directory, its configuration changed; None takes an entry out."""

    def copy(name="copy", **changes):
        folder = tmp_path / name
        shutil.copytree(llama, folder)
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if value is not None})
        )
        return folder

    return copy


def raised(owner, folder, **options):
    with pytest.raises(Exception) as error:  # noqa: PT011 - whichever it is
        getattr(transformers, owner).from_pretrained(folder, **options)
    return f"{error.type.__name__}: {error.value}"


@pytest.mark.one_in(4)
@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors"])
def test_a_library_of_quantisation_that_is_absent_is_its_own_sentence(method, copied):
    settings = {"quant_method": method, "bits": 4, "group_size": 16, "load_in_8bit": True, "config_groups": {}}
    folder = copied(quantization_config=settings)
    report = ckptdiff.compare(f"hf:{folder}")
    assert report.raises == raised("LlamaForCausalLM", folder)
    assert report.raises.startswith(("ImportError: ", "ValueError: ", "TypeError: "))
    assert f"model       hf:{folder}\n" in str(report), "there was none to say more of"
    assert report.verdict == "fail"


def test_without_architectures_it_is_the_base_model_unless_a_class_is_chosen(copied):
    folder = copied(architectures=None)
    report = ckptdiff.compare(f"hf:{folder}")
    assert report.loader.call == "AutoModel.from_pretrained"
    assert report.unexpected_keys == ["lm_head.weight"]
    assert ("ignored-key", "lm_head.weight") in {(finding.rule, finding.key) for finding in report.findings}
    assert report.complete
    assert report.verdict == "pass"
    chosen = ckptdiff.compare(f"hf:{folder}", loader_args={"auto_class": "AutoModelForCausalLM"})
    assert chosen.complete
    assert chosen.unexpected_keys == []


def test_an_architecture_that_there_is_not(copied):
    with pytest.raises(CkptdiffError, match="has no architecture `LlamaForNothing`"):
        ckptdiff.compare(f"hf:{copied(architectures=['LlamaForNothing'])}")


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    "changes", [{"architectures": {"a": 1}}, {"architectures": [3]}, {"architectures": "LlamaForCausalLM"}], ids=str
)
def test_architectures_that_are_no_list_of_names(changes, trust, copied):
    for remote in (None, {"AutoModel": "code.Net"}, "code.Net", {"AutoModel": 3}):
        folder = copied(f"{remote}", auto_map=remote, **changes)
        with pytest.raises(CkptdiffError, match="`architectures` is no list of names"):
            ckptdiff.compare(f"hf:{folder}", trust_remote_code=trust)


def test_an_auto_map_that_maps_nothing_is_none(copied):
    assert ckptdiff.compare(f"hf:{copied(auto_map='code.Net')}", trust_remote_code=True).complete


@pytest.mark.slow
def test_files_that_it_does_not_find(copied):
    folder = copied()
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    report = ckptdiff.compare(f"hf:{folder}")
    assert report.raises == raised("LlamaForCausalLM", folder)
    assert report.raises.startswith("OSError: Error no file named")
    assert ckptdiff.compare(f"hf:{folder}", folder / "weights.safetensors").complete, "handed over as a state dict"


def test_variants_and_subfolders(copied, llama, tmp_path):
    folder = copied()
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert ckptdiff.compare(f"hf:{folder}", loader_args={"variant": "fp16"}).complete
    assert ckptdiff.compare(f"hf:{folder}", folder / "model.fp16.safetensors").complete
    shutil.copytree(llama, tmp_path / "outer" / "inner")
    report = ckptdiff.compare(f"hf:{tmp_path / 'outer'}", loader_args={"subfolder": "inner"})
    assert report.complete
    assert report.verdict == "pass"
    assert len(report.outcome.checkpoint.entries) == len(report.outcome.filled)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_of_another_name_is_handed_over(nested, llama, tmp_path):
    state = load_file(llama / "model.safetensors")
    torch.save({"epoch": 3, "model": state} if nested else state, tmp_path / "run.pth")
    report = ckptdiff.compare(f"hf:{llama}", tmp_path / "run.pth")
    assert report.complete, report.raises


def test_a_name_of_the_hubs_cache(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--maker--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    shutil.copytree(llama, repository / "snapshots" / "abc")
    assert ckptdiff.compare("hf:maker/tiny").complete
    with pytest.raises(CkptdiffError, match="no such file or directory"):
        ckptdiff.compare("hf:maker/other")
    assert ckptdiff.compare("hf:maker/tiny", loader_args={"revision": "abc"}).complete
    with pytest.raises(CkptdiffError, match="The cache has no such state of it"):
        ckptdiff.compare("hf:maker/tiny", loader_args={"revision": "v2"})
    (repository / "refs" / "main").rename(repository / "refs" / "v1")
    with pytest.raises(CkptdiffError, match=r"another state: write hf:.*snapshots/abc"):
        ckptdiff.compare("hf:maker/tiny")


def test_code_beside_the_weights_runs_only_where_it_is_trusted(copied, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = copied(
        model_type="own",
        architectures=["OwnModel"],
        auto_map={"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"},
    )
    (folder / "modeling_own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(tmp_path / 'ran')!r}).write_text('')\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    with pytest.raises(CkptdiffError, match="does not run unless you trust it"):
        ckptdiff.compare(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()
    assert ckptdiff.compare(f"hf:{folder}", trust_remote_code=True).complete
    assert (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_model_that_is_there_and_one_of_the_users(llama, tmp_path):
    model = transformers.LlamaForCausalLM.from_pretrained(llama)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for path in (llama, llama / "model.safetensors"):
        report = ckptdiff.compare(model, path, loader="transformers")
        assert report.complete
        assert report.loader.call == "LlamaForCausalLM.from_pretrained"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    (tmp_path / "net.py").write_text(
        "import torch\nfrom transformers import PretrainedConfig, PreTrainedModel\n"
        "class Config(PretrainedConfig):\n    model_type = 'net'\n"
        "class Net(PreTrainedModel):\n    config_class = Config\n"
        "    def __init__(self, config):\n        super().__init__(config)\n"
        "        self.inner = torch.nn.Linear(4, 3)\n        self.post_init()\n"
        "def make():\n    return Net(Config())\n"
    )
    torch.save({"inner.weight": torch.ones(3, 4), "odd": torch.ones(1)}, tmp_path / "w.pth")
    report = ckptdiff.compare(f"{tmp_path}/net.py:make", tmp_path / "w.pth", loader="transformers")
    assert (report.missing_keys, report.unexpected_keys) == (["inner.bias"], ["odd"])
    with pytest.raises(CkptdiffError, match="Linear is none"):
        ckptdiff.compare(torch.nn.Linear(2, 2), tmp_path / "w.pth", loader="transformers")


@pytest.mark.slow
def test_arguments_that_nobody_takes(llama):
    with pytest.raises(CkptdiffError, match="unexpected keyword argument 'strict'"):
        ckptdiff.compare(f"hf:{llama}", loader_args={"strict": True})
    with pytest.raises(CkptdiffError, match="has no such entry"):
        ckptdiff.compare(f"hf:{llama}", args={"num_hidden_layer": 3})
    assert len(ckptdiff.compare(f"hf:{llama}", args={"num_hidden_layers": 2}).missing_keys) == 9
