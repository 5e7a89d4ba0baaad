"""timm: a checkpoint, pretrained weights, filter functions; each beside the real call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.errors import CkptdiffError
from ckptdiff.loaders.library_call import spelled
from tests.loaders.real_calls import Real, disagreements, really, twin_of

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]
timm = pytest.importorskip("timm")

from tests.zoo import timm_filters  # noqa: E402 - it needs it


@pytest.mark.slow
def test_a_sample_of_calls_and_layouts(tmp_path):
    calls = ("EMA, of DDP", "filter, key added", "pretrained, one channel", "open_clip")
    cases = dict(timm_filters.tried(tmp_path, ("test_vit",), calls))
    assert {case: found for case, found in cases.items() if found} == {}
    assert len(cases) == len(calls)


@pytest.fixture
def weights(tmp_path):
    torch.save({"state_dict": timm.create_model("test_resnet").state_dict()}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_it_is_the_default_of_its_models(weights):
    report = ckptdiff.compare("timm:test_resnet", weights)
    assert (report.loader.name, report.loader.version) == ("timm", timm.__version__)
    assert report.complete
    assert report.loader.call == "load_checkpoint(model, path)"
    assert ckptdiff.compare("timm:test_resnet", weights, loader="torch").loader.name == "torch"


def test_the_filter_function_is_the_one_of_the_registry():
    from ckptdiff.loaders.timm import filter_of, filter_of_architecture

    assert filter_of_architecture("test_resnet") is None
    function = filter_of(timm.create_model("test_vit"))
    assert function is not None
    assert getattr(function, "func", function) is timm.models.vision_transformer.checkpoint_filter_fn
    with pytest.raises(CkptdiffError, match="no model of timm's"):
        filter_of(nn.Linear(2, 2))


def test_a_release_that_builds_otherwise_is_no_answer(weights, monkeypatch):
    monkeypatch.delattr("timm.models._builder.build_model_with_cfg")
    with pytest.raises(CkptdiffError, match="its filter function cannot be found"):
        ckptdiff.compare("timm:test_vit", weights, loader="timm", loader_args={"filter_fn": True})


def test_a_head_of_another_size_keeps_its_initial_value(weights):
    report = ckptdiff.compare(
        "timm:test_resnet", weights, args={"num_classes": 3}, loader="timm", loader_args={"pretrained": True}
    )
    assert report.raises is None
    assert report.missing_keys == ["fc.weight", "fc.bias"]
    assert not report.complete


def test_a_directory_of_its_own(tmp_path):
    from timm.models._hub import save_for_hf

    model = timm.create_model("test_resnet")
    save_for_hf(model, tmp_path, safe_serialization=True)
    report = ckptdiff.compare(None, tmp_path)
    assert report.loader.call == f"create_model('local-dir:{tmp_path}', pretrained=True)"
    assert report.complete


@pytest.mark.parametrize("args", [{"num_classes": 9}, {"features_only": True}, {"in_chans": 1}], ids=str)
def test_arguments_for_a_model_that_timm_makes_of_a_directory(args, tmp_path):
    from timm.models._hub import save_for_hf

    save_for_hf(timm.create_model("test_resnet"), tmp_path / "a", safe_serialization=True)

    def create(path):
        return Real(model=timm.create_model(f"local-dir:{path}", pretrained=True, **args))

    real = really(create, tmp_path / "a", twin_of(tmp_path / "a"))
    report = ckptdiff.compare(None, tmp_path / "a", args=args)
    assert disagreements(report.outcome, real) == []
    assert report.loader.call.endswith(spelled(args) + ")")


@pytest.mark.parametrize(
    ("args", "live"),
    [
        ({"features_only": True}, False),
        ({"features_only": True, "out_indices": (1, 2)}, True),
        ({"pretrained_cfg_overlay": {"tag": "x"}}, False),
    ],
    ids=str,
)
def test_pretrained_weights_of_a_model_with_arguments(args, live, weights):
    overlay = {**args.get("pretrained_cfg_overlay", {}), "file": str(weights)}
    real = timm.create_model("test_resnet", pretrained=True, **{**args, "pretrained_cfg_overlay": overlay})
    model = timm.create_model("test_resnet", **args) if live else "timm:test_resnet"
    given = {} if live else {"args": args}
    report = ckptdiff.compare(model, weights, loader="timm", loader_args={"pretrained": True}, **given)
    assert report.raises is None
    assert report.complete
    assert list(report.outcome.filled) == list(real.state_dict())


def test_what_cannot_be_asked_is_said(weights):
    with pytest.raises(CkptdiffError, match="takes no such argument"):
        ckptdiff.compare("timm:test_resnet", weights, loader="timm", loader_args={"pretrained": True, "strict": False})
    with pytest.raises(CkptdiffError, match="is a directory, of which timm makes the model that it names"):
        ckptdiff.compare("timm:resnet50", weights.parent, loader="timm")
    with pytest.raises(CkptdiffError, match="needs a model for a file"):
        ckptdiff.compare(None, weights, loader="timm")
    with pytest.raises(CkptdiffError, match="does not say how timm made it"):
        ckptdiff.compare(nn.Linear(2, 2), weights, loader="timm", loader_args={"pretrained": True})
