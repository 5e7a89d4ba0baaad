"""The safetensors library opens what was written before it gets its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import torch

import ckptdiff
from ckptdiff.writing import second_witness
from ckptdiff.writing.second_witness import refusal


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "large":
        monkeypatch.setattr(second_witness, "_SMALL", 0)
    return str(request.param)


TENSORS = {"a": torch.ones(2, 3), "b.c": torch.ones(4, dtype=torch.bfloat16), "empty": torch.ones(0, 2)}


@pytest.mark.usefixtures("size")
def test_it_takes_what_we_write(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    ckptdiff.rewrite(TENSORS, out)
    assert refusal(out) == ""


@pytest.mark.usefixtures("size")
def test_it_refuses_what_is_damaged(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    ckptdiff.rewrite(TENSORS, out)
    out.write_bytes(out.read_bytes()[:-1])
    assert refusal(out).startswith("Error while deserializing")


def test_every_file_is_asked_for_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def told(path: Path) -> str:
        asked.append(path.read_bytes())
        assert not (tmp_path / "shards").exists()
        return ""

    monkeypatch.setattr(second_witness, "refusal", told)
    ckptdiff.rewrite(TENSORS, f"{tmp_path}/shards/", max_shard_size=16)
    written = sorted(path.read_bytes() for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(written) > 1
    assert sorted(asked) == written


@pytest.mark.usefixtures("size")
def test_a_file_that_it_refuses_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("unknown variant `F4`")

    monkeypatch.setattr(safetensors, "deserialize", refuse)
    monkeypatch.setattr(safetensors, "safe_open", refuse)
    out = tmp_path / "out.safetensors"
    with pytest.raises(ckptdiff.CkptdiffError) as raised:
        ckptdiff.rewrite(TENSORS, out)
    assert raised.value.message == (
        f"{out} was not written, since the safetensors library does not take it: unknown variant `F4`"
    )
    assert raised.value.hint == "Update safetensors, or write a .pth."
    assert list(tmp_path.iterdir()) == []


def test_another_answer_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.safetensors"
    ckptdiff.rewrite(TENSORS, out)
    facts = [("a", {"dtype": "F32", "shape": [3, 2]}), *((key, {"dtype": "", "shape": []}) for key in ("b.c", "empty"))]
    monkeypatch.setattr(safetensors, "deserialize", lambda _: facts)
    assert refusal(out) == "it finds another 'a': ('F32', (3, 2))"
    monkeypatch.setattr(safetensors, "deserialize", lambda _: facts[1:])
    assert refusal(out) == "it finds other keys: ['a']"
