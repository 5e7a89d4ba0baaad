"""What is found on a loader that was followed: every rule, from what real loaders leave."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ckptdiff.judging.findings import findings
from ckptdiff.judging.report import judge
from ckptdiff.loaders.function import ask
from tests.following.oracle import Net, state


def whole(model, path):
    model.load_state_dict(torch.load(path))


def left_out(model, path):
    model.load_state_dict({key: value for key, value in torch.load(path).items() if key != "scale"}, strict=False)


def half(model, path):
    loaded = torch.load(path)
    second = loaded.pop("second.weight")
    model.load_state_dict(loaded, strict=False)
    model.second.weight.data[:8] = second[:8]


def initialised_again(model, path):
    whole(model, path)
    nn.init.zeros_(model.second.weight)


def raising(model, path):
    whole(model, path)
    raise ValueError("too late")


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (whole, set()),
        (left_out, {("initial-value", "scale"), ("unused-key", "scale")}),
        (half, {("filled-in-part", "second.weight")}),
        (
            initialised_again,
            {("initial-value", "second.weight"), ("overwritten", "second.weight"), ("unused-key", "second.weight")},
        ),
        (raising, {("load-error", "")}),
    ],
)
def test_what_is_found(load, expected, tmp_path):
    torch.save(state(1), tmp_path / "w.pth")
    outcome = ask(load, Net(), tmp_path / "w.pth")
    assert {(finding.rule, finding.key) for finding in findings(outcome)} == expected
    report = judge(outcome)
    assert report.complete == (not expected)
    assert (report.verdict == "pass") == (not expected)
