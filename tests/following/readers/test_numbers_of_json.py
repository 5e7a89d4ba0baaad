"""Single numbers of JSON in tensors are a doubt, but for those of a configuration, which are initial values."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tests.following.oracle import Net, followed, state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    for name in ("scale.json", "config.json"):
        (folder / name).write_text(json.dumps({"scale": 0.37, "shift": 0.91, "name": "a"}))
    torch.save(state(1), folder / "w.pth")
    return folder


def number(folder, name):
    with open(folder / name) as file:
        return json.load(file)["scale"]


def filled(model, folder, name):
    model.scale.fill_(number(folder, name))


def made_of(model, folder, name):
    model.scale.copy_(torch.tensor([number(folder, name)] * 3))


def multiplied(model, folder, name):
    model.scale = torch.ones(3) * number(folder, name)


def made_before_others_are_initial(model, folder, name):
    torch.tensor(number(folder, name))
    model.load_state_dict(torch.load(folder / "w.pth", weights_only=True))
    nn.init.normal_(model.second.weight)


def doubted(load, folder, name):
    found, left = followed(lambda model, path: load(model, path, name), Net(), folder)
    return {doubt.partition(":")[0] for doubt in found.doubts(found.fills(left))}


@pytest.mark.parametrize("load", [filled, made_of, multiplied])
def test_a_number_that_is_taken_is_a_doubt(load, folder):
    assert "scale" in doubted(load, folder, "scale.json")


@pytest.mark.parametrize("load", [filled, made_of, multiplied, made_before_others_are_initial])
def test_a_configurations_is_none(load, folder):
    assert doubted(load, folder, "config.json") == set()
