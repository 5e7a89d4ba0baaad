"""torch's quantized tensors into a plain model: on request, by torch's own numbers, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore")


def per_channel(shape: tuple[int, ...], axis: int, dtype: torch.dtype) -> Tensor:
    scales = torch.rand(shape[axis], dtype=torch.double) * 0.1 + 0.01
    return torch.quantize_per_channel(torch.randn(shape), scales, torch.arange(shape[axis]), axis, dtype)


QUANTIZED = {
    "qint8": lambda shape: torch.quantize_per_tensor(torch.randn(shape), 0.07, 3, torch.qint8),
    "quint8": lambda shape: torch.quantize_per_tensor(torch.randn(shape), 0.013, 128, torch.quint8),
    "qint32": lambda shape: torch.quantize_per_tensor(torch.randn(shape), 1e-4, -7, torch.qint32),
    "rows": lambda shape: per_channel(shape, 0, torch.qint8),
    "columns": lambda shape: per_channel(shape, 1, torch.quint8),
}


def saved(kind: str) -> dict[str, Tensor]:
    made = QUANTIZED[kind]
    state = {"0.weight": made((4, 3)), "0.bias": torch.randn(4), "1.weight": made((5, 4)), "1.bias": torch.randn(5)}
    return {**state, "1.weight": state["1.weight"][:5]}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))


@pytest.mark.parametrize("out", ["new.pth", "new.safetensors"])
@pytest.mark.parametrize("source", ["zip", "legacy", "memory"])
@pytest.mark.parametrize("kind", QUANTIZED)
def test_what_is_written_is_what_torch_dequantizes(kind: str, source: str, out: str, tmp_path: Path) -> None:
    state = saved(kind)
    torch.save(state, tmp_path / "q.pth", _use_new_zipfile_serialization=source == "zip")
    given = state if source == "memory" else tmp_path / "q.pth"
    assert not ckptdiff.compare(network(), given).loads()
    ckptdiff.filter(network(), given, tmp_path / out, adapt="*=dequantize")
    model = network()
    report = ckptdiff.load(model, tmp_path / out)
    assert report.loads()
    for key, value in state.items():
        assert torch.equal(model.state_dict()[key], value.dequantize() if value.is_quantized else value)


def test_it_is_printed_and_what_is_printed_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))\n"
    )
    state = saved("rows")
    torch.save(state, "q.pth")
    assert main(["compare", "net.py:net", "q.pth"]) == 1
    out = capfd.readouterr().out
    adapt = "--adapt 0.weight=dequantize"
    assert f"answers 1 quantized tensor with {adapt}" in out
    options = [*adapt.split(), "--adapt", "1.weight=dequantize", "--dtype", "bfloat16"]
    assert main(["fix", "net.py:net", "q.pth", "-o", "new.pth", *options]) == 0
    made = torch.load("new.pth")
    assert torch.equal(made["0.weight"], state["0.weight"].dequantize().to(torch.bfloat16))


def test_a_plain_tensor_is_left_as_it_is(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save(state, tmp_path / "plain.pth")
    ckptdiff.filter(network(), tmp_path / "plain.pth", tmp_path / "new.pth", adapt="*=dequantize")
    assert all(torch.equal(torch.load(tmp_path / "new.pth")[key], value) for key, value in state.items())


def test_another_size_is_refused(tmp_path: Path) -> None:
    torch.save({**saved("qint8"), "0.weight": QUANTIZED["qint8"]((4, 5))}, tmp_path / "q.pth")
    with pytest.raises(UsageError, match="dequantizing changes no size"):
        ckptdiff.filter(network(), tmp_path / "q.pth", tmp_path / "new.pth", adapt="*=dequantize")
