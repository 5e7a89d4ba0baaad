"""`diff`: which keys are in which class, of any two of what can be read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed import checkpoint as dcp

import ckptdiff
from ckptdiff.cli import main

ROOT = Path(__file__).parents[2]


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        "emb.weight": torch.randn(50, 8),
        "layers.0.attn.weight": torch.randn(8, 8),
        "layers.0.norm.weight": torch.ones(8),
        "layers.1.attn.weight": torch.randn(8, 8),
        "layers.1.norm.weight": torch.ones(8),
        "head.bias": torch.randn(50).bfloat16(),
        "steps": torch.tensor(3),
    }


def sharded(folder: Path, tensors: dict[str, torch.Tensor], suffix: str = "safetensors") -> Path:
    folder.mkdir()
    places = {}
    for number, key in enumerate(tensors):
        name = f"model-{number % 2 + 1:05}-of-00002.{suffix}"
        places[key] = name
    for name in set(places.values()):
        some = {key: tensors[key] for key in tensors if places[key] == name}
        save_file(some, folder / name) if suffix == "safetensors" else torch.save(some, folder / name)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places}
    (folder / f"model.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def written(folder: Path, form: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The same state dict in each of the formats."""
    path = folder / f"of.{form}"
    if form == "pth":
        torch.save(tensors, path)
    elif form == "legacy":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    elif form == "safetensors":
        save_file(tensors, path)
    elif form in ("shards", "bin-shards"):
        return sharded(path, tensors, "safetensors" if form == "shards" else "bin")
    elif form == "dcp":
        dcp.save(dict(tensors), checkpoint_id=path, no_dist=True)
    elif form == "container":
        torch.save({"epoch": 3, "model": tensors}, path)
    elif form == "deflated":
        torch.save(tensors, folder / "stored.pth")
        with zipfile.ZipFile(folder / "stored.pth") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
    elif form == "live":
        return tensors
    elif form == "module":
        module = nn.Module()
        for key, tensor in tensors.items():
            below = module
            *parents, name = key.split(".")
            for parent in parents:
                if not hasattr(below, parent):
                    below.add_module(parent, nn.Module())
                below = getattr(below, parent)
            below.register_buffer(name, tensor)
        return module
    return path


FORMS = ("pth", "legacy", "safetensors", "shards", "bin-shards", "dcp", "container", "deflated", "live", "module")


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("forms")
    return {form: written(folder, form, state()) for form in FORMS}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", FORMS)
def test_the_same_values_in_every_format(forms: dict[str, Any], tmp_path: Path, form: str) -> None:
    changed = state()
    changed["layers.1.attn.weight"][2, 3] += 1
    torch.save(changed, tmp_path / "changed.pth")
    for other in ("pth", "live"):
        found = ckptdiff.diff(forms[form], forms[other])
        assert found.verdict in ("same values", "same file")
        assert set(found.equal) == set(state())
    found = ckptdiff.diff(forms[form], tmp_path / "changed.pth")
    assert found.verdict == "different values"
    assert list(found.changed) == ["layers.1.attn.weight"]
    assert found.changed["layers.1.attn.weight"].index == (2, 3)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", FORMS)
def test_the_digest_is_the_same_in_every_format(forms: dict[str, Any], form: str) -> None:
    digests, plain = ckptdiff.digest(forms[form]), ckptdiff.digest(forms["live"])
    assert digests.whole == plain.whole
    assert dict(digests.tensors) == dict(plain.tensors)


def test_a_copy_is_the_same_file(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    shutil.copy(tmp_path / "a.pth", tmp_path / "b.pth")
    (tmp_path / "c.pth").symlink_to("a.pth")
    for other in ("a.pth", "b.pth", "c.pth"):
        assert ckptdiff.diff(tmp_path / "a.pth", tmp_path / other).verdict == "same file"


def test_files_that_differ_beside_the_tensors_are_not_the_same_file(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors", {"step": "1"})
    save_file(state(), tmp_path / "b.safetensors", {"step": "2"})
    found = ckptdiff.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert found.verdict == "same values"
    assert [(entry.where, entry.key, entry.before, entry.after) for entry in found.beside] == [
        ("file metadata", "step", "1", "2")
    ]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    os.mkfifo(tmp_path / "pipe")
    for pair in ((tmp_path / "a.pth", tmp_path / "pipe"), (tmp_path / "pipe", tmp_path / "a.pth")):
        with pytest.raises(ckptdiff.CkptdiffError, match="not a regular file"):
            ckptdiff.diff(*pair)
    with pytest.raises(ckptdiff.CkptdiffError):
        ckptdiff.verify(tmp_path / "pipe")
    os.mkfifo(tmp_path / "a.pth.sha256")
    os.mkfifo(tmp_path / "a.pth.lock")
    assert ckptdiff.verify(tmp_path / "a.pth").ok


# Structure and names


def test_keys_that_only_one_side_has_and_other_shapes() -> None:
    a, b = state(), state()
    b["extra"] = b.pop("emb.weight")[:3]
    b["head.bias"] = torch.randn(60)
    found = ckptdiff.diff(a, b)
    assert found.verdict == "different structure"
    assert (found.only_in_a, found.only_in_b) == (("emb.weight",), ("extra",))
    assert found.other_shape == (("head.bias", (50,), (60,)),)


def test_a_prefix_and_other_names_are_renames() -> None:
    found = ckptdiff.diff(state(), {f"module.{key}": value for key, value in state().items()})
    assert found.verdict == "same values"
    assert dict(found.renamed) == {key: f"module.{key}" for key in state()}


def test_content_proves_a_rename_that_names_do_not() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(5, 5), torch.randn(5, 5)
    found = ckptdiff.diff({"red": one, "blue": other}, {"salt": other.clone(), "pepper": one.clone()})
    assert dict(found.renamed) == {"red": "pepper", "blue": "salt"}
    assert set(found.evidence.values()) == {"content"}
    assert found.verdict == "same values"


def test_constants_that_only_names_tell_apart_are_never_claimed() -> None:
    a = {"red": torch.ones(4), "blue": torch.ones(4), "green": torch.zeros(7)}
    b = {"salt": torch.ones(4), "pepper": torch.ones(4), "sugar": torch.zeros(7)}
    found = ckptdiff.diff(a, b)
    assert "content" not in found.evidence.values()
    assert not {"red", "blue"} & dict(found.renamed).keys()
    assert found.verdict == "different structure"


def test_the_finder_pairs_constants_only_where_others_are_renamed_alike() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 8)
    norms = {"norm1.weight": torch.ones(8), "norm2.weight": torch.ones(8)}
    a = {f"enc.0.{key}": value for key, value in (norms | {"fc.weight": weight}).items()}
    found = ckptdiff.diff(a, {key.replace("enc.", "encoder.layer."): value for key, value in a.items()})
    assert len(found.renamed) == 3
    assert found.verdict == "same values"
    other = {key.replace("norm1", "ln_1").replace("norm2", "ln_2"): value for key, value in a.items()}
    found = ckptdiff.diff(a, other)
    assert found.renamed == ()
    assert set(found.only_in_a) == {"enc.0.norm1.weight", "enc.0.norm2.weight"}
    a["enc.0.norm2.weight"] = torch.randn(8)
    other["enc.0.ln_2.weight"] = a["enc.0.norm2.weight"]
    found = ckptdiff.diff(a, other)  # one is proved, and no other is left
    assert dict(found.renamed)["enc.0.norm2.weight"] == "enc.0.ln_2.weight"


def test_equal_tensors_that_are_there_twice_prove_nothing() -> None:
    torch.manual_seed(0)
    twice = torch.randn(4, 3)
    found = ckptdiff.diff({"red": twice, "blue": twice.clone()}, {"salt": twice.clone(), "pepper": twice.clone()})
    assert found.renamed == ()


def test_rules_of_the_users_own(tmp_path: Path) -> None:
    a = {"enc.0.w": torch.zeros(3), "enc.1.w": torch.zeros(3)}
    b = {"encoder.0.w": torch.zeros(3), "encoder.1.w": torch.ones(3)}
    found = ckptdiff.diff(a, b, rename="enc.{*} -> encoder.{*}")
    assert dict(found.renamed) == {"enc.0.w": "encoder.0.w", "enc.1.w": "encoder.1.w"}
    assert list(found.changed) == ["enc.1.w"]
    assert found.changed["enc.1.w"].other == "encoder.1.w"


def test_rules_that_compute_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    parts = {name: torch.randn(4, 8) for name in ("q", "k", "v")}
    a = {f"attn.{name}.weight": value for name, value in parts.items()} | {"out.weight": torch.randn(8, 8)}
    b = {"attn.qkv.weight": torch.cat(list(parts.values())), "out.weight": a["out.weight"].clone()}
    b["out.weight"][2, 3] += 1
    torch.save({"epoch": 3, "model": a}, tmp_path / "a.pth")
    torch.save({"epoch": 4, "model": b}, tmp_path / "b.pth")
    rules = tmp_path / "fuse.rules.toml"
    fuse = "concat(0): attn.q.weight, attn.k.weight, attn.v.weight -> attn.qkv.weight"
    rules.write_text(f"version = 1\n[[rule]]\ntensors = '{fuse}'\n")
    found = ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth", rules=rules)
    assert (found.verdict, found.equal, list(found.changed)) == (
        "different values", ("attn.qkv.weight",), ["out.weight"],
    )  # fmt: skip
    assert found.a.name == str(tmp_path / "a.pth")
    assert [entry.key for entry in found.beside] == ["epoch"]
    command = ["diff", str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), "--rules", str(rules), "--hash"]
    assert main(command) == 1
    assert ckptdiff.digest(b).tensors["out.weight"][:12] in capsys.readouterr().out
    ckptdiff.lock(tmp_path / "a.pth", tmp_path / "weights.lock")
    with pytest.raises(ckptdiff.CkptdiffError, match="which has no values"):
        ckptdiff.diff(tmp_path / "weights.lock", tmp_path / "b.pth", rules=rules)


def test_ties_are_compared_key_by_key(tmp_path: Path) -> None:
    tied = torch.randn(6, 4)
    torch.save({"emb": tied, "head": tied}, tmp_path / "a.pth")
    torch.save({"emb": tied.clone(), "head": tied.clone()}, tmp_path / "b.pth")
    assert ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth").verdict == "same values"


def test_globs_choose_what_is_looked_at() -> None:
    a, b = state(), state(1)
    b["layers.0.norm.weight"] = a["layers.0.norm.weight"]
    found = ckptdiff.diff(a, b, keys=["*.norm.weight"])
    assert found.verdict == "same values"
    assert set(found.equal) == {"layers.0.norm.weight", "layers.1.norm.weight"}


def test_structure_alone_says_nothing_of_values() -> None:
    found = ckptdiff.diff(state(), state(1), values=False)
    assert found.verdict == "same structure"
    assert found.basis == "headers"
    assert ckptdiff.diff(state(), {"x": torch.ones(1)}, values=False).verdict == "different structure"


# Special layouts


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sparse_and_quantized_tensors_by_what_they_are_made_of(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    quantized = torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 3, torch.qint8)
    other_scale = torch.quantize_per_tensor(quantized.dequantize() * 2, 0.2, 3, torch.qint8)
    zeros = torch.tensor([0, 0])
    channels = torch.quantize_per_channel(torch.ones(2, 4), torch.tensor([0.1, 0.2]), zeros, 0, torch.qint8)
    other_channels = torch.quantize_per_channel(
        torch.ones(2, 4) * torch.tensor([[1.0], [2.0]]), torch.tensor([0.1, 0.4]), zeros, 0, torch.qint8
    )
    a = {"sparse": dense.to_sparse(), "q": quantized, "c": channels}
    b = {"sparse": (dense * 2).to_sparse(), "q": other_scale, "c": other_channels}
    for name, tensors in (("a.pth", a), ("a2.pth", a), ("b.pth", b)):
        torch.save(tensors, tmp_path / name)
    assert ckptdiff.diff(tmp_path / "a.pth", tmp_path / "a2.pth").verdict == "same values"
    found = ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert set(found.changed) == {"sparse", "q", "c"}
    assert found.changed["sparse"].max_abs == 3.0
    assert found.changed["q"].explained == "its scale or zero point is another"


def test_a_tensor_without_values_is_no_answer(tmp_path: Path) -> None:
    torch.save({"w": torch.empty(3, device="meta")}, tmp_path / "a.pth")
    with pytest.raises(ckptdiff.CkptdiffError, match="meta device"):
        ckptdiff.diff(tmp_path / "a.pth", {"w": torch.ones(3)})
    with pytest.raises(ckptdiff.CkptdiffError, match="meta device"):
        ckptdiff.digest(tmp_path / "a.pth")
    with pytest.raises(ckptdiff.CkptdiffError, match="sparse"):
        ckptdiff.diff({"w": torch.eye(2).to_sparse()}, {"w": torch.eye(2).to_sparse()})


def test_four_bits_are_four_bits(tmp_path: Path) -> None:
    def file(name: str, data: bytes) -> Path:
        header = json.dumps({"w": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}}).encode()
        (tmp_path / name).write_bytes(struct.pack("<Q", len(header)) + header + data)
        return tmp_path / name

    found = ckptdiff.diff(file("a.safetensors", b"\x21\x43\x65\x07"), file("b.safetensors", b"\x21\x43\x6d\x07"))
    change = found.changed["w"]
    # 0x5 is 3.0 and 0xd is -3.0, in the low half of the third byte.
    assert (change.count, change.max_abs, change.values, change.index) == (1, 6.0, (3.0, -3.0), (1, 0))
    assert change.max_ulp == 10


def test_the_other_byte_order(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "little.pth")
    with zipfile.ZipFile(tmp_path / "little.pth") as old, zipfile.ZipFile(tmp_path / "big.pth", "w") as new:
        widths = [t.element_size() for t in state().values()]
        for name in old.namelist():
            data = old.read(name)
            if "/data/" in name:
                width = widths[int(name.rpartition("/")[2])]
                data = b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))
            new.writestr(name, b"big" if name.endswith("byteorder") else data)
    found = ckptdiff.diff(tmp_path / "little.pth", tmp_path / "big.pth")
    assert found.verdict == "same values"
    assert ckptdiff.digest(tmp_path / "little.pth") == ckptdiff.digest(tmp_path / "big.pth")


# Containers


def test_what_lies_beside_the_weights_is_told(tmp_path: Path) -> None:
    def run(epoch: int, rate: float, moment: float) -> dict[str, Any]:
        optimizer = {"state": {0: {"exp_avg": torch.full((3,), moment)}}, "param_groups": [{"lr": rate, "params": [0]}]}
        return {"epoch": epoch, "model": {"w": torch.ones(3)}, "optimizer": optimizer, "args": {"nan": float("nan")}}

    torch.save(run(3, 0.1, 1.0), tmp_path / "a.ckpt")
    torch.save({**run(4, 0.2, 2.0), "scaler": {"scale": 1.0}}, tmp_path / "b.ckpt")
    found = ckptdiff.diff(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    assert found.verdict == "same values"
    told = {entry.key: (entry.before, entry.after) for entry in found.beside}
    assert told["epoch"] == ("int 3", "int 4")
    assert told["optimizer.param_groups.0.lr"] == ("float 0.1", "float 0.2")
    assert told["optimizer.state.0.exp_avg"] == ("float32 [3]", "float32 [3], 3 of its values changed")
    assert told["scaler"][0] is None
    assert len(told) == 4


def test_versions_of_modules_and_values_that_are_no_tensors(tmp_path: Path) -> None:
    a, b = nn.BatchNorm1d(3).state_dict(), nn.BatchNorm1d(3).state_dict()
    b._metadata[""]["version"] = 1  # type: ignore[attr-defined]
    torch.save(a | {"note": "old"}, tmp_path / "plain.pth")
    for name, one, note in (("a.pth", a, "old"), ("b.pth", b, "new")):
        one["note"] = note
        torch.save(one, tmp_path / name)
    found = ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert found.verdict == "same values"
    assert {(entry.where, entry.key) for entry in found.beside} == {("_metadata", ""), ("no tensor", "note")}


# Checksums


def test_checksums_alone(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    torch.save(state(), tmp_path / "same.pth")
    changed = state()
    changed["emb.weight"][0, 0] += 1
    torch.save(changed, tmp_path / "b.pth")
    found = ckptdiff.diff(tmp_path / "a.pth", tmp_path / "same.pth", quick=True)
    assert (found.verdict, found.basis) == ("same values", "checksums")
    assert "32 bits" in found.doubts[0]
    found = ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth", quick=True)
    assert list(found.changed) == ["emb.weight"]
    assert found.changed["emb.weight"].count is None
    save_file(state(), tmp_path / "c.safetensors")
    with pytest.raises(ckptdiff.CkptdiffError, match=r"c\.safetensors has none"):
        ckptdiff.diff(tmp_path / "a.pth", tmp_path / "c.safetensors", quick=True)


def test_damage_since_it_was_written_is_what_checksums_do_not_see(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    place = data.find(state()["emb.weight"].numpy().tobytes()[:64])
    data[place] ^= 1
    (tmp_path / "b.pth").write_bytes(data)
    assert ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth", quick=True).same
    assert list(ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth").changed) == ["emb.weight"]


# Locks


def test_a_lock_stands_for_its_checkpoint(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    whole = ckptdiff.lock(tmp_path / "a.pth", tmp_path / "weights.lock")
    assert whole == ckptdiff.digest(tmp_path / "a.pth").whole == ckptdiff.digest(tmp_path / "weights.lock").whole
    assert ckptdiff.diff(tmp_path / "weights.lock", state()).verdict == "same values"
    changed = state()
    changed["emb.weight"][0, 0] += 1
    found = ckptdiff.diff(changed, tmp_path / "weights.lock")
    assert (found.basis, list(found.changed)) == ("digests", ["emb.weight"])
    renamed = ckptdiff.diff({f"m.{key}": value for key, value in state().items()}, tmp_path / "weights.lock")
    assert renamed.verdict == "same values"


def test_a_lock_that_somebody_changed_is_refused(tmp_path: Path) -> None:
    ckptdiff.lock(state(), tmp_path / "weights.lock")
    text = (tmp_path / "weights.lock").read_text()
    line = text.splitlines()[3]
    for wrong in (
        text.replace(line[:8], "00000000"),
        text + line + "\n",
        text.replace("float32", "floaty"),
        text + "nonsense\n",
        text.splitlines()[0] + "\n",
    ):
        (tmp_path / "weights.lock").write_text(wrong)
        with pytest.raises(ckptdiff.CkptdiffError, match="no sound lock"):
            ckptdiff.diff(tmp_path / "weights.lock", state())


def test_names_of_any_kind_survive_a_lock(tmp_path: Path) -> None:
    odd = {'a "b"\n\\c': torch.ones(2), "ü💡\ud800": torch.zeros(2), "": torch.ones(3), "plain": torch.tensor(1)}
    ckptdiff.lock(odd, tmp_path / "weights.lock")
    assert ckptdiff.diff(odd, tmp_path / "weights.lock").verdict == "same values"


# The command


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    a, b = state(), state()
    b["layers.0.attn.weight"][1, 1] += 0.5
    b["head.bias"] = b["head.bias"].float()
    torch.save({"epoch": 1, "model": a}, tmp_path / "a.pth")
    torch.save({"epoch": 2, "model": b}, tmp_path / "b.pth")
    save_file(a, tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_exit_codes(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "a.pth", "a.safetensors"]) == 0
    assert main(["diff", "a.pth", "b.pth"]) == 1
    assert main(["diff", "a.pth", "b.pth", "--fail-on", "structure"]) == 0
    assert main(["diff", "a.pth", "b.pth", "--atol", "1"]) == 0
    assert main(["diff", "a.pth", "b.pth", "--keys", "emb.*"]) == 0
    assert main(["diff", "a.pth", "none.pth"]) == 2
    assert main(["diff", "a.pth", "b.pth", "--atol", "much"]) == 2
    assert main(["diff", "a.pth", "b.pth", "--stat", "--name-only"]) == 2
    (pair / "cut.pth").write_bytes((pair / "a.pth").read_bytes()[:-3000])
    assert main(["diff", "a.pth", "cut.pth"]) == 2
    capsys.readouterr()


def test_two_checkpoints_and_no_command(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a.pth", "b.pth"]) == 1
    assert capsys.readouterr().out.startswith("1 of 7 tensors differs.")
    assert main(["compare", "a.pth", "b.pth"]) == 2
    assert "`ckptdiff diff A B` compares two checkpoints" in capsys.readouterr().err
    assert main(["nonsense", "b.pth"]) == 2


def test_shorter_listings(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["diff", "a.pth", "b.pth", "--name-only"])
    assert capsys.readouterr().out == "layers.0.attn.weight\n"
    main(["diff", "a.pth", "b.pth", "--stat"])
    assert " layers.0.attn | 1 of 1 ####" in capsys.readouterr().out


def test_json_follows_its_schema(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads((resources.files("ckptdiff.render") / "schemas" / "diff.json").read_text())
    for arguments in ("a.pth b.pth", "a.pth b.pth --hash", "a.pth a.safetensors", "a.pth no.pth"):
        main(["diff", *arguments.split(), "--format", "json"])
        answer = json.loads(capsys.readouterr().out)
        jsonschema.validate(answer, schema)
    main(["diff", "a.pth", "b.pth", "--format", "json", "--hash"])
    change = json.loads(capsys.readouterr().out)["changed"][0]
    assert (change["key"], change["count"], change["index"]) == ("layers.0.attn.weight", 1, [1, 1])
    assert change["digests"][0] == ckptdiff.digest("a.pth").tensors["layers.0.attn.weight"]


def test_neither_diff_nor_digest_imports_torch(pair: Path) -> None:
    code = (
        "import sys\n"
        "from ckptdiff.cli import main\n"
        "main(['diff', 'a.pth', 'a.safetensors', '--format', 'text'])\n"
        "early = {'torch', 'numpy', 'rich', 'pydantic', 'distributed'} & set(sys.modules)\n"
        "main(['diff', 'a.pth', 'b.pth', '--format', 'text'])\n"
        "main(['digest', 'a.pth'])\n"
        "main(['lock', 'a.pth', '-o', 'weights.lock'])\n"
        "late = {'torch', 'rich', 'pydantic', 'distributed'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(early | late)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 7 tensors differs." in done.stdout


def test_nothing_in_either_file_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"model": {"w": torch.ones(2)}, "evil": Evil()}, tmp_path / "a.pth")
    torch.save({"model": {"w": torch.ones(2)}, "evil": 3}, tmp_path / "b.pth")
    found = ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert found.verdict == "same values"
    assert [entry.key for entry in found.beside] == ["evil"]
    assert not (tmp_path / "ran").exists()
    assert pickle.loads(pickle.dumps(3)) == 3


def test_hostile_names_are_shown_harmless(tmp_path: Path) -> None:
    a = {"\x1b[31mred\n::error::w": torch.ones(2)}
    text = str(ckptdiff.diff(a, {"x": torch.zeros(3)}))
    assert "\x1b" not in text
    assert "\n::error" not in text


def test_inspect_shows_digests(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads((resources.files("ckptdiff.render") / "schemas" / "inspect.json").read_text())
    digests = ckptdiff.digest("a.pth")
    main(["inspect", "a.safetensors", "--hash", "--format", "json"])
    answer = json.loads(capsys.readouterr().out)
    jsonschema.validate(answer, schema)
    assert answer["digest"] == digests.whole
    assert {row["key"]: row["digest"] for row in answer["tensors"]} == dict(digests.tensors)
    main(["inspect", "a.pth", "--hash"])
    shown = capsys.readouterr().out
    assert digests.whole in shown
    assert all(digest in shown for digest in digests.tensors.values())
