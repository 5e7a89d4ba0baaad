"""All random generators are as they were after every call, whoever drew."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff import generators
from ckptdiff.generators import generators_kept


def states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())


def draw(*_: Any) -> None:
    torch.rand(3)
    random.random()
    np.random.rand()


class Drawing(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_load_state_dict_pre_hook(draw)
        self.register_load_state_dict_post_hook(lambda *_: draw())


@pytest.mark.parametrize("device", [None, "cuda", "cpu"])
def test_compare_load_snapshot_and_loaders(device: str | None, tmp_path: Path) -> None:
    model = Drawing()
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    (tmp_path / "drawing.py").write_text(
        "import random\nimport numpy as np\nimport torch\nfrom torch import nn\nclass Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(2, 2)\n        torch.rand(3)\n"
        "        random.random()\n        np.random.rand()\n"
    )
    before = states()
    ckptdiff.compare(model, tmp_path / "w.pth", device=device)
    assert states() == before
    ckptdiff.snapshot(f"{tmp_path / 'drawing.py'}:Net", device=device)
    assert states() == before

    def load(model: nn.Module, path: Path) -> None:
        draw()
        model.load_state_dict(torch.load(path))
        draw()

    ckptdiff.compare(model, tmp_path / "w.pth", loader=load)
    assert states() == before


class Device:
    """What torch.cuda is to a generator."""

    def __init__(self, started: bool) -> None:
        self.started = started
        self.default_generators = [torch.Generator(), torch.Generator()]
        for generator in self.default_generators:
            generator.manual_seed(5)

    def is_initialized(self) -> bool:
        return self.started

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [generator.get_state() for generator in self.default_generators]

    def set_rng_state(self, state: torch.Tensor, device: int) -> None:
        self.default_generators[device].set_state(state)


@pytest.mark.parametrize("started", [True, False])
def test_those_of_devices(started: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(started)
    monkeypatch.setattr(generators, "_module", lambda kind: device if kind == "cuda" and device.started else None)
    before = device.get_rng_state_all()
    with generators_kept():
        device.started = True
        torch.rand(2, generator=device.default_generators[1])
        assert not torch.equal(before[1], device.get_rng_state_all()[1])
    assert all(map(torch.equal, before, device.get_rng_state_all()))


def test_no_device_is_started() -> None:
    with generators_kept():
        pass
    assert not torch.cuda.is_initialized()
