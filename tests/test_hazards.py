"""What torch passes over without a word: it says that all keys matched, and ckptdiff says what is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import ckptdiff

SUCCESS = "<All keys matched successfully>"


def holder(value: torch.Tensor) -> nn.Module:
    """A module with one buffer called `value`."""
    module = nn.Module()
    module.register_buffer("value", value)
    return module


def headless() -> nn.Module:
    module = nn.Sequential()
    module.add_module("body", nn.Linear(2, 2))
    module.register_module("head", None)
    return module


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    return module


def half() -> nn.Module:
    return nn.Linear(2, 1, bias=False).half()


@dataclass(frozen=True)
class Hazard:
    """A model and a state dict that torch is silent on, and what ckptdiff finds."""

    rule: str
    key: str
    model: Callable[[], nn.Module]
    state_dict: Mapping[str, torch.Tensor]
    facts: Mapping[str, object] = field(default_factory=dict)
    """Some of the finding's arguments."""
    level: str = "warning"
    check_values: bool = False


BODY = {"body.weight": torch.zeros(2, 2), "body.bias": torch.zeros(2)}
HAZARDS = {
    "under a None child": Hazard(
        "ignored-key", "head.weight", headless, {**BODY, "head.weight": torch.ones(5)}, {"shape": (5,)}
    ),
    "float32 into float16": Hazard(
        "lossy-dtype", "weight", half, {"weight": torch.tensor([[1e6, 1.0]])}, {"model_dtype": "float16"}
    ),
    "float into int": Hazard(
        "lossy-dtype", "value", lambda: holder(torch.zeros(2).int()), {"value": torch.tensor([1.5, 2.5])}
    ),
    "float into bool": Hazard(
        "lossy-dtype", "value", lambda: holder(torch.zeros(2).bool()), {"value": torch.tensor([0.5, 0.0])}
    ),
    "complex into real": Hazard(
        "lossy-dtype", "value", lambda: holder(torch.zeros(2)), {"value": torch.tensor([1 + 2j, 3j])}
    ),
    "lazy layer": Hazard(
        "lazy-parameter", "weight", lambda: nn.LazyLinear(2), {"weight": torch.zeros(7, 9), "bias": torch.zeros(2)}
    ),
    "[1] into a scalar": Hazard(
        "scalar-reshape", "value", lambda: holder(torch.zeros(())), {"value": torch.ones(1)}, level="note"
    ),
    "overflow, counted": Hazard(
        "cast-overflow",
        "weight",
        half,
        {"weight": torch.tensor([[1.0, 1e6]])},
        {"lost": 1, "total": 2, "first": (0, 1)},
        check_values=True,
    ),
    "NaN, counted": Hazard(
        "non-finite-values",
        "value",
        lambda: holder(torch.zeros(3)),
        {"value": torch.tensor([1.0, float("nan"), float("-inf")])},
        {"nan": 1, "infinite": 1, "first": (1,)},
        check_values=True,
    ),
    "tied values apart": Hazard(
        "tied-values-differ", "0.weight", tied, {"0.weight": torch.zeros(3, 3), "1.weight": torch.eye(3)}
    ),
    "tied values apart, counted": Hazard(
        "tied-values-differ",
        "0.weight",
        tied,
        {"0.weight": torch.zeros(3, 3), "1.weight": torch.eye(3)},
        {"twin": "1.weight", "differing": 3},
        check_values=True,
    ),
}


@pytest.mark.parametrize("name", HAZARDS)
def test_torch_is_silent_and_ckptdiff_is_not(name: str, tmp_path: Path) -> None:
    hazard = HAZARDS[name]
    path = tmp_path / "file.pth"
    torch.save(dict(hazard.state_dict), path)
    with warnings.catch_warnings():
        # It may say this once in a process, on the terminal, and never with whom.
        warnings.filterwarnings("ignore", message="Casting complex values to real|Lazy modules are a new feature")
        model = hazard.model()
        assert str(model.load_state_dict(torch.load(path, weights_only=True), strict=True)) == SUCCESS
        fresh = hazard.model()

    report = ckptdiff.compare(fresh, path, check_values=hazard.check_values)
    (finding,) = [finding for finding in report.findings if (finding.rule, finding.key) == (hazard.rule, hazard.key)]
    assert finding.level == hazard.level
    assert hazard.facts.items() <= finding.arguments.items()
    # It changes the verdict only for who asks for it.
    assert report.verdict == "pass"
    level: Any = hazard.level
    assert ckptdiff.compare(fresh, path, check_values=hazard.check_values, fail_on=level).verdict == "fail"


def test_the_same_tensors_load_from_safetensors_and_not_from_a_pth(tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(4)
    full = norm.state_dict()  # type: ignore[no-untyped-call]
    metadata = full._metadata
    del full["num_batches_tracked"]
    save_file(dict(full), tmp_path / "file.safetensors")
    full._metadata = metadata
    torch.save(full, tmp_path / "file.pth")

    assert str(nn.BatchNorm1d(4).load_state_dict(load_file(tmp_path / "file.safetensors"))) == SUCCESS
    report = ckptdiff.compare(nn.BatchNorm1d(4), tmp_path / "file.safetensors")
    (finding,) = report.findings
    assert (finding.rule, finding.level, finding.key) == ("version-upgrade", "note", "num_batches_tracked")
    assert report.verdict == "pass"

    with pytest.raises(RuntimeError) as raised:
        nn.BatchNorm1d(4).load_state_dict(torch.load(tmp_path / "file.pth", weights_only=True))
    report = ckptdiff.compare(nn.BatchNorm1d(4), tmp_path / "file.pth")
    assert report.error_message() == str(raised.value)
    assert [finding.rule for finding in report.findings] == ["missing-key", "harmless-key"]
    assert {finding.key for finding in report.findings} == {"num_batches_tracked"}
    assert report.verdict == "fail"


def test_a_missing_alias_of_a_tied_weight_is_a_note_and_no_loss_of_coverage() -> None:
    model = tied()
    state_dict = {"0.weight": torch.eye(3)}
    assert model.load_state_dict(state_dict, strict=False).missing_keys == ["1.weight"]
    assert torch.equal(model[1].weight, torch.eye(3))
    report = ckptdiff.compare(tied(), state_dict)
    assert ("tied-alias", "note", "1.weight") in [(item.rule, item.level, item.key) for item in report.findings]
    assert report.coverage.parameters == report.coverage.total_parameters == 9


def test_assigning_tears_tied_weights_apart() -> None:
    state_dict = {"0.weight": torch.eye(3), "1.weight": torch.eye(3)}
    model = tied()
    assert str(model.load_state_dict(state_dict, assign=True)) == SUCCESS
    assert model[0].weight is not model[1].weight
    report = ckptdiff.compare(tied(), state_dict, assign=True)
    assert [(item.rule, item.level, item.key) for item in report.findings] == [("untied", "warning", "1.weight")]
    assert report.verdict == "pass"

    # One name alone leaves the other with the old tensor: nothing that could be called loaded.
    del state_dict["1.weight"]
    model = tied()
    model.load_state_dict(state_dict, strict=False, assign=True)
    assert not torch.equal(model[1].weight, torch.eye(3))
    report = ckptdiff.compare(tied(), state_dict, assign=True)
    assert [(item.rule, item.key) for item in report.findings] == [("missing-key", "1.weight"), ("untied", "1.weight")]
    assert (report.coverage.parameters, report.coverage.total_parameters) == (9, 18)


def test_a_module_with_two_names_stays_one_when_assigned() -> None:
    shared = nn.Linear(3, 3, bias=False)
    state_dict = {"0.weight": torch.eye(3)}
    model = nn.Sequential(shared, shared)
    model.load_state_dict(state_dict, strict=False, assign=True)
    assert torch.equal(model[1].weight, torch.eye(3))
    report = ckptdiff.compare(nn.Sequential(shared, shared), state_dict, assign=True)
    assert [(item.rule, item.key) for item in report.findings] == [
        ("missing-key", "1.weight"),
        ("tied-alias", "1.weight"),
    ]
    assert report.coverage.parameters == report.coverage.total_parameters == 9


def test_assigning_takes_the_checkpoints_dtype() -> None:
    state_dict = {"weight": torch.full((1, 2), 1e6)}
    model = half()
    model.load_state_dict(state_dict, assign=True)
    assert model.weight.dtype == torch.float32
    report = ckptdiff.compare(half(), state_dict, assign=True, check_values=True)
    assert [(item.rule, item.level) for item in report.findings] == [("assigned-dtype", "note")]


def test_a_lazy_layer_is_not_taken_for_tied_with_another(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.LazyLinear(2, bias=False))
    torch.save({"0.weight": torch.zeros(2, 2), "1.weight": torch.ones(2, 2)}, tmp_path / "file.pth")
    report = ckptdiff.compare(model, tmp_path / "file.pth", check_values=True)
    assert [(finding.rule, finding.key) for finding in report.findings] == [("lazy-parameter", "1.weight")]
    assert report.coverage.keys == report.coverage.total_keys == 2


def test_assigning_moves_a_model_to_where_the_file_was_saved(tmp_path: Path) -> None:
    """A GPU is claimed: what torch does is to put the file's tensors in the place of the model's."""
    from ckptdiff.claimed.host import claimed

    saved = Path(__file__).parent / "formats" / "saved_on_gpu" / "mixed.pth"
    linear = nn.Linear(4, 4)
    state_dict = linear.state_dict()
    with claimed("cuda"):
        linear.load_state_dict(torch.load(saved), strict=False, assign=True)
        assert [p.device.type for p in linear.parameters()] == ["cpu", "cpu"]  # weight and bias of this file
        on_gpu = nn.Linear(4, 4).cuda()
        on_gpu.load_state_dict({"weight": state_dict["weight"]}, strict=False, assign=True)
        assert [p.device.type for p in on_gpu.parameters()] == ["cpu", "cuda"]
        on_gpu = nn.Linear(4, 4).cuda()
    report = ckptdiff.compare(on_gpu, {"weight": state_dict["weight"]}, assign=True)
    assert [(item.rule, item.key, *item.arguments.values()) for item in report.findings if item.level == "warning"] == [
        ("assigned-device", "weight", "cuda:0", "cpu"),
        ("devices-differ", "bias", "cuda:0", "weight", "cpu"),
    ]
    assert not [item for item in ckptdiff.compare(on_gpu, state_dict).findings if item.rule == "assigned-device"]
    whole = Path(saved).with_name("dev.pth")
    model = nn.Module()
    model.a, model.n = nn.Linear(8, 16), nn.BatchNorm1d(16)
    report = ckptdiff.compare(model, whole, assign=True, device="cuda")
    assert {item.rule for item in report.findings} == {"assigned-device"}
    assert len(report.findings) == 7
    assert report.findings[0].arguments == {"model_device": "cpu", "checkpoint_device": "cuda:0"}
    report = ckptdiff.compare(model, whole, assign=True, device="cpu")  # where only map_location="cpu" reads it
    assert {item.rule for item in report.findings} == {"saved-on"}
    with torch.device("meta"):
        empty = nn.Linear(4, 4)
    assert ckptdiff.compare(empty, state_dict, assign=True).findings == ()
