"""torch's norms under their older and newer names: what is renamed computes what it computed before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import ckptdiff

NORMS: dict[str, tuple[Callable[[nn.Module], nn.Module], Callable[[nn.Module], nn.Module]]] = {
    "weight": (torch.nn.utils.weight_norm, parametrizations.weight_norm),  # type: ignore[dict-item]
    "spectral": (torch.nn.utils.spectral_norm, parametrizations.spectral_norm),
}


def network(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    body = nn.Sequential(norm(nn.Conv1d(2, 6, 3)), nn.ReLU(), norm(nn.ConvTranspose1d(6, 4, 2)), nn.BatchNorm1d(4))
    body.append(norm(nn.Conv1d(4, 5, 1)))
    return nn.Sequential(body)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("newer", [False, True])
def test_what_is_renamed_computes_the_same(kind: str, *, newer: bool, wrapped: bool, tmp_path: Path) -> None:
    before, after = (NORMS[kind][place] for place in (newer, not newer))
    saved, wanted = network(before), network(after).eval()
    with torch.no_grad():
        for value in saved.state_dict().values():
            value.add_(0.25 * torch.rand(value.shape)) if value.is_floating_point() else None
    prefix = "module." if wrapped else ""
    torch.save({f"{prefix}{key}": value for key, value in saved.state_dict().items()}, tmp_path / "old.pth")
    fixed = ckptdiff.fix(network(after), tmp_path / "old.pth", tmp_path / "new.pth")
    assert fixed.whole
    assert fixed.stays == ()
    wanted.load_state_dict(torch.load(tmp_path / "new.pth"))
    values = torch.randn(3, 2, 9)
    torch.testing.assert_close(wanted(values), saved.eval()(values))


def test_a_recurrent_network_has_a_norm_of_every_name(tmp_path: Path) -> None:
    saved = parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    with pytest.warns(FutureWarning):
        wanted = torch.nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    torch.save(saved.state_dict(), tmp_path / "old.pth")
    fixed = ckptdiff.fix(wanted, tmp_path / "old.pth", tmp_path / "new.pth")
    assert fixed.stays == ()
    wanted.load_state_dict(torch.load(tmp_path / "new.pth"))
    values = torch.randn(5, 2, 3)
    torch.testing.assert_close(wanted(values)[0], saved(values)[0])
