"""Files that nothing here repairs: why is said, and leaving out is not offered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.judging.beyond_repair import beyond_repair


def net(width: int = 16, hidden: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, width), nn.Linear(width, 16)
    )


def placeholders() -> dict[str, torch.Tensor]:
    """As DeepSpeed leaves them: buffers have their values."""
    return {key: value if "running" in key else torch.empty(0) for key, value in net().state_dict().items()}


def of_gptq() -> dict[str, torch.Tensor]:
    """As GPTQ and AWQ pack them, eight numbers of 4 bits in an integer."""
    state = {}
    for key, value in net().state_dict().items():
        if value.dim() == 2:
            layer, (rows, columns) = key.removesuffix(".weight"), value.shape
            state[f"{layer}.qweight"] = torch.zeros(columns // 8, rows, dtype=torch.int32)
            state[f"{layer}.qzeros"] = torch.zeros(1, rows // 8, dtype=torch.int32)
            state[f"{layer}.scales"] = torch.zeros(1, rows, dtype=torch.float16)
        else:
            state[key] = value
    return state


def of_bitsandbytes(bits: int) -> dict[str, torch.Tensor]:
    state = {}
    for key, value in net().state_dict().items():
        state[key] = value
        if value.dim() == 2 and bits == 4:
            state[key] = torch.zeros(value.numel() // 2, 1, dtype=torch.uint8)
            state[f"{key}.absmax"] = torch.zeros(value.numel() // 64)
            state[f"{key}.quant_map"] = torch.zeros(16)
            state[f"{key}.quant_state.bitsandbytes__nf4"] = torch.zeros(80, dtype=torch.uint8)
        elif value.dim() == 2:
            state[key] = value.to(torch.int8)
            state[f"{key.removesuffix('weight')}SCB"] = torch.zeros(value.shape[0])
    return state


def scaled() -> dict[str, torch.Tensor]:
    state = {}
    for key, value in net().state_dict().items():
        state[key] = value.to(torch.float8_e4m3fn) if value.dim() == 2 else value
        if value.dim() == 2:
            state[f"{key}_scale_inv"] = torch.ones(1, 1)
    return state


def bare() -> dict[str, torch.Tensor]:
    """Packed, and the scales kept elsewhere."""
    return {
        key: torch.zeros(value.numel() // 2, dtype=torch.uint8).reshape(-1, 1) if value.dim() == 2 else value
        for key, value in net().state_dict().items()
    }


FILES = {
    "placeholders of shape [0]": placeholders(),
    "GPTQ or AWQ": of_gptq(),
    "bitsandbytes, in 4 bits": of_bitsandbytes(4),
    "bitsandbytes, in 8 bits": of_bitsandbytes(8),
    "scaled float8": scaled(),
    "as uint8": bare(),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("said", "state"), FILES.items(), ids=FILES)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_why_is_said_and_nothing_is_offered(
    said: str, state: dict[str, torch.Tensor], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("from tests.judging.test_beyond_repair import net\n")
    torch.save(state, name)
    report = ckptdiff.compare("net.py:net", name)
    assert [advice.kind for advice in report.advice] == ["beyond-repair"]
    shown = str(report)
    assert said in shown
    for offered in ("ckptdiff.filter", "ckptdiff filter", "ckptdiff.fix", "ckptdiff.suggest"):
        assert offered not in shown
    from ckptdiff.requests import CheckpointRequest, ModelRequest
    from ckptdiff.verbs.suggest import proposed_as_asked

    suggestion, proposal = proposed_as_asked(
        ModelRequest.of("net.py:net"), CheckpointRequest(name), include_likely=False, heads=None
    )
    assert suggestion.arguments is None
    from ckptdiff.render import render_suggestion

    text = render_suggestion("text", suggestion, proposal)
    assert said in text
    assert "filter" not in text
    assert "ckptdiff.fix" not in text


def test_placeholders_that_no_key_of_the_model_has_are_told_by_their_number() -> None:
    state = {f"base_model.model.{key}.lora": torch.empty(0) for key in net().state_dict()}
    assert "ZeRO-3" in str(ckptdiff.compare(net(), state))


def shard(rank: int = 0) -> dict[str, torch.Tensor]:
    cuts = {"0.weight": 0, "0.bias": 0, "2.weight": 1}
    return {
        key: value.chunk(2, cuts[key])[rank].clone() if key in cuts else value
        for key, value in net().state_dict().items()
        if not key.startswith("1.")
    }


def test_a_shard_is_told_by_the_name_that_ranks_give_it(tmp_path: Path) -> None:
    model = net()
    model[1] = nn.Identity()
    for name in ("consolidated.00.pth", "mp_rank_00/model_optim_rng.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(shard(), tmp_path / name)
        report = ckptdiff.compare(model, tmp_path / name)
        assert "one of 2 shards of a tensor-parallel set" in str(report)
        assert [advice.kind for advice in report.advice] == ["beyond-repair"]
    torch.save(shard(), tmp_path / "narrow.pth")  # which a model of half the hidden width has saved as well
    assert not beyond_repair(ckptdiff.compare(model, tmp_path / "narrow.pth").outcome)


@pytest.mark.parametrize(
    "more",
    [
        {"extra": torch.zeros(0)},
        {"logit_scale": torch.zeros(())},
        {"0.scales": torch.zeros(4)},
        {"3.weight_scale": torch.ones(1)},
        {"step": torch.zeros(2, 2, dtype=torch.int64)},
        {"0.SCB": torch.zeros(4)},
    ],
)
def test_one_odd_key_makes_no_such_file(more: dict[str, torch.Tensor]) -> None:
    assert not beyond_repair(ckptdiff.compare(net(), {**net().state_dict(), **more}).outcome)


def test_a_narrower_model_and_another_head_are_no_such_files() -> None:
    for other in (net(8), net(hidden=32), net(32)):
        assert not beyond_repair(ckptdiff.compare(net(), other.state_dict()).outcome)
    half = {key: value.half() for key, value in net().state_dict().items()}
    assert not beyond_repair(ckptdiff.compare(net(), half).outcome)


def test_fix_says_it_too(tmp_path: Path) -> None:
    torch.save(of_gptq(), tmp_path / "w.pth")
    fixed = ckptdiff.fix(net(), tmp_path / "w.pth", tmp_path / "out.pth")
    assert not fixed.whole
    assert "GPTQ or AWQ" in str(fixed)
    torch.save({key: torch.empty(0) for key in net().state_dict()}, tmp_path / "empty.pth")
    with pytest.raises(ckptdiff.CkptdiffError, match="ZeRO-3"):
        ckptdiff.fix(net(), tmp_path / "empty.pth", tmp_path / "none.pth")


def test_what_is_empty_in_the_model_too_is_no_placeholder() -> None:
    class Empty(nn.Module):
        def __init__(self, size: int = 0) -> None:
            super().__init__()
            self.one, self.two = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.zeros(size))

    assert not ckptdiff.compare(Empty(), Empty().state_dict()).advice
    state = {**Empty().state_dict(), "more": torch.zeros(3)}
    assert not beyond_repair(ckptdiff.compare(Empty(), state).outcome)
    assert beyond_repair(ckptdiff.compare(Empty(3), Empty().state_dict()).outcome)
