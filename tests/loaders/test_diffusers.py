"""diffusers: models, pipelines and their components, and single files; each beside the real call."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptdiff
from ckptdiff.errors import CkptdiffError

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]
diffusers = pytest.importorskip("diffusers")

from tests.zoo import diffusion  # noqa: E402 - it needs it

WEIGHTS = diffusion.FILE


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vq = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=4, latent_channels=3)
    diffusers.LDMPipeline(vq, unet, diffusers.DDIMScheduler()).save_pretrained(folder / "pipe")
    return folder / "pipe"


@pytest.fixture
def changed(pipeline, tmp_path):
    """The pipeline with another state dict of its unet."""

    def write(change):
        shutil.copytree(pipeline, tmp_path / "pipe")
        file = tmp_path / "pipe" / "unet" / WEIGHTS
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
        return tmp_path / "pipe"

    return write


@pytest.mark.slow
def test_a_sample_of_models_and_situations(tmp_path):
    situations = ("key dropped", "old attention", "single file")
    cases = dict(diffusion.tried(tmp_path, ("AutoencoderKL",), situations))
    assert {case: found for case, found in cases.items() if found} == {}
    assert len(cases) == len(situations)


@pytest.mark.parametrize(
    ("name", "case", "kind", "shape"),
    [
        ("BriaFibo2Transformer2DModel", "key dropped, not on meta", "missing", (1, 0)),
        ("MMAudioVocoder", "shape ignored", "mismatched", (0, 0, 4)),
    ],
)
def test_a_tensor_without_elements_that_is_not_taken_is_not_filled(name, case, kind, shape, tmp_path):
    """Their small configurations have a layer of no width, of which a key is the one that is changed."""
    ((_, found),) = diffusion.tried(tmp_path, (name,), (case,))
    path, _ = diffusion.placed(tmp_path / "model", case)
    outcome = ckptdiff.compare(None, path, loader="diffusers", loader_args=diffusion.SITUATIONS[case][1]).outcome
    (key,) = outcome.problem_keys(kind)
    assert (found, outcome.filled[key].by, outcome.filled[key].slot.tensor.shape) == ([], "initial", shape)


def test_a_pipeline_is_one_answer_with_a_line_on_each_component(pipeline):
    report = ckptdiff.compare(None, pipeline)
    assert report.loader.name == "diffusers"
    assert report.complete
    assert report.verdict == "pass"
    assert report.loader.call == "DiffusionPipeline.from_pretrained(path)"
    assert ckptdiff.compare(pipeline).outcome == report.outcome, "as on the command line"
    assert len(report.outcome.remarks) == 2
    assert (report.findings, report.conversions) == ((), []), "what has its component's name before it is no rename"
    assert "model       diffusers.LDMPipeline, LDMPipeline" in str(report)
    assert any(remark.startswith("unet (UNet2DModel): all ") for remark in report.outcome.remarks)
    ((file, key),) = report.outcome.filled["vqvae.encoder.conv_in.weight"].sources
    assert key == "encoder.conv_in.weight"
    assert file.endswith("diffusion_pytorch_model.safetensors")  # with its folder, where another one came before it


def test_a_pipeline_is_a_target_of_a_gate_as_it_stands(pipeline, tmp_path):
    config = tmp_path / "ckptdiff.toml"
    config.write_text(f'[[targets]]\nname = "pipe"\ncheckpoint = "{pipeline}"\n')
    (target,) = ckptdiff.check(config).targets
    assert target.outcome == "pass"
    assert target.report.loader.name == "diffusers"


def test_what_a_component_lacks_stays_on_meta(changed):
    path = changed(lambda tensors: (tensors.pop("conv_in.bias"), tensors.update(more=torch.ones(2))))
    report = ckptdiff.compare(None, path)
    assert report.raises is None
    assert report.missing_keys == ["unet.conv_in.bias"]
    assert report.unexpected_keys == ["unet.more"]
    assert report.outcome.filled["unet.conv_in.bias"].by == "meta"
    assert report.outcome.unused == {"unet.more": "ignored"}
    assert not report.complete
    assert diffusers.DiffusionPipeline.from_pretrained(path).unet.conv_in.bias.is_meta
    alone = ckptdiff.compare(None, path, loader="diffusers", loader_args={"component": "vqvae"})
    assert alone.complete
    assert alone.loader.call == "VQModel.from_pretrained('vqvae')"


def test_another_shape_raises_as_the_pipeline_does(changed):
    path = changed(lambda tensors: tensors.update({"conv_in.bias": torch.ones(3)}))
    report = ckptdiff.compare(None, path)
    with pytest.raises(ValueError, match=r"conv_in\.bias") as raised:
        diffusers.DiffusionPipeline.from_pretrained(path)
    assert report.raises == f"ValueError: {raised.value}"
    assert report.mismatched_keys == [("unet.conv_in.bias", (3,), (8,))]


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("", {"component": "scheduler"}, "no model"),
        ("", {"component": "vae"}, "no such component"),
        ("unet", {"component": "unet"}, "is for a pipeline"),
        ("unet", {"class": "Nothing"}, "has no class Nothing"),
        ("unet", {"torch_dtype": "nothing"}, "no such dtype"),
        (f"unet/{WEIGHTS}", {}, "the class that a single file is for"),
        (f"unet/{WEIGHTS}", {"class": "AutoencoderKL"}, "does not say how its model is configured"),
        ("scheduler", {}, "nothing that diffusers saved"),
    ],
)
def test_what_cannot_be_asked_is_said(path, options, said, pipeline):
    with pytest.raises(CkptdiffError, match=said):
        ckptdiff.compare(None, pipeline / path, loader="diffusers", loader_args=options)


def test_a_directory_that_does_not_name_its_class(pipeline, tmp_path):
    config = json.loads((pipeline / "unet" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": None}))
    with pytest.raises(CkptdiffError, match=r"the class that its config\.json does not name"):
        ckptdiff.compare(None, tmp_path, loader="diffusers")


def test_a_release_that_keeps_its_lists_elsewhere_is_no_answer(pipeline, monkeypatch):
    monkeypatch.setattr("ckptdiff.loaders.diffusers._LOADS", "_load_in_another_way")
    with pytest.raises(CkptdiffError, match="keeps what it says of a load elsewhere"):
        ckptdiff.compare(None, pipeline)
