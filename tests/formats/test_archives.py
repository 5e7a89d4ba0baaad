"""A zip of several checkpoints is read where they lie; archives of other makes are called what they are."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError
from tests.formats.oracle import assert_same

pytestmark = pytest.mark.filterwarnings("ignore")


def policy() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def dump(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def zipped(tmp_path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(data)
    return path


def baselines(tmp_path: Path, **more: bytes) -> Path:
    """As Stable-Baselines3 saves an algorithm (save_util.save_to_zip_file)."""
    model = policy()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    members = {
        "data": json.dumps({"gamma": 0.9}).encode(),
        "pytorch_variables.pth": dump({}),
        "policy.pth": dump({**policy().state_dict(), "steps": 7}),
        "policy.optimizer.pth": dump(optimizer.state_dict()),
        "_stable_baselines3_version": b"2.0",
    }
    return zipped(tmp_path, {**members, **more})


def refusal(path: Path, key: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path, key=key)
    assert "\n" not in caught.value.message + caught.value.hint
    return f"{caught.value.message} | {caught.value.hint}"


def test_the_only_model_among_the_members_is_found(tmp_path: Path) -> None:
    checkpoint = read(baselines(tmp_path))
    assert (checkpoint.state_dict_key, checkpoint.format) == ("policy.pth", "zip of torch-zip")
    assert_same(checkpoint, {**policy().state_dict(), "steps": 7})
    assert "dict of 0" in checkpoint.container["pytorch_variables.pth"]
    assert "an optimizer's state" in checkpoint.container["policy.optimizer.pth"]


def test_a_key_names_a_member_and_leads_on_inside(tmp_path: Path) -> None:
    path = baselines(tmp_path, **{"run.pth": dump({"model": policy().state_dict(), "ema": policy().state_dict()})})
    assert read(path, key="policy.pth").state_dict_key == "policy.pth"
    checkpoint = read(path, key="run.pth.ema")
    assert checkpoint.state_dict_key == "run.pth.ema"
    assert [other.key for other in checkpoint.alternatives] == ["run.pth.model"]
    assert list(read(path, key="policy.optimizer.pth.state.1").entries) == ["step", "exp_avg", "exp_avg_sq"]
    said = refusal(path, "policy.optimizer.pth")
    assert "'state.0' (3 tensors)" in said
    assert "each after 'policy.optimizer.pth' and a dot" in said
    assert "Checkpoints in it, for key=: 'pytorch_variables.pth', 'policy.pth'" in refusal(path, "polcy.pth")


def test_several_are_listed_with_their_tensors(tmp_path: Path) -> None:
    arrays = safetensors.torch.save({"a": torch.ones(2)})
    path = baselines(tmp_path, **{"critic/model.safetensors": arrays})
    said = refusal(path)
    assert "a zip archive of 4 checkpoints" in said
    assert "'policy.pth' (6 tensors), 'critic/model.safetensors' (1 tensor)" in said or "(7 tensors)" in said
    assert list(read(path, key="critic/model.safetensors").entries) == ["a"]


@pytest.mark.parametrize("key", [None, "policy.pth"])
def test_a_member_is_compared_written_and_loaded_where_it_lies(key: str | None, tmp_path: Path) -> None:
    path = baselines(tmp_path)
    ckptdiff.rewrite(path, tmp_path / "out.pth", key=key, verify_bytes=True)
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert written["steps"] == 7
    assert all(torch.equal(written[name], value) for name, value in policy().state_dict().items())
    ckptdiff.filter(policy(), path, tmp_path / "fits.safetensors", key=key, verify_bytes=True)
    assert ckptdiff.compare(policy(), tmp_path / "fits.safetensors", check_values=True).loads()
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ckptdiff.load(model, path, key=key)
    assert all(torch.equal(value, policy().state_dict()[name]) for name, value in model.state_dict().items())
    report = ckptdiff.compare(policy(), path, key=key, check_values=True)
    assert report.unexpected_keys == ["steps"]


def test_compressed_members_are_to_be_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path, {"policy.pth": dump(policy().state_dict())}, zipfile.ZIP_DEFLATED)
    assert "is compressed in its zip archive" in refusal(path)
    assert "is compressed in its zip archive" in refusal(path, "policy.pth")


def test_damage_in_a_member_is_told_of_the_member(tmp_path: Path) -> None:
    whole = dump(policy().state_dict())
    path = zipped(tmp_path, {"a.pth": whole, "b.pth": whole[: len(whole) // 2]})
    assert read(path).state_dict_key == "a.pth"
    assert "b.pth is truncated" in refusal(path, "b.pth")


def test_zips_in_zips_have_an_end(tmp_path: Path) -> None:
    data = dump(policy().state_dict())
    for _ in range(200):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("again.pth", data)
        data = stream.getvalue()
    path = tmp_path / "deep.zip"
    path.write_bytes(data)
    assert "zip archive" in refusal(path)


def test_a_package_is_named(tmp_path: Path) -> None:
    import torch.package

    path = tmp_path / "model.pt"
    with torch.package.PackageExporter(path) as exporter:
        exporter.extern("**")
        exporter.save_pickle("my.model", "net.pkl", policy())
    said = refusal(path)
    assert "is a torch.package archive of code and pickles" in said
    assert "load_pickle('my.model', 'net.pkl')" in said
    assert torch.package.PackageImporter(path).load_pickle("my.model", "net.pkl").state_dict()


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(30, 20))
        self.bias = nn.Parameter(torch.ones(30))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()
        self.kept = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).sum() + self.kept


def test_what_lies_in_the_constants_of_a_script_is_told(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    script = torch.jit.script(Scripted().eval())
    script.save(str(path))
    assert read(path).warnings == ()
    torch.jit.freeze(script).save(str(path))
    assert not torch.jit.load(str(path)).state_dict()
    assert "frozen into constants (3 tensors, 2,528 bytes): it has no state dict" in refusal(path)
    torch.jit.script(nn.ReLU()).save(str(path))
    assert "without parameters and buffers" in refusal(path)
    torch.jit.freeze(script, preserved_attrs=["kept"]).save(str(path))
    state: dict[str, Any] = torch.jit.load(str(path)).state_dict()
    if state:
        checkpoint = read(path)
        assert list(checkpoint.entries) == list(state)
        assert "2 tensors, 2,520 bytes in constants" in checkpoint.warnings[0]


def test_a_file_of_another_framework_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={"format": "mlx"})
    assert "written for MLX" in read(path).warnings[0]
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={"format": "pt"})
    assert read(path).warnings == ()


def test_a_message_with_endless_fields_is_looked_at_briefly(tmp_path: Path) -> None:
    path = tmp_path / "model.mlmodel"
    for data in (
        b"\x08\x01" * 100_000,
        b"\x08\x01\x12" + b"\xff" * 40,
        b"\x08\x01\xa2\x1f\xff\xff\xff\xff\x7f",
        b"\x08",
    ):
        path.write_bytes(data)
        assert "Core ML" not in refusal(path)
    path.write_bytes(struct.pack("<BB", 8, 1) + os.urandom(64))
    refusal(path)
