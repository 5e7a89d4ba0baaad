"""Values of files behind URLs, and what checksums say before any value is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptdiff
from ckptdiff.cli import main
from ckptdiff.difference.differing import DiffOptions
from ckptdiff.requests import CheckpointRequest
from ckptdiff.verbs.diff import diffed
from tests.loopback import Server, layers, serving, write_zip
from tests.verbs.test_diff import sharded

pytest.importorskip("aiohttp")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        yield running


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"layers.{i}.weight": torch.randn(300, 300) for i in range(24)} | {"steps": torch.tensor(3)}


def changed() -> dict[str, torch.Tensor]:
    tensors = state()
    tensors["layers.5.weight"][7, 9] += 1
    return tensors


@pytest.fixture
def files(tmp_path: Path) -> Path:
    torch.save({"epoch": 1, "model": state()}, tmp_path / "a.pth")
    torch.save(changed(), tmp_path / "b.pth")
    save_file(state(), tmp_path / "a.safetensors")
    save_file(changed(), tmp_path / "b.safetensors")
    strided = {key: tensor.t() if tensor.dim() == 2 else tensor for key, tensor in state().items()}
    torch.save({key: tensor.contiguous().t() if tensor.dim() == 2 else tensor for key, tensor in strided.items()},
               tmp_path / "views.pth")  # fmt: skip
    return tmp_path


PAIRS = ("a.pth b.pth", "a.safetensors b.pth", "a.pth b.safetensors", "a.safetensors b.safetensors", "views.pth b.pth")


@pytest.mark.parametrize("pair", PAIRS)
def test_a_url_against_a_file_and_against_a_url(files: Path, server: Server, pair: str) -> None:
    a, b = pair.split()
    here = ckptdiff.diff(files / a, files / b).changed["layers.5.weight"]
    sent = server.bytes
    for one, other in ((f"{server.url}/{a}", files / b), (files / a, f"{server.url}/{b}?token=secret")):
        found = ckptdiff.diff(one, other)
        assert found.verdict == "different values"
        assert list(found.changed) == ["layers.5.weight"]
        there = found.changed["layers.5.weight"]
        assert (there.count, there.index, there.max_abs, there.max_ulp) == (1, (7, 9), here.max_abs, here.max_ulp)
        assert there.rel_l2 == pytest.approx(here.rel_l2, rel=1e-9)
        assert there.explained == here.explained
        assert "secret" not in str(found)
    assert ckptdiff.diff(f"{server.url}/{a}", f"{server.url}/{a}").verdict == "same values"
    size = sum((files / name).stat().st_size for name in (a, b, a, a))
    assert server.bytes - sent < 1.6 * size


def test_shards_behind_a_url_and_their_digest(files: Path, server: Server) -> None:
    sharded(files / "shards", state())
    index = f"{server.url}/shards/model.safetensors.index.json"
    assert ckptdiff.diff(index, files / "a.pth").verdict == "same values"
    assert ckptdiff.digest(index) == ckptdiff.digest(state())


def test_what_changes_on_the_server_is_refused(files: Path, server: Server) -> None:
    server.flaws["/a.pth"] = "changes"
    with pytest.raises(ckptdiff.CkptdiffError, match=r"changed|replaced|another"):
        ckptdiff.diff(f"{server.url}/a.pth", files / "b.pth")
    del server.flaws["/a.pth"]
    torch.save(state(), files / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ckptdiff.CkptdiffError, match="does not say where"):
        ckptdiff.diff(f"{server.url}/old.pth", files / "b.pth")


def test_checksums_of_two_remote_files_of_2_gb_in_a_few_hundred_kilobytes(tmp_path: Path, server: Server) -> None:
    """Files of holes: their records are marked as if they had checksums."""
    for name in ("a.pth", "b.pth"):
        write_zip(tmp_path / name, layers(150, 1850))
        path = tmp_path / name
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(size - 65536)
            tail = bytearray(file.read())
            place, number = 0, 0
            while (place := tail.find(b"PK\1\2", place)) >= 0:
                different = name == "b.pth" and number == 10
                tail[place + 16 : place + 20] = (number + 1000 * different + 1).to_bytes(4, "little")
                place, number = place + 46, number + 1
            file.seek(size - 65536)
            file.write(tail)
        assert size > 2_000_000_000
    sent = server.bytes
    found = ckptdiff.diff(f"{server.url}/a.pth", f"{server.url}/b.pth", quick=True)
    assert server.bytes - sent < 700_000
    assert (found.basis, found.verdict, len(found.changed)) == ("checksums", "different values", 1)
    assert "32 bits" in str(found)


# The first look


def flipped(path: Path, out: Path, of: torch.Tensor) -> Path:
    data = bytearray(path.read_bytes())
    place = data.find(of.numpy().tobytes()[:64])
    assert place > 0
    data[place] ^= 1
    out.write_bytes(data)
    return out


def test_checksums_are_looked_at_first_and_told(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptdiff.difference import differing

    monkeypatch.setattr(differing, "_LONG", 0)
    told: list[str] = []
    options = DiffOptions(tell=told.append)
    diffed(CheckpointRequest(files / "a.pth"), CheckpointRequest(files / "b.pth"), options)
    assert told == ["by their checksums 1 of 25 tensors differ; reading values"]
    diffed(CheckpointRequest(files / "a.pth"), CheckpointRequest(files / "b.safetensors"), options)
    assert len(told) == 1


def test_damage_is_told_where_bytes_contradict_checksums(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(state(), files / "one.pth")
    flipped(files / "one.pth", files / "damaged.pth", state()["layers.3.weight"])
    found = ckptdiff.diff(files / "one.pth", files / "damaged.pth")
    assert list(found.changed) == ["layers.3.weight"]
    (doubt,) = found.doubts
    assert "the checksums in the files say otherwise of layers.3.weight: one of them is damaged" in doubt
    assert main(["diff", str(files / "one.pth"), str(files / "damaged.pth")]) == 1
    assert "damaged" in capsys.readouterr().out


def test_views_of_other_parts_of_a_storage_contradict_nothing(tmp_path: Path) -> None:
    base, other = torch.zeros(10), torch.zeros(10)
    other[9] = 1
    torch.save({"w": base[:5]}, tmp_path / "a.pth")
    torch.save({"w": other[:5]}, tmp_path / "b.pth")
    found = ckptdiff.diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert (found.verdict, found.doubts) == ("same values", ())
