"""What happened to tensors, where it can be proved, and what is not claimed."""

from __future__ import annotations

import pytest
import torch

import ckptdiff


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(shape)


def why(a: torch.Tensor, b: torch.Tensor) -> str | None:
    return ckptdiff.diff({"w": a}, {"w": b}).changed["w"].explained


W = rand(60, 40)
SQUARE = rand(48, 48)
ORDER = torch.tensor([1, 0, 2, *range(59, 2, -1)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int16], ids=str)
def test_rows_and_columns_that_were_permuted(dtype: torch.dtype) -> None:
    w = (W * 100).to(dtype)
    assert why(w, w[ORDER]) == "rows permuted: 60 of 60 moved" or (why(w, w[ORDER]) or "").startswith("rows permuted")
    assert why(w, w.flip(0)) == "rows in reverse order"
    columns = torch.tensor([*range(1, 40), 0])
    assert why(w, w[:, columns]) == "columns permuted: 40 of 40 moved"
    swapped = w.clone()
    swapped[[3, 5]] = w[[5, 3]]
    assert why(w, swapped) == "rows permuted: 2 of 60 moved"
    changed = w[ORDER].clone()
    changed[0, 0] += 1
    assert not (why(w, changed) or "").startswith("rows permuted")


def test_filters_of_a_convolution_and_elements_of_a_vector() -> None:
    conv = rand(16, 3, 3, 3)
    assert why(conv, conv.flip(0)) == "rows in reverse order"
    vector = rand(20)
    assert (why(vector, vector.roll(1)) or "").startswith("elements permuted")


def test_a_square_matrix_that_was_transposed() -> None:
    assert why(SQUARE, SQUARE.t()) == "transposed"


@pytest.mark.parametrize("factor", [0.5, 2.0, 1.1, -1.0, 0.99, 1 / 3, 0.125])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_scaled_copy(factor: float, dtype: torch.dtype) -> None:
    w = W.to(dtype)
    said = why(w, (w.double() * factor).to(dtype))
    assert said is not None
    assert said.startswith("scaled by ")
    assert float(said.removeprefix("scaled by ")) == pytest.approx(factor, rel=3e-3 if dtype != torch.float32 else 1e-5)
    noisy = (w.double() * factor).to(dtype) + (0.01 * rand(60, 40, seed=5)).to(dtype)
    assert not (why(w, noisy) or "").startswith("scaled")


def test_a_delta_of_low_rank_is_stated_with_its_residual() -> None:
    w = rand(200, 150)
    for rank in (1, 2, 8):
        delta = rand(200, rank, seed=1) @ rand(rank, 150, seed=2) * 0.1
        said = why(w, w + delta)
        assert said is not None
        assert said.startswith(f"low-rank change: rank {rank} of 150, residual ")
    said = why(w.bfloat16(), (w.bfloat16().float() + rand(200, 4, seed=1) @ rand(4, 150, seed=2)).bfloat16())
    assert said is not None
    assert said.startswith("low-rank change: rank 4 of 150")
    assert why(w, w + 0.1 * rand(200, 150, seed=3)) is None


def test_what_became_constant() -> None:
    assert why(W, torch.zeros(60, 40)) == "constant: every element is 0"
    assert why(W, torch.full((60, 40), 0.5)) == "constant: every element is 0.5"


def test_few_rows_alone() -> None:
    changed = W.clone()
    changed[[7, 9]] += 1
    assert why(W, changed) == "only in 2 of 60 rows (7, 9)"


def shape_why(a: torch.Tensor, b: torch.Tensor) -> str | None:
    return ckptdiff.diff({"w": a}, {"w": b}).explained.get("w")


def test_other_shapes() -> None:
    assert shape_why(W, W.t().contiguous()) == "transposed"
    assert shape_why(W, W[:50]) == "sliced: the first 50 of A's 60 rows"
    assert shape_why(W, W[5:25]) == "sliced: rows 5 to 24 of A's 60 rows"
    assert shape_why(W, torch.cat([W, torch.zeros(4, 40)])) == "padded: A's 60 rows, then 4 of zeros"
    assert shape_why(W, torch.cat([W, rand(4, 40, seed=9)])) == "padded: A's 60 rows, then 4 new ones"
    assert shape_why(W, W[:, :30].contiguous()) == "sliced: the first 30 of A's 40 columns"
    assert shape_why(W, torch.cat([W, rand(60, 2, seed=9)], dim=1)) == "padded: A's 40 columns, then 2 new ones"
    assert shape_why(W, W.reshape(60, 40, 1, 1)) == "the same elements in another shape"
    assert shape_why(W, rand(50, 40, seed=4)) is None
    assert shape_why(W, rand(40, 60, seed=4)) is None


def qkv(heads: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    parts = {f"attn.{name}.weight": rand(24, 16, seed=place) for place, name in enumerate("qkv")}
    if not heads:
        return parts, {"attn.qkv.weight": torch.cat(list(parts.values()))}
    split = [part.reshape(heads, 24 // heads, 16) for part in parts.values()]
    return parts, {"attn.qkv.weight": torch.stack(split, dim=1).reshape(72, 16)}


def test_fused_in_blocks_and_per_head_and_the_other_way_round() -> None:
    parts, fused = qkv()
    names = "attn.q.weight, attn.k.weight, attn.v.weight"
    found = ckptdiff.diff(parts, fused)
    assert found.verdict == "different structure"
    assert found.explained["attn.qkv.weight"] == f"fused from A's {names}, one after the other"
    assert found.explained["attn.k.weight"] == "fused into B's attn.qkv.weight"
    parts, fused = qkv(heads=4)
    found = ckptdiff.diff(parts, fused)
    assert found.explained["attn.qkv.weight"] == f"fused from A's {names}, 6 rows of each in turn (4 heads)"
    found = ckptdiff.diff(fused, parts)
    assert found.explained["attn.qkv.weight"] == f"split into B's {names}, 6 rows of each in turn (4 heads)"
    assert found.explained["attn.v.weight"] == "split off from A's attn.qkv.weight"
    fused["attn.qkv.weight"][5, 5] += 1
    assert ckptdiff.diff(parts, fused).explained == {}


def test_fused_in_groups_of_several_sizes_and_stacked() -> None:
    parts = {f"a.{name}.weight": rand(rows, 16, seed=rows) for name, rows in (("q", 32), ("k", 8), ("v", 10))}
    q, k, v = (part.reshape(2, -1, 16) for part in parts.values())
    fused = {"a.qkv.weight": torch.cat([q, k, v], dim=1).reshape(-1, 16)}
    said = ckptdiff.diff(parts, fused).explained["a.qkv.weight"]
    assert said.endswith(", 16, 4, 5 rows of them in turn (2 groups)")
    experts = {f"e.{i}.up.weight": rand(12, 16, seed=i) for i in range(4)}
    stacked = {"e.up": torch.stack(list(experts.values()))}
    found = ckptdiff.diff(experts, stacked)
    assert found.explained["e.up"].startswith("fused from A's e.0.up.weight, e.1.up.weight")
    assert ckptdiff.diff(stacked, experts).explained["e.up"].startswith("split into B's e.0.up.weight")
    stacked["e.up"][1, 2, 3] += 1
    assert ckptdiff.diff(experts, stacked).explained == {}


def test_transposed_under_another_name() -> None:
    found = ckptdiff.diff({"dense.kernel": W}, {"linear.weight": W.t().contiguous()})
    assert (
        found.explained
        == {
            "dense.kernel": "transposed, B's linear.weight",
            "linear.weight": "transposed, A's dense.kernel",
        }
        or found.renamed
    )  # names may pair them first


def test_a_tie_that_the_other_side_writes_once(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    torch.save({"emb": W, "head": W}, folder / "a.pth")
    torch.save({"emb": W}, folder / "b.pth")
    found = ckptdiff.diff(folder / "a.pth", folder / "b.pth")
    assert found.explained == {"head": "tied to emb, which is equal"}
