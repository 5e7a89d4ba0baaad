"""`verify`: each way in which a file is not whole or not sane, one sentence each."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ckptdiff
from ckptdiff.cli import main


def kinds(path: Path, **options: object) -> list[str]:
    return sorted({fault.kind for fault in ckptdiff.verify(path, **options).faults})  # type: ignore[arg-type]


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a.weight": torch.randn(20, 30), "a.bias": torch.zeros(20), "b.weight": torch.randn(7, 20).bfloat16()}


def flipped(path: Path, what: bytes) -> Path:
    """A copy with one bit of `what` turned."""
    data = bytearray(path.read_bytes())
    data[data.index(what)] ^= 4
    out = path.with_name(f"flipped-{path.name}")
    out.write_bytes(data)
    return out


def test_what_is_whole_has_no_faults(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    torch.save(model.state_dict(), tmp_path / "a.pth")
    save_file(state(), tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        found = ckptdiff.verify(tmp_path / name)
        assert found.ok, str(found)
        assert "is whole and sane" in str(found)


def test_one_flipped_bit_is_found_by_the_checksum_that_torch_never_looks_at(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    damaged = flipped(tmp_path / "a.pth", state()["a.weight"].numpy().tobytes()[:40])
    torch.load(damaged)  # says nothing
    (fault,) = ckptdiff.verify(damaged).faults
    assert fault.kind == "checksum"
    assert "'a.weight'" in fault.text


def test_every_damaged_record_is_a_fault_of_its_own(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    once = flipped(tmp_path / "a.pth", state()["a.weight"].numpy().tobytes()[:40])
    twice = flipped(once, state()["b.weight"].view(torch.uint8).numpy().tobytes()[:40])
    assert [fault.kind for fault in ckptdiff.verify(twice).faults] == ["checksum", "checksum"]


def test_a_compressed_record_that_does_not_inflate_is_a_fault(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(5000), "v": torch.ones(3)}, tmp_path / "stored.pth")
    with zipfile.ZipFile(tmp_path / "stored.pth") as old, zipfile.ZipFile(tmp_path / "a.pth", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        record = next(info for info in new.infolist() if info.filename.endswith("data/0"))
        start = record.header_offset + 30 + len(record.filename)
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[start + 3] ^= 255
    (tmp_path / "a.pth").write_bytes(data)
    assert kinds(tmp_path / "a.pth") == ["unreadable"]


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_truncated_file_is_a_fault_and_an_absent_one_no_answer(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.save(state(), path) if name.endswith("pth") else save_file(state(), path)
    path.write_bytes(path.read_bytes()[:-700])
    assert kinds(path) == ["unreadable"]
    with pytest.raises(ckptdiff.CkptdiffError, match="does not exist"):
        ckptdiff.verify(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no checkpoint at all")
    with pytest.raises(ckptdiff.CkptdiffError):
        ckptdiff.verify(tmp_path / "text.pth")


def test_holes_and_overlaps_are_faults(tmp_path: Path) -> None:
    for name, offsets in (("hole", [8, 16]), ("overlap", [0, 8])):
        header = json.dumps(
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": offsets},
            }
        ).encode()
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"\1" * offsets[1])
        assert kinds(path) == (["unreadable"])


def shards(folder: Path) -> Path:
    folder.mkdir()
    one, other = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({key: state()[key] for key in ("a.weight", "a.bias")}, folder / one)
    save_file({"b.weight": state()["b.weight"]}, folder / other)
    total = sum(tensor.nbytes for tensor in state().values())
    places = {"a.weight": one, "a.bias": one, "b.weight": other}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_an_index_and_its_shards_in_both_directions(tmp_path: Path) -> None:
    folder = shards(tmp_path / "m")
    path = folder / "model.safetensors.index.json"
    assert ckptdiff.verify(folder).ok
    index = json.loads(path.read_text())

    def with_index(**changes: object) -> list[str]:
        path.write_text(json.dumps({**index, **changes}))
        return [fault.text for fault in ckptdiff.verify(folder).faults]

    (text,) = with_index(metadata={"total_size": 5})
    assert "total_size of 5 bytes" in text
    (text,) = with_index(weight_map={**index["weight_map"], "c.weight": "model-00001-of-00002.safetensors"})
    assert "claims 1 keys that no shard has" in text
    (text,) = with_index(weight_map={key: file for key, file in index["weight_map"].items() if key != "a.bias"})
    assert "does not mention 1 keys" in text
    (text,) = with_index(weight_map={**index["weight_map"], "a.bias": "model-00002-of-00002.safetensors"})
    assert "in another shard" in text
    path.write_text(json.dumps(index))
    (folder / "model-00003-of-00002.safetensors").write_bytes(b"x")
    (fault,) = ckptdiff.verify(folder).faults
    assert "model-00003-of-00002.safetensors" in fault.text
    (folder / "model-00003-of-00002.safetensors").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert kinds(folder) == ["unreadable"]


def test_sums_that_lie_beside_a_file(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    right = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    beside = tmp_path / "a.safetensors.sha256"
    for text in (
        right,
        f"{right}  a.safetensors\n",
        f"{right.upper()} *a.safetensors\n",
        f"{right}  dir/a.safetensors",
    ):
        beside.write_text(text)
        found = ckptdiff.verify(tmp_path / "a.safetensors")
        assert found.ok
        assert "sha256" in found.checked
    beside.write_text(f"{'0' * 64}  a.safetensors\n")
    assert kinds(tmp_path / "a.safetensors") == ["sha256"]
    beside.unlink()
    (tmp_path / "SHA256SUMS").write_text(f"{right}  other.safetensors\n{'0' * 64}  a.safetensors\n")
    assert kinds(tmp_path / "a.safetensors") == ["sha256"]


def test_a_lock_is_held_against_the_values(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    ckptdiff.lock(tmp_path / "a.pth", tmp_path / "weights.lock")
    save_file(state(), tmp_path / "a.safetensors")
    assert ckptdiff.verify(tmp_path / "a.safetensors", lock=tmp_path / "weights.lock").ok
    damaged = flipped(tmp_path / "a.safetensors", state()["a.weight"].numpy().tobytes()[:40])
    (fault,) = ckptdiff.verify(damaged, lock=tmp_path / "weights.lock").faults
    assert (fault.kind, fault.key) == ("lock", "a.weight")
    ckptdiff.lock(tmp_path / "a.pth", f"{damaged}.lock")
    assert kinds(damaged) == ["lock"]  # found by itself
    other = {**state(), "c": torch.ones(2), "a.bias": torch.zeros(21)}
    del other["b.weight"]
    torch.save(other, tmp_path / "other.pth")
    keys = [fault.key for fault in ckptdiff.verify(tmp_path / "other.pth", lock=tmp_path / "weights.lock").faults]
    assert sorted(keys) == ["a.bias", "b.weight", "c"]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "tensor", "kind"),
    [
        ("a.weight", torch.tensor([[1.0, NAN]]), "nan"),
        ("a.weight", torch.tensor([[1.0, INF]]).bfloat16(), "nan"),
        ("a.weight", torch.tensor([1.0, NAN]).to(torch.float8_e4m3fn), "nan"),
        ("a.bias", torch.tensor([1 + 1j * NAN]), "nan"),
        ("a.weight", torch.zeros(3, 4), "zeros"),
        ("a.weight", torch.full((3, 4), -0.0), "zeros"),
        ("a.weight", torch.full((3, 4), 1e-40), None),
        ("a.bias", torch.zeros(4), None),
        ("a.lora_B.weight", torch.zeros(4, 3), None),
        ("positions", torch.zeros(4, 3, dtype=torch.int64), None),
        ("attn_mask", torch.full((3, 3), -INF).triu(1), None),
        ("empty", torch.zeros(0, 3), None),
        ("steps", torch.tensor(0), None),
    ],
)
def test_values_that_no_weights_have(tmp_path: Path, key: str, tensor: torch.Tensor, kind: str | None) -> None:
    torch.save({key: tensor, "fine": torch.ones(2)}, tmp_path / "a.pth")
    scales = "companions"  # a float8 alone lacks its scale, too
    assert [one for one in kinds(tmp_path / "a.pth") if one != scales] == ([kind] if kind else [])
    assert ckptdiff.verify(tmp_path / "a.pth", allow=[key]).ok
    assert ckptdiff.verify(tmp_path / "a.pth", values=False, allow=key).ok


def packed(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.uint8)


SCALE = torch.ones(2, 2)
QUANTISED: dict[str, dict[str, torch.Tensor]] = {
    "bitsandbytes, 4 bits": {
        "l.weight": packed(32, 1), "l.weight.absmax": torch.ones(2), "l.weight.quant_map": torch.ones(16),
        "l.weight.quant_state.bitsandbytes__nf4": packed(5),
    },
    "bitsandbytes, 8 bits": {"l.weight": torch.ones(4, 4, dtype=torch.int8), "l.SCB": torch.ones(4)},
    "GPTQ": {
        "l.qweight": torch.ones(4, 4, dtype=torch.int32), "l.scales": SCALE,
        "l.qzeros": torch.ones(1, 1, dtype=torch.int32),
    },
    "compressed-tensors": {"l.weight_packed": torch.ones(4, 4, dtype=torch.int32), "l.weight_scale": SCALE},
    "fp8": {"l.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "l.weight_scale_inv": SCALE},
    "mxfp4": {"mlp.gate_up_proj_blocks": packed(4, 2, 16), "mlp.gate_up_proj_scales": packed(4, 2)},
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTISED)
def test_every_packed_weight_has_its_companions(tmp_path: Path, name: str) -> None:
    every = {**QUANTISED[name], "plain.weight": torch.ones(3, 3)}
    save_file(every, tmp_path / "a.safetensors")
    found = ckptdiff.verify(tmp_path / "a.safetensors")
    assert found.ok, str(found)
    main_key = next(iter(QUANTISED[name]))
    for key in QUANTISED[name]:
        save_file({other: tensor for other, tensor in every.items() if other != key}, tmp_path / "b.safetensors")
        faults = ckptdiff.verify(tmp_path / "b.safetensors").faults
        assert {fault.kind for fault in faults} == {"companions"}, key
        assert len(faults) == 1 or key == main_key


def of(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.ones(shape).to(dtype)


F8, I8, U8, I32, F16 = torch.float8_e4m3fn, torch.int8, torch.uint8, torch.int32, torch.float16
HEALTHY: dict[str, dict[str, torch.Tensor]] = {
    "float8, all of it cast": {"m.weight": of(F8, 8, 8), "m.bias": of(F8, 8), "n.weight": of(F8, 8, 8)},
    "float8 of ComfyUI": {"m.weight": of(F8, 8, 8), "m.scale_weight": torch.ones(1)},
    "EETQ": {"m.weight": of(I8, 8, 8), "m.weight_scales": of(F16, 8)},
    "Marlin": {"m.B": of(I32, 8, 8), "m.s": of(F16, 1, 8)},
    "HQQ": {"m.W_q": of(U8, 8, 8), "m.scale": of(F16, 8, 1), "m.zero": of(F16, 8, 1)},
    "Quanto": {"m.weight._data": of(I8, 8, 8), "m.weight._scale": of(F16, 8, 1), "m.input_scale": torch.ones(())},
    "nvfp4 of compressed-tensors": {
        "m.weight_packed": of(U8, 8, 8), "m.weight_scale": of(F8, 8, 1), "m.weight_global_scale": torch.ones(1),
    },
    "nvfp4 of ModelOpt": {
        "m.weight": of(U8, 8, 8), "m.weight_scale": of(F8, 8, 1), "m.weight_scale_2": torch.ones(()),
    },
    "float8 experts": {"e.gate_up_proj": of(F8, 2, 8, 8), "e.gate_up_proj_scale_inv": torch.ones(2, 1, 1)},
    "bytes that are no weight": {"relative.ids": of(U8, 8, 8), "mean.weight": of(U8, 8), "blk.scales": of(F16, 3)},
}  # fmt: skip
LACKING: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "nvfp4 of compressed-tensors": (
        {"m.weight_packed": of(U8, 8, 8), "m.weight_scale": of(F8, 8, 1)}, "m.weight_global_scale",
    ),
    "nvfp4 of ModelOpt": ({"m.weight": of(U8, 8, 8), "m.weight_scale": of(F8, 8, 1)}, "m.weight_scale_2"),
    "float8 experts": ({"e.gate_up_proj": of(F8, 2, 8, 8)}, "e.gate_up_proj_scale_inv"),
    "mxfp4 without its blocks": ({"e.up_scales": of(U8, 2, 8, 4)}, "e.up_scales"),
    "bitsandbytes, nested": (
        {
            "m.weight": of(U8, 32, 1), "m.weight.absmax": of(U8, 2), "m.weight.quant_map": torch.ones(16),
            "m.weight.quant_state.bitsandbytes__nf4": of(U8, 50),
        },
        "m.weight.nested_absmax and m.weight.nested_quant_map",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_published_is_no_false_alarm(tmp_path: Path, name: str) -> None:
    save_file({**HEALTHY[name], "plain.weight": torch.ones(3, 3)}, tmp_path / "a.safetensors")
    found = ckptdiff.verify(tmp_path / "a.safetensors")
    assert found.ok, str(found)


@pytest.mark.parametrize("name", LACKING)
def test_the_companion_that_is_lacking_is_named(tmp_path: Path, name: str) -> None:
    tensors, named = LACKING[name]
    save_file(tensors, tmp_path / "a.safetensors")
    (fault,) = ckptdiff.verify(tmp_path / "a.safetensors").faults
    assert fault.kind == "companions"
    assert named in fault.text


# Writing what is damaged


def test_damage_is_copied_only_on_demand_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(state(), tmp_path / "a.pth")
    damaged = flipped(tmp_path / "a.pth", state()["a.weight"].numpy().tobytes()[:40])
    out = tmp_path / "out.safetensors"
    with pytest.raises(ckptdiff.CkptdiffError, match=r"damaged.*a\.weight"):
        ckptdiff.rewrite(damaged, out)
    assert not out.exists()
    assert main(["rewrite", str(damaged), "-o", str(out), "--force-damaged"]) == 0
    assert "damaged, and copied as it is" in capsys.readouterr().out
    assert list(ckptdiff.diff(tmp_path / "a.pth", out).changed) == ["a.weight"]
    ckptdiff.rewrite(damaged, tmp_path / "out.pth", force_damaged=True)
    assert kinds(tmp_path / "out.pth") == ["checksum"]  # the evidence is not lost


def test_exit_codes_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(state(), tmp_path / "a.pth")
    damaged = flipped(tmp_path / "a.pth", state()["a.weight"].numpy().tobytes()[:40])
    assert main(["verify", str(tmp_path / "a.pth")]) == 0
    assert main(["verify", str(damaged)]) == 1
    assert main(["verify", str(tmp_path / "none.pth")]) == 2
    capsys.readouterr()
    assert main(["verify", str(damaged), "--format", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["outcome"] == "fail"
    assert [fault["kind"] for fault in answer["faults"]] == ["checksum"]
