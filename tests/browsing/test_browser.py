"""The terminal program, driven by textual's own pilot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptdiff.cli import main
from ckptdiff.verbs.inspect import inspect

pytest.importorskip("textual")

from ckptdiff.browsing.branches import found, grown
from ckptdiff.browsing.browser import Browser, Names


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    state = {
        **{f"layers.{i}.{name}": torch.zeros(4, 4 + i) for i in (0, 1, 2, 10) for name in ("weight", "bias")},
        "head.weight": torch.zeros(100, 4),
        "[bold]odd\x1b[31m": torch.zeros(1),
    }
    torch.save(state, tmp_path / "a.pth")
    torch.save({**state, "head.weight": torch.zeros(7, 4)}, tmp_path / "b.pth")
    return tmp_path / "a.pth", tmp_path / "b.pth"


def driven(paths: tuple[Path, ...], drive: Callable[[Browser, Any], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        app = Browser([inspect(path) for path in paths])
        async with app.run_test(size=(120, 40)) as pilot:
            await pilot.pause()
            await drive(app, pilot)

    asyncio.run(run())


def names(tree: Names) -> list[str]:
    return [child.data.name for child in tree.root.children if child.data is not None]


def test_a_tree_of_the_names(files: tuple[Path, Path]) -> None:
    async def drive(app: Browser, pilot: Any) -> None:
        (tree,) = app.trees
        assert names(tree) == ["layers", "head", "[bold]odd\x1b[31m"]
        assert "\x1b" not in "".join(child.label.plain for child in tree.root.children)
        await pilot.press("down")
        await pilot.press("enter")
        await pilot.pause()
        layers = tree.root.children[0]
        assert layers.is_expanded
        assert [child.data.name for child in layers.children if child.data] == ["0", "1", "2", "10"]
        about = str(app.query_one("#about").render())
        assert "8 tensors" in about

    driven(files[:1], drive)


def test_sorting(files: tuple[Path, Path]) -> None:
    async def drive(app: Browser, pilot: Any) -> None:
        (tree,) = app.trees
        await pilot.press("s")
        assert names(tree) == ["[bold]odd\x1b[31m", "head", "layers"]
        await pilot.press("s")
        assert names(tree) == ["head", "layers", "[bold]odd\x1b[31m"]
        await pilot.press("s")
        assert names(tree)[0] == "layers"

    driven(files[:1], drive)


def test_searching(files: tuple[Path, Path]) -> None:
    async def drive(app: Browser, pilot: Any) -> None:
        (tree,) = app.trees
        await pilot.press("slash", *"1.BIAS")
        await pilot.pause()
        assert tree.branch.tensors == 1
        assert tree.branch.at("layers.1.bias") is not None
        await pilot.press("enter")
        assert tree.has_focus
        await pilot.press("escape")
        await pilot.pause()
        assert tree.branch.tensors == 10

    driven(files[:1], drive)


def test_two_files_side_by_side(files: tuple[Path, Path]) -> None:
    async def drive(app: Browser, pilot: Any) -> None:
        one, other = app.trees
        await pilot.press("down", "down", "enter", "down")
        await pilot.pause()
        assert one.cursor_node is not None
        assert one.cursor_node.data is not None
        assert one.cursor_node.data.path == "head.weight"
        about = str(app.query_one("#about").render())
        assert "float32 [100, 4]" in about
        assert "float32 [7, 4]" in about
        assert "they differ" in about
        assert other.cursor_node is not None
        assert other.cursor_node.data is not None
        assert other.cursor_node.data.path == "head.weight"
        await pilot.press("tab")
        assert other.has_focus
        await pilot.press("q")

    driven(files, drive)


def test_globs_and_parts_of_names(files: tuple[Path, Path]) -> None:
    tensors = [(str(key), tensor) for key, tensor in inspect(files[0]).tensors.items()]
    assert [key for key, _ in found(tensors, "layers.{0..1}.*ias")] == ["layers.0.bias", "layers.1.bias"]
    assert len(found(tensors, "")) == len(tensors)
    assert grown(tensors).nbytes == sum(tensor.nbytes for _, tensor in tensors)


def test_without_a_terminal(files: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["browse", str(files[0])]) == 2
    assert "browse needs a terminal" in capfd.readouterr().err
    assert main(["browse", "nothing.pth"]) == 2
    assert "does not exist" in capfd.readouterr().err


def test_without_textual(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from ckptdiff.cli import browse

    monkeypatch.setattr(browse, "find_spec", lambda name: None)
    assert main(["browse", str(files[0])]) == 2
    assert "pip install 'ckptdiff[browse]'" in capfd.readouterr().err
