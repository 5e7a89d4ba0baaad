"""What counts as covered: what the file gives, and nothing that comes from elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ckptdiff.checkpoint.from_memory import checkpoint_of
from ckptdiff.judging.report import judge
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from ckptdiff.render.outline import outline
from ckptdiff.render.view import View
from tests.reports import compared, module, slot, tensor


def test_coverage_counts_what_the_file_gives_and_tells_apart_what_is_supplied() -> None:
    norm = module("BatchNorm1d", weight=slot(8), seen=slot(dtype="int64", kind="buffer"))
    report = judge(compared(norm, {"weight": tensor(8)}, missing=(), supplied=("seen",)))
    coverage = report.coverage
    assert (coverage.keys, coverage.total_keys, coverage.parameters, coverage.total_parameters) == (1, 2, 8, 8)
    assert coverage.supplied == 1
    assert not coverage.nothing
    assert dict(outline(report, View()).facts)["covered"] == "1 of 2 keys (50.0%); 1 more is supplied while loading"


def test_a_file_of_which_nothing_is_loaded_is_no_comfort() -> None:
    model = torchvision_like()
    given = {f"model.{key}": value for key, value in model.state_dict().items()}
    report = judge(compare(extract(model), checkpoint_of(given)))
    parameters = sum(each.numel() for each in model.parameters())
    assert report.loads(strict=False)
    assert (report.coverage.keys, report.coverage.parameters, report.coverage.supplied) == (0, 0, 2)
    assert report.coverage.nothing
    told = outline(report, View())
    assert told.verdict == (
        f"Not compatible: load_state_dict raises; strict=False raises nothing and loads 0 of {parameters} parameters."
    )
    assert dict(told.facts)["strict=False"] == "raises nothing, loads nothing"
    assert dict(told.facts)["covered"] == "0 of 15 keys (0%); 2 more are supplied while loading"


def test_what_code_of_the_model_adds_is_not_the_files() -> None:
    model = nn.Linear(2, 2)

    def fill(given: Any, prefix: str, *_: Any) -> None:
        given.setdefault(prefix + "bias", torch.zeros(2))

    model._register_load_state_dict_pre_hook(fill)
    report = judge(compare(extract(model), checkpoint_of({"weight": torch.zeros(2, 2)})))
    assert report.loads()
    assert (report.coverage.keys, report.coverage.parameters, report.coverage.supplied) == (1, 4, 1)


def torchvision_like() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2)
    )
