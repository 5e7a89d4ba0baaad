"""Models of the libraries: built without memory they have the schema they have when built plainly."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptdiff.errors import CkptdiffError, ModelError, UsageError
from ckptdiff.model import build as building
from ckptdiff.model.build import build
from tests.model.oracle import schema

ARCHITECTURES = """
albert bart bert bloom clip convnext deberta-v2 distilbert electra falcon gemma2 gpt2 gpt_neox llama mamba mixtral mpnet
opt phi qwen2 roberta swin t5 vit wav2vec2 whisper yolos
""".split()  # noqa: SIM905
FEW = ("bert", "llama", "t5", "vit")

SMALL = {
    **dict.fromkeys(["num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "n_layer", "n_layers"], 2),
    **dict.fromkeys(
        ["hidden_size", "d_model", "intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_dim"], 48
    ),
    **dict.fromkeys(["num_attention_heads", "n_head", "encoder_attention_heads", "decoder_attention_heads"], 4),
    "num_key_value_heads": 2,
    "head_dim": 12,
}


def small(config_class: Any) -> Any:
    """A configuration of two narrow layers."""
    default = config_class()
    values = {name: value for name, value in SMALL.items() if type(default.to_dict().get(name)) is int}
    parts = {name: small(type(getattr(default, name))).to_dict() for name in config_class.sub_configs}
    return config_class(**values, **parts)


@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=() if name in FEW else pytest.mark.long) for name in ARCHITECTURES]
)
def test_transformers(model_type: str, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    transformers: Any = pytest.importorskip("transformers")
    write(small(transformers.CONFIG_MAPPING[model_type]).to_json_string(), "config.json")
    built = build("hf:.")
    assert built.how == "meta"
    for ways in (("plain",), ("uninitialized",)):
        monkeypatch.setattr(building, "_WAYS", ways)
        assert schema(build("hf:.").module) == schema(built.module)


@pytest.mark.zoo
@pytest.mark.slow
def test_every_torchvision_model() -> None:
    models: Any = pytest.importorskip("torchvision").models
    hows = set()
    for name in models.list_models():
        built = build(f"torchvision:{name}")
        hows.add(built.how)
        builder = models.get_model_builder(name)
        weights = {"weights", "weights_backbone"} & set(inspect.signature(builder).parameters)
        assert schema(built.module) == schema(builder(**dict.fromkeys(weights))), name
    assert hows == {"meta", "uninitialized"}


@pytest.mark.zoo
@pytest.mark.slow
def test_a_timm_model_of_every_file() -> None:
    timm: Any = pytest.importorskip("timm")
    tried = 0
    for file in timm.list_modules():
        names = timm.list_models(module=file)
        if not names:
            continue
        name = min(names[:4], key=_parameters)
        assert schema(build(f"timm:{name}").module) == schema(timm.create_model(name, pretrained=False)), name
        tried += 1
    assert tried > 50


def _parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in build(f"timm:{name}").module.parameters())


@pytest.mark.zoo
def test_names_that_are_not_there() -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")

    def fails(reference: str, args: dict[str, object] | None = None) -> CkptdiffError:
        with pytest.raises(CkptdiffError) as caught:
            build(reference, args)
        return caught.value

    assert "Did you mean `torchvision:resnet50`?" in fails("torchvision:resnet5").hint
    assert "Did you mean `timm:resnet50`?" in fails("timm:resnett50").hint
    assert isinstance(fails("timm:hf-hub:timm/resnet50"), ModelError)
    assert "unexpected keyword" in fails("torchvision:resnet18", {"num_clases": 3}).message
    assert isinstance(fails("torchvision:resnet18", {"num_clases": 3}), (ModelError, UsageError))


@pytest.mark.zoo
def test_arguments_and_detection_models_without_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("a download"))
    detector: Any = build("torchvision:fasterrcnn_resnet50_fpn", {"num_classes": 5}).module
    assert detector.roi_heads.box_predictor.cls_score.out_features == 5
    classifier: Any = build("timm:resnet18.a1_in1k", {"num_classes": 5}).module
    assert classifier.fc.out_features == 5
