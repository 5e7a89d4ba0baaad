"""Loaders of models whose parameters are parts of several ranks' (DTensor, FSDP2), one rank being there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ckptdiff

distributed = pytest.importorskip("torch.distributed")
tensor = pytest.importorskip("torch.distributed.tensor")
if not hasattr(tensor, "distribute_tensor"):
    pytest.skip("torch 2.5 has it by this name", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def mesh():
    if not distributed.is_available():
        pytest.skip("torch without distributed")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def spread(state_dict, mesh):
    return {key: tensor.distribute_tensor(value, mesh, [tensor.Shard(0)]) for key, value in state_dict.items()}


def into_local_parts(model, path, mesh):
    state_dict = torch.load(path)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key != "1.bias":
                parameter.to_local().copy_(state_dict[key])


def by_load_state_dict(model, path, mesh):
    model.load_state_dict(spread(torch.load(path), mesh))


def assigned(model, path, mesh):
    model.load_state_dict(spread(torch.load(path), mesh), assign=True)


def plain_into_spread(model, path, mesh):
    model.load_state_dict(torch.load(path))


@pytest.mark.parametrize("load", [into_local_parts, by_load_state_dict, assigned, plain_into_spread])
def test_what_is_filled(load, mesh, tmp_path):
    def make():
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        for module in model:
            for name, parameter in list(module.named_parameters()):
                split = tensor.distribute_tensor(parameter.detach(), mesh, [tensor.Shard(0)])
                module.register_parameter(name, nn.Parameter(split))
        return model

    weights = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict()
    torch.save(weights, tmp_path / "w.pth")
    real = make()
    try:
        load(real, tmp_path / "w.pth", mesh)
        raised = None
    except RuntimeError as error:
        raised = str(error)
    report = ckptdiff.compare(make(), tmp_path / "w.pth", loader=lambda model, path: load(model, path, mesh))
    assert (report.outcome.raised or "").partition(": ")[2] == (raised or "")
    assert report.outcome.doubts == ()
    filled = {key for key, item in report.outcome.filled.items() if item.by == "file"}
    assert filled == {key for key, value in real.state_dict().items() if torch.equal(value.to_local(), weights[key])}
