"""Who wrapped a model, by the names that torch and the libraries themselves give."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

import ckptdiff
from ckptdiff.judging.causes import cause


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 2)


def regional(wrap: object) -> nn.Module:
    model = Net()
    model.blocks[1] = wrap(model.blocks[1])  # type: ignore[operator]
    return model


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


class Fsdp(nn.Module):
    """As FSDP registers what it wraps; the class itself wants a process group."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module


WRAPPED = {
    "DataParallel or DDP": nn.DataParallel(Net()),
    "torch.compile": compiled(Net()),
    "torch.compile, in part": regional(compiled),
    "torch.compile and DataParallel or DDP": nn.DataParallel(compiled(Net())),
    "FSDP": Fsdp(Net()),
    "FSDP, in part": regional(Fsdp),
    "activation checkpointing, in part": regional(checkpoint_wrapper),
}


@pytest.mark.parametrize(("said", "model"), WRAPPED.items(), ids=WRAPPED)
def test_the_wrapper_of_the_file_is_named(said: str, model: nn.Module) -> None:
    if "checkpointing" in said:  # it takes its own name out of a state dict, others that wrap it do not
        state = {f"blocks.1._checkpoint_wrapped_module.{key}": torch.zeros(4) for key in ("weight", "bias")}
        state |= {key: value for key, value in Net().state_dict().items() if not key.startswith("blocks.1.")}
    else:
        state = model.state_dict()
    report = ckptdiff.compare(Net(), state)
    assert cause(report.outcome) == f"of a model in {said}"
    assert f"the state dict of a model in {said}" in str(report)
    assert not cause(ckptdiff.compare(Net(), Net().state_dict()).outcome)


def test_an_averaged_model_is_no_parallel_one() -> None:
    assert cause(ckptdiff.compare(Net(), AveragedModel(Net()).state_dict()).outcome).startswith(
        "of a model in AveragedModel"
    )


def test_a_wrapped_model_is_named_too() -> None:
    outcome = ckptdiff.compare(nn.DataParallel(Net()), Net().state_dict()).outcome
    assert cause(outcome) == "of a bare model, and the one that is named is in DataParallel or DDP"
    assert not cause(ckptdiff.compare(nn.DataParallel(Net()), nn.DataParallel(Net()).state_dict()).outcome)


@pytest.mark.parametrize("name", ["model", "net"])
def test_a_lightning_module_and_peft(name: str) -> None:
    state = {f"{name}.{key}": value for key, value in Net().state_dict().items()}
    outcome = ckptdiff.compare(Net(), {**state, "criterion.pos_weight": torch.zeros(2)}).outcome
    assert not cause(outcome)
    of_lightning = replace(outcome.checkpoint, container={"pytorch-lightning_version": "str '2.4.0'"})
    assert cause(replace(outcome, checkpoint=of_lightning)) == f"of a LightningModule that has it as `{name}`"
    of_peft = {f"base_model.model.{key}": value for key, value in Net().state_dict().items()}
    assert cause(ckptdiff.compare(Net(), of_peft).outcome) == "of a model in peft"


def test_a_module_of_that_name_of_the_models_own_is_no_wrapper() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Net()

    assert not cause(ckptdiff.compare(Own(), Own().state_dict()).outcome)
    assert not cause(ckptdiff.compare(Own(), {"module.x": torch.zeros(1)}).outcome)


def test_it_is_said_after_renaming_as_well() -> None:
    report = ckptdiff.compare(Net(), nn.DataParallel(Net()).state_dict(), strip_prefix="module.")
    assert report.loads()
    assert cause(report.outcome) == "of a model in DataParallel or DDP"


def test_keys_of_which_some_are_renamed() -> None:
    report = ckptdiff.compare(Net(), regional(compiled).state_dict(), rename="blocks.1._orig_mod.{*} -> blocks.1.{*}")
    assert report.loads()
    assert cause(report.outcome) == "of a model in torch.compile, in part"
