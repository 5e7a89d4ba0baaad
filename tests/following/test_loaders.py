"""Every kind of loader that people write is answered as it acts: what it fills, what it raises, what it leaves."""

from __future__ import annotations

import pytest
import torch

from ckptdiff.following import engine
from tests.following.attacks import ATTACKS
from tests.following.loaders import LOADERS
from tests.following.oracle import Net, elements_from_file, followed, really, same_bits, state


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for seed in (1, 2, 3, 5):
        (folder / str(seed)).mkdir()
        paths.append(folder / str(seed) / "w.pth")
        torch.save(state(seed), paths[-1])
    return paths


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noted", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["carried out", "noted"])
@pytest.mark.parametrize("name", [*LOADERS, *ATTACKS])
def test_a_loader_is_answered_as_it_acts(name, noted, files, monkeypatch):
    if noted:  # as operations on large tensors are
        monkeypatch.setattr(engine, "SMALL", -1)
    load = LOADERS.get(name) or ATTACKS[name]
    torch.manual_seed(7)
    model = Net()
    truth = really(load, model, *files)
    found, left = followed(load, model, files[0])

    assert found.raised == truth.raised
    masks = elements_from_file(found, left)
    fills = found.fills(left)
    wrong = {}
    for key, mask in masks.items():
        true = truth.from_file[key]
        constant = mask & ~true & (truth.values[key] == 0)  # multiplied by nothing, which is still made of the file
        if not torch.equal(mask & ~constant, true) and not fills[key].doubt:
            wrong[key] = int(mask.sum()), int(true.sum())
    assert not wrong
    for key, value in left.state_dict().items():
        assert same_bits(found.engine.value(value), truth.values[key]).all(), key
