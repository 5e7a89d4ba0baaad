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


def test_what_another_thread_carries_out_is_waited_for(mesh, tmp_path):
    """A collective returns before it is done: of tensors as large as these each tenth was looked at too early."""
    weights = nn.Linear(500, 400).state_dict()
    torch.save(weights, tmp_path / "w.pth")
    for _ in range(10):
        report = ckptdiff.compare(
            nn.Linear(500, 400),
            tmp_path / "w.pth",
            loader=lambda model, path: model.load_state_dict(spread(torch.load(path), mesh), assign=True),
        )
        assert {item.by for item in report.outcome.filled.values()} == {"file"}
        assert report.outcome.doubts == ()


def test_collectives_that_write_in_place(mesh, tmp_path):
    """As DDP sends the first rank's parameters and buffers to all."""
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "w.pth")

    def load(model, path):
        model.load_state_dict({"weight": torch.load(path)["weight"]}, strict=False)
        for parameter in model.parameters():
            distributed.broadcast(parameter.data, 0)
        distributed.all_reduce(model.weight.data)
        gathered = [torch.empty(3, 3)]
        distributed.all_gather(gathered, torch.load(path)["weight"])
        model.gathered = nn.Parameter(gathered[0])
        model.scattered = nn.Parameter(torch.ones(3))
        distributed.all_to_all_single(model.scattered.data, torch.load(path)["bias"])

    filled = ckptdiff.compare(nn.Linear(3, 3), tmp_path / "w.pth", loader=load).outcome.filled
    assert {key: (item.by, item.sources) for key, item in filled.items()} == {
        "weight": ("file", (("w.pth", "weight"),)),
        "bias": ("initial", ()),
        "gathered": ("file", (("w.pth", "weight"),)),
        "scattered": ("file", (("w.pth", "bias"),)),
    }


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
