"""Keys on which no weight depends: said so where the walk has shown that all parameters are covered, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import ckptdiff
from ckptdiff.judging.harmless import harmless


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)


LOSSLESS = {
    "rope.freqs": (8,), "layers.0.attn.rotary_emb.inv_freq": (8,), "embeddings.position_ids": (1, 16),
    "h.0.attn.masked_bias": (), "h.0.attn.bias": (1, 1, 16, 16), "criterion.pos_weight": (3,), "n_averaged": (),
    "fc._extra_state": (0,), "blocks.0.attn.relative_position_index": (49, 49), "other.num_batches_tracked": (),
    "fc.total_ops": (1,), "heads.0.tril": (16, 16),
}  # fmt: skip
WEIGHTS = {
    "h.0.attn.bias": (16,), "mask.weight": (4, 4), "freqs": (8,), "criterion": (3,), "pos_embed": (1, 5, 4),
    "fc.bias2": (4,), "running_mean": (4,), "masked_bias": (4,), "loss_scale": (), "position_embedding": (16, 4),
}  # fmt: skip


@pytest.mark.parametrize(("key", "shape"), LOSSLESS.items())
def test_nothing_is_lost_by_leaving_it(key: str, shape: tuple[int, ...]) -> None:
    state = {**Net().state_dict(), key: torch.zeros(shape)}
    report = ckptdiff.compare(Net(), state)
    (advice,) = [advice for advice in report.advice if advice.kind == "not-strict"]
    assert advice.facts == {"harmless": 1, "unexpected": 1}
    assert "All parameters are covered: strict=False loses nothing, and `ckptdiff filter` drops 1 key." in str(report)
    assert [finding.key for finding in report.findings if finding.rule == "harmless-key"] == [key]
    assert report.verdict == "fail"  # strict=True raises all the same


@pytest.mark.parametrize(("key", "shape"), WEIGHTS.items())
def test_what_may_be_a_weight_is_not_called_harmless(key: str, shape: tuple[int, ...]) -> None:
    report = ckptdiff.compare(Net(), {**Net().state_dict(), key: torch.zeros(shape)})
    assert not harmless(key, shape, missing=False)
    assert not [advice for advice in report.advice if advice.kind == "not-strict"]


def test_a_parameter_that_is_missing_makes_nothing_harmless() -> None:
    state = {**Net().state_dict(), "rope.freqs": torch.zeros(8)}
    del state["fc.bias"]
    report = ckptdiff.compare(Net(), state)
    assert not any(finding.rule == "harmless-key" for finding in report.findings)
    assert not [advice for advice in report.advice if advice.kind == "not-strict"]


def test_a_buffer_of_statistics_that_is_missing_is_a_loss() -> None:
    state = Net().state_dict()
    del state["norm.running_mean"], state["norm.num_batches_tracked"]
    report = ckptdiff.compare(Net(), state)
    assert not [advice for advice in report.advice if advice.kind == "not-strict"]
    whole = {key: value for key, value in Net().state_dict().items() if "num_batches" not in key}
    typed = type(Net().state_dict())(whole)
    typed._metadata = Net().state_dict()._metadata  # type: ignore[attr-defined]  # a new file, so that torch supplies none
    assert "strict=False loses nothing." in str(ckptdiff.compare(Net(), typed))


def test_a_model_that_has_a_loss_of_its_own_misses_it() -> None:
    class WithLoss(Net):
        def __init__(self) -> None:
            super().__init__()
            self.criterion = nn.BCEWithLogitsLoss(pos_weight=torch.ones(4))

    assert not [
        advice for advice in ckptdiff.compare(WithLoss(), Net().state_dict()).advice if advice.kind == "not-strict"
    ]


def test_an_averaged_model_is_repaired_whole(tmp_path: Path) -> None:
    torch.save(AveragedModel(net := Net()).state_dict(), tmp_path / "swa.pth")
    fixed = ckptdiff.fix(Net(), tmp_path / "swa.pth", tmp_path / "out.pth")
    assert fixed.whole
    made = torch.load(tmp_path / "out.pth")
    other = Net()
    other.load_state_dict(made)
    assert all(torch.equal(made[key], value) for key, value in net.state_dict().items())
