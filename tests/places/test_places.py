"""A folder and a file of it, by its path and by a URL: listed, opened and named alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptdiff.errors import CheckpointError
from ckptdiff.places import LocalPlace, place_of

fsspec = pytest.importorskip("fsspec")

FILES = {"b.index.json": b"12", "a.pth": b"123"}


@pytest.fixture(params=["path", "url"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    if request.param == "path":
        yield str(tmp_path)
        return
    memory = fsspec.filesystem("memory")
    for name, content in FILES.items():
        memory.pipe(f"/places/{name}", content)
    yield "memory://places"
    memory.rm("/places", recursive=True)


def test_a_folder(folder: str) -> None:
    place = place_of(folder)
    assert place.is_folder()
    assert place.list() == ["a.pth", "b.index.json"]
    file = place.within("a.pth")
    assert not file.is_folder()
    assert file.size() == 3
    assert place.within("none.pth").size() is None
    source = file.open()
    assert (source.size, source.read(1, 2), source.local) == (3, b"23", place.local)
    source.close()


def test_what_a_file_names(folder: str) -> None:
    index = place_of(folder).within("b.index.json")
    assert index.ends_with(".index.json")
    shard = index.named("a.pth")
    assert (shard.size(), shard.name) == (3, f"{folder}/a.pth")
    with pytest.raises(CheckpointError, match="outside its directory"):
        index.named("../a.pth")


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    place = place_of(f"file://{tmp_path}")
    assert isinstance(place, LocalPlace)
    assert place.path == str(tmp_path)
