"""`with ckptdiff.trace()`: a block of code, in a test or a notebook, and torch as it was afterwards."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff


class Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, classes)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(values))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    torch.save(Net().state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def test_what_a_block_fills(path: Path) -> None:
    with ckptdiff.trace() as t:
        model, other = Net(), Net(5)
        model.load_state_dict(torch.load(path))
        other.body.load_state_dict(
            {key[5:]: value for key, value in torch.load(path).items() if key.startswith("body.")}
        )
    assert t.of(model).complete
    assert t.of(model).filled["head.bias"] == (("net.pth", "head.bias"),)
    assert t.of(other).initial == ("head.weight", "head.bias")
    assert not t.of(other).complete
    assert [(traced.kind, traced.complete) for traced in t.models] == [("Net", True), ("Net", False)]
    assert [(file.file, file.unused) for file in t.files] == [("net.pth", ())]
    assert repr(t) == "<trace: Not complete: Net: 2 of 4 keys keep initial values.>"
    assert str(t).startswith("Not complete: ")
    assert t._repr_html_().startswith('<div class="ckptdiff">')


def test_it_is_left_at_the_first_call_of_a_loaded_model(path: Path) -> None:
    after = []
    with ckptdiff.trace() as t:
        model = Net()
        model.load_state_dict(torch.load(path))
        model(torch.rand(1, 4))
        after.append("called")
    assert not after
    assert t.trace.ended == "first call of Net"


def test_until_the_end_values_are_real(path: Path) -> None:
    with ckptdiff.trace(until="end") as t:
        model = Net()
        model.load_state_dict(torch.load(path))
        result = model(torch.ones(1, 4))
        model.head.bias.data.zero_()
    real = Net()
    real.load_state_dict(torch.load(path))
    assert torch.equal(result, real(torch.ones(1, 4)))
    assert list(t.of(model).overwritten) == ["head.bias"]


def test_an_optimizer(path: Path, tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(2, 4)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.ckpt")
    with ckptdiff.trace() as t:
        run = torch.load(tmp_path / "run.ckpt")
        resumed = Net()
        again = torch.optim.Adam(resumed.parameters())
        resumed.load_state_dict(run["model"])
        again.load_state_dict(run["optimizer"])
    (state,) = t.optimizers
    assert (state.kind, state.restored, state.entries, state.sources) == ("Adam", 4, 4, ("run.ckpt",))
    assert t.files[0].unused == ()


def test_what_the_block_raises_passes_through(path: Path) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), ckptdiff.trace() as t:
        Net(7).load_state_dict(torch.load(path))
    assert t.trace.verdict == "fail"
    assert t.trace.errors[0].text.startswith("RuntimeError: Error(s) in loading state_dict for Net:")


@pytest.mark.parametrize("ending", ["end", "first call", "error"])
def test_everything_is_as_it_was_afterwards(path: Path, ending: str) -> None:
    before = _names()
    code = torch.load.__code__, nn.Module.load_state_dict.__code__
    state = torch.get_rng_state()
    try:
        with ckptdiff.trace():
            model = Net()
            model.load_state_dict(torch.load(path))
            if ending == "first call":
                model(torch.rand(1, 4))
            if ending == "error":
                raise KeyError
    except KeyError:
        pass
    assert (torch.load.__code__, nn.Module.load_state_dict.__code__) == code
    after = _names()
    assert {name: after.get(name) for name in before} == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.distributed.is_initialized()
    assert sys.gettrace() is None or ending != "end" or "coverage" in sys.modules


def _names() -> dict[str, Any]:
    import socket

    import safetensors

    owners: list[Any] = [torch, torch.serialization, nn.Module, torch.Tensor, builtins, os, socket, safetensors]
    names = {f"{owner.__name__}.{name}": value for owner in owners for name, value in vars(owner).items()}
    names |= {f"meta_path {position}": finder for position, finder in enumerate(sys.meta_path)}
    names |= {f"environ {name}": value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return {
        name: repr(value) if isinstance(value, (str, int, float, type(None))) else id(value)
        for name, value in names.items()
    }


def test_places_to_stop_at() -> None:
    with pytest.raises(ckptdiff.CkptdiffError, match="no place to stop at"), ckptdiff.trace(until="later"):
        pass


def test_a_whole_model_of_a_file_needs_trust(path: Path, tmp_path: Path) -> None:
    torch.save(Net(), tmp_path / "whole.pth")
    load: Callable[[], Any] = lambda: torch.load(tmp_path / "whole.pth", weights_only=False)  # noqa: E731
    with ckptdiff.trace(trust_checkpoint=True) as t:
        model = load()
    assert t.of(model).complete
