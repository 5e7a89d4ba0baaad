"""Ranks' files of a tensor-parallel set: put together they are the weights that were cut, or it is said why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.errors import CheckpointError
from tests.suggesting.jobs import llama, tree

State = dict[str, Tensor]
ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head", "fc1", "query_key_value", "dense_h_to_4h")
COLUMNS = ("o_proj", "down_proj", "fc2", "dense_4h_to_h")


def cut(state: State, ranks: int, rows: tuple[str, ...] = ROWS, columns: tuple[str, ...] = COLUMNS) -> list[State]:
    """As tensor-parallel code cuts: some matrices by rows, with their biases, some by columns, the rest in all."""
    shards: list[State] = [{} for _ in range(ranks)]
    for key, value in state.items():
        module = key.split(".")[-2]
        dim = 0 if module in rows else 1 if module in columns and value.ndim > 1 else None
        for rank, shard in enumerate(shards):
            shard[key] = (value if dim is None else value.chunk(ranks, dim)[rank]).clone()
    return shards


def meta_like(folder: Path, shards: list[State]) -> Path:
    folder.mkdir(exist_ok=True)
    for rank, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{rank:02}.pth")
    return folder


def megatron_like(folder: Path, shards: list[State], version: float | None = 3.0) -> Path:
    for rank, shard in enumerate(shards):
        home = folder / f"mp_rank_{rank:02}"
        home.mkdir(parents=True)
        torch.save({"model": shard, "iteration": 7, "checkpoint_version": version}, home / "model_optim_rng.pt")
    return folder


def deepspeed_like(folder: Path, shards: list[State]) -> Path:
    folder.mkdir()
    for rank, shard in enumerate(shards):
        torch.save({"module": shard, "dp_world_size": 1}, folder / f"mp_rank_{rank:02}_model_states.pt")
    return folder


def trained() -> State:
    generator = torch.Generator().manual_seed(3)
    return {key: torch.randn(shape, generator=generator) for key, shape in llama().items()}


@pytest.mark.parametrize("embedding", ["in all", "by rows", "by columns"])
@pytest.mark.parametrize("written", [meta_like, megatron_like, deepspeed_like])
def test_what_was_cut_is_put_together(written, embedding: str, tmp_path: Path) -> None:
    state = trained()
    rows = (*ROWS, *(["embed_tokens"] if embedding == "by rows" else []))
    columns = (*COLUMNS, *(["embed_tokens"] if embedding == "by columns" else []))
    folder = written(tmp_path / "set", cut(state, 2, rows, columns))
    assert ckptdiff.compare(tree(llama()), folder).loads()
    fixed = ckptdiff.fix(tree(llama()), folder, tmp_path / "whole.safetensors")
    assert fixed.whole
    made = ckptdiff.diff(tmp_path / "whole.safetensors", state)
    assert made.same, str(made)
    ckptdiff.rewrite(folder, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth")
    assert all(torch.equal(again[key], value) for key, value in state.items())
    assert ckptdiff.digest(folder).whole == ckptdiff.digest(tmp_path / "again.pth").whole


def test_other_names_and_the_rows_of_rotary_attention_on_top(tmp_path: Path) -> None:
    """Merged, renamed and turned in one, without a file in between."""
    state = {
        key.replace("model.", "", 1).replace("self_attn.", "attention.").replace("_proj", "x"): value
        for key, value in trained().items()
    }
    names = {"qx": "wq", "kx": "wk", "vx": "wv", "ox": "wo", "gatex": "w1", "downx": "w2", "upx": "w3"}
    for old, new in names.items():
        state = {
            key.replace(f".{old}.", f".{new}.").replace("mlp", "feed_forward"): value for key, value in state.items()
        }
    columns = ("wo", "w2")
    folder = meta_like(tmp_path / "set", cut(state, 2, ("wq", "wk", "wv", "w1", "w3", "lm_head"), columns))
    one = tmp_path / "whole.pth"
    torch.save(state, one)
    for source, out in ((folder, "a.pth"), (one, "b.pth")):
        assert ckptdiff.fix(tree(llama()), source, tmp_path / out, heads=(4, 2)).whole
    merged, single = torch.load(tmp_path / "a.pth"), torch.load(tmp_path / "b.pth")
    assert list(merged) == list(single)
    assert all(torch.equal(value, single[key]) for key, value in merged.items())


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_tensor_is_put_together_otherwise_than_it_was_cut(data: st.DataObject, tmp_path_factory) -> None:
    """Whatever the sizes: what comes back is what was cut, or nothing does."""
    ranks = data.draw(st.integers(2, 4))
    width = data.draw(st.sampled_from([4, 6, 8, 12])) * ranks
    hidden = data.draw(st.sampled_from([2, 4, 8, 12, 16])) * ranks
    state: State = {}
    for layer in range(2):
        for name, shape in (("fc1", (hidden, width)), ("fc2", (width, hidden)), ("gate", (ranks, width))):
            state[f"{layer}.{name}.weight"] = torch.randn(shape)
            state[f"{layer}.{name}.bias"] = torch.zeros(shape[0])
        state[f"{layer}.norm.weight"] = torch.ones(width)
    folder = meta_like(tmp_path_factory.mktemp("sets") / "set", cut(state, ranks))
    try:
        ckptdiff.rewrite(folder, folder / "out.pth")
    except CheckpointError as error:
        assert "nothing says along which dimension" in error.message  # noqa: PT017 - one of two ends
        assert hidden == width * ranks
        return
    made = torch.load(folder / "out.pth")
    assert all(torch.equal(made[key], value) for key, value in state.items())


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(8, 24, bias=False)
        self.dense_4h_to_h = nn.Linear(12, 8, bias=False)
        self.query_key_value = nn.Linear(8, 24)
        self.norm = nn.LayerNorm(8)

    def forward(self, value: Tensor) -> Tensor:
        gate, up = self.dense_h_to_4h(self.norm(value)).chunk(2, dim=-1)
        return self.dense_4h_to_h(nn.functional.silu(gate) * up)


def gated_shards(model: nn.Module) -> list[State]:
    """Each rank has its part of the gate above that of the rest, as Megatron-LM's SwiGLU."""
    state = {f"block.{key}": value for key, value in model.state_dict().items()}
    shards = cut(state, 2)
    gate, up = state["block.dense_h_to_4h.weight"].chunk(2)
    for rank, shard in enumerate(shards):
        shard["block.dense_h_to_4h.weight"] = torch.cat([gate.chunk(2)[rank], up.chunk(2)[rank]])
    return shards


def test_a_gate_and_what_it_gates_are_put_together_each_for_itself(tmp_path: Path) -> None:
    model, other = nn.ModuleDict({"block": Gated()}), nn.ModuleDict({"block": Gated()})
    folder = megatron_like(tmp_path / "set", gated_shards(model["block"]))
    assert ckptdiff.fix(other, folder, tmp_path / "out.pth").whole
    other.load_state_dict(torch.load(tmp_path / "out.pth"))
    values = torch.randn(3, 8)
    assert torch.equal(other["block"](values), model["block"](values))


@pytest.mark.parametrize("version", [None, 0, 1.0])
def test_an_older_order_of_queries_keys_and_values_is_refused(version: float | None, tmp_path: Path) -> None:
    folder = megatron_like(tmp_path / "set", gated_shards(Gated()), version)
    with pytest.raises(CheckpointError, match="older Megatron-LM"):
        ckptdiff.inspect(folder)


def test_packed_matrices_are_refused(tmp_path: Path) -> None:
    state = {"norm.weight": torch.ones(8), "attn.qkv_proj.weight": torch.randn(24, 8)}
    folder = meta_like(tmp_path / "set", cut(state, 2, ("qkv_proj",)))
    with pytest.raises(CheckpointError, match="every matrix that is packed"):
        ckptdiff.inspect(folder)


def test_a_square_part_is_refused(tmp_path: Path) -> None:
    state = {"norm.weight": torch.ones(8), "attn.q_proj.weight": torch.randn(16, 8)}
    folder = meta_like(tmp_path / "set", cut(state, 2))
    with pytest.raises(CheckpointError, match="nothing says along which dimension"):
        ckptdiff.inspect(folder)


def test_sets_that_are_not_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shards = cut(trained(), 3)
    folder = meta_like(tmp_path / "set", shards)
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(CheckpointError, match="lacks the file of rank 1"):
        ckptdiff.inspect(folder)
    torch.save({**shards[1], "more": torch.ones(1)}, folder / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match="'more' is not in all files"):
        ckptdiff.inspect(folder)
    shards = cut(trained(), 2)
    shards[1]["model.norm.weight"] = torch.zeros(32)
    folder = meta_like(tmp_path / "two", shards)
    assert not ckptdiff.fix(tree(llama()), folder, tmp_path / "out.pth").whole  # two norms are not one of twice
    (folder / "mp_rank_00_001").mkdir()
    assert main(["inspect", str(folder)]) == 2
    assert "cut by layers too" in capfd.readouterr().err
