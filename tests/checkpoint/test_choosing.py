"""The state dict inside a training checkpoint is found, and the choice is told."""

from __future__ import annotations

import argparse
import datetime
import enum
import functools
import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.errors import CheckpointError
from ckptdiff.tensors import ObjectInfo, TensorInfo
from tests.formats.oracle import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def weights(count: int = 3, start: float = 0.0) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((f"layer.{i}.weight", torch.full((2, i + 1), start)) for i in range(count))


def stored(value: object, tmp_path: Path) -> Path:
    path = tmp_path / "file.pth"
    torch.save(value, path)
    return path


def chosen(value: object, tmp_path: Path, key: str | None = None) -> tuple[str, list[str]]:
    checkpoint = read(stored(value, tmp_path), key=key)
    return checkpoint.state_dict_key, [alternative.key for alternative in checkpoint.alternatives]


WRAPPERS = [
    *("state_dict", "model", "model_state_dict", "model_state", "module", "net", "network", "weights", "params"),
    *("params_ema", "state_dict_ema", "model_ema", "ema", "ema_state_dict", "teacher", "student", "generator", "g_ema"),
    *("network_weights", "classy_state_dict.base_model.model", "anything"),
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_in_the_wild(wrapper: str, tmp_path: Path) -> None:
    value: Any = weights()
    for part in reversed(wrapper.split(".")):
        value = {part: value, "epoch": 3}
    checkpoint = read(stored(value, tmp_path))
    assert checkpoint.state_dict_key == wrapper
    assert_same(checkpoint, weights())
    if "." not in wrapper:
        assert checkpoint.container == {"epoch": "int 3"}


def test_top_level_state_dict_may_hold_other_things(tmp_path: Path) -> None:
    value = {**weights(), "epoch": 3, "config": {"a": 1}, "x._extra_state": io.BytesIO(b"abc")}
    checkpoint = read(stored(value, tmp_path))
    assert checkpoint.state_dict_key == ""
    assert list(checkpoint.entries) == list(value)
    assert checkpoint.entries["epoch"] == ObjectInfo("int", "3", 3)
    assert checkpoint.entries["config"] == ObjectInfo("dict", "dict of 1")
    assert checkpoint.entries["x._extra_state"].type_name == "_io.BytesIO"


def test_few_tensors_beside_a_state_dict_make_a_container(tmp_path: Path) -> None:
    value = {"loss": torch.tensor(0.1), "rng_state": torch.get_rng_state(), "model": weights()}
    assert chosen(value, tmp_path)[0] == "model"


def test_extra_state_with_tensors_does_not_make_a_container(tmp_path: Path) -> None:
    value = {"w": torch.ones(1), "block._extra_state": {"a": torch.ones(1), "b": torch.ones(1)}}
    assert chosen(value, tmp_path)[0] == ""


def test_the_optimizer_is_never_the_model(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    value = {
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "something": model.state_dict(),
        "rng": {"torch": torch.get_rng_state(), "numpy": np.random.get_state()},
    }
    key, alternatives = chosen(value, tmp_path)
    assert key == "something"
    assert alternatives == []


def test_averaged_weights_are_always_a_reported_choice(tmp_path: Path) -> None:
    assert chosen({"params_ema": weights(), "params": weights()}, tmp_path) == ("params", ["params_ema"])
    assert chosen({"state_dict_ema": weights(), "state_dict": weights()}, tmp_path) == (
        "state_dict",
        ["state_dict_ema"],
    )
    assert chosen({"ema": weights(), "model": weights()}, tmp_path, "ema") == ("ema", ["model"])


def test_a_dict_of_several_state_dicts(tmp_path: Path) -> None:
    value = {"net": {"bert": weights(2), "decoder": weights(5), "style.encoder": weights(1)}, "epoch": 1}
    checkpoint = read(stored(value, tmp_path))
    assert checkpoint.state_dict_key == "net.decoder"
    assert [(a.key, a.tensors) for a in checkpoint.alternatives] == [("net.bert", 2), ("net.style.encoder", 1)]
    assert "none has a usual name: net.bert, net.decoder, net.style.encoder" in checkpoint.warnings[0]
    assert list(read(stored(value, tmp_path), key="net.bert").entries) == list(weights(2))
    assert list(read(stored(value, tmp_path), key="net.style.encoder").entries) == list(weights(1))


def test_a_tuple_of_state_dict_and_epoch(tmp_path: Path) -> None:
    assert chosen((weights(), 12), tmp_path) == ("0", [])
    assert chosen([{"model": weights()}, 12], tmp_path) == ("0.model", [])


def test_a_wrong_key_lists_what_exists(tmp_path: Path) -> None:
    path = stored({"model": weights(), "ema": weights(), "epoch": 1}, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        read(path, key="modle")
    assert "'modle'" in caught.value.message
    assert "'model' (3 tensors), 'ema' (3 tensors)" in caught.value.hint
    with pytest.raises(CheckpointError, match="no state dict at the key 'epoch'"):
        read(path, key="epoch")
    with pytest.raises(CheckpointError) as caught:
        read(stored(weights(), tmp_path), key="model")
    assert "leave key= out" in caught.value.hint


def test_the_empty_key_is_the_top_level(tmp_path: Path) -> None:
    path = stored({"a": torch.ones(1), "model": weights()}, tmp_path)
    assert list(read(path).entries) == list(weights())
    assert list(read(path, key="").entries) == ["a", "model"]


class Colour(enum.Enum):
    RED = 1


def test_what_training_leaves_behind_is_no_obstacle(tmp_path: Path) -> None:
    value = {
        "state_dict": weights(),
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "colour": Colour.RED,
        "when": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
        "partial": functools.partial(print, "x"),
        "stream": io.BytesIO(b"x" * 10_000),
        "array": np.arange(10_000.0),
        "random": np.random.default_rng(0),
        "numbers": {1: "a", (1, 2): "b", 2.5: "c", None: "d"},
        "generator": torch.get_rng_state(),
        "callbacks": {"x": {"best": torch.tensor(0.5)}},
    }
    checkpoint = read(stored(value, tmp_path))
    assert checkpoint.state_dict_key == "state_dict"
    assert list(checkpoint.container) == [key for key in value if key != "state_dict"]
    assert checkpoint.container["args"] == "argparse.Namespace"
    assert "builtins.print" in checkpoint.unsafe_globals
    assert "functools.partial" in checkpoint.unsafe_globals
    assert "argparse.Namespace" not in checkpoint.unsafe_globals


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.linear = torch.nn.Linear(3, 3, bias=False)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("dropped", torch.ones(4), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("none", None)
        self.absent = None
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.tied = self.linear


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.names = torch.nn.ParameterDict({"b": torch.zeros(2), "a": torch.zeros(1)})
        self.register_module("missing", None)
        self.blocks[1].linear.weight = self.blocks[0].linear.weight


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_whole_pickled_module(legacy: bool, wrapped: bool, tmp_path: Path) -> None:
    model = Model()
    path = tmp_path / "module.pt"
    torch.save({"model": model, "epoch": 1} if wrapped else model, path, _use_new_zipfile_serialization=not legacy)
    checkpoint = read(path)
    assert_same(checkpoint, model.state_dict(keep_vars=True))
    assert checkpoint.metadata == {key: dict(value) for key, value in model.state_dict()._metadata.items()}
    assert checkpoint.non_persistent == ("blocks.0.dropped", "blocks.1.dropped")
    assert f"{__name__}.Model" in checkpoint.unsafe_globals


class Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv1d(1, 2, 3)
        self.norm = torch.nn.BatchNorm1d(2)
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2, bias=False))
        self.plain = torch.ones(3)  # an attribute, not a buffer
        self.register_buffer("buffer", torch.ones(2))
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.tied = self.convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(self.norm(self.convolution(x)).mean(2)) * self.scale


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.trace(Scripted().eval(), torch.ones(1, 1, 8)).save(str(path))
    checkpoint = read(path)
    assert checkpoint.format == "torchscript"
    loaded = torch.jit.load(str(path)).state_dict()
    assert list(checkpoint.entries) == list(loaded)
    assert [e.shape for e in checkpoint.tensors.values()] == [tuple(t.shape) for t in loaded.values()]
    assert checkpoint.unsafe_globals == ()


def test_lightning(tmp_path: Path) -> None:
    value = {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.0",
        "state_dict": weights(),
        "loops": {"fit_loop": {"x": torch.ones(1), "y": torch.ones(1), "z": torch.ones(1), "u": torch.ones(1)}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": []}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1},
    }
    assert chosen(value, tmp_path) == ("state_dict", [])


def test_deepspeed_and_its_placeholders(tmp_path: Path) -> None:
    whole = {"module": weights(), "param_shapes": [OrderedDict(a=torch.Size([2]))], "ds_version": "0.9"}
    assert read(stored(whole, tmp_path)).warnings == ()
    zero3 = {
        "module": {"a.weight": torch.empty(0), "b.weight": torch.empty(0)},
        "param_shapes": [],
        "ds_version": "0.9",
    }
    checkpoint = read(stored(zero3, tmp_path))
    assert checkpoint.state_dict_key == "module"
    assert "ZeRO-3" in checkpoint.warnings[0]
    assert "2 tensors are placeholders" in checkpoint.warnings[0]


def test_fsdp_flat_parameters(tmp_path: Path) -> None:
    checkpoint = read(stored({"model": {"_fsdp_wrapped_module._flat_param": torch.ones(9)}}, tmp_path))
    assert "cannot be compared by key" in checkpoint.warnings[0]


def test_megatron(tmp_path: Path) -> None:
    value = {
        "args": argparse.Namespace(world_size=1),
        "checkpoint_version": 3.0,
        "iteration": 10,
        "model": {**weights(), "decoder.layers.0._extra_state": io.BytesIO(b"x")},
        "rng_state": [{"cuda_rng_state": torch.ones(1), "random_rng_state": (3, (1, 2), None)}],
    }
    checkpoint = read(stored(value, tmp_path))
    assert checkpoint.state_dict_key == "model"
    assert isinstance(checkpoint.entries["decoder.layers.0._extra_state"], ObjectInfo)


def refusal(value: object, tmp_path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(stored(value, tmp_path))
    assert caught.value.hint
    return caught.value.message


def test_what_is_no_state_dict_is_said(tmp_path: Path) -> None:
    assert "single tensor" in refusal(torch.ones(2), tmp_path)
    assert "without tensors (dict of 1)" in refusal({"epoch": 1}, tmp_path)
    assert "without tensors (dict of 0)" in refusal({}, tmp_path)
    assert "without tensors (None)" in refusal(None, tmp_path)
    assert "2 numpy values" in refusal({"model": {"a": np.ones(2), "b": np.ones(1)}}, tmp_path)
    assert "neither text nor a number" in refusal({("a", 1): torch.ones(1), "b": torch.ones(1)}, tmp_path)


def test_numpy_arrays_beside_tensors_are_told(tmp_path: Path) -> None:
    checkpoint: Checkpoint = read(stored({"a": torch.ones(1), "b": np.ones(3)}, tmp_path))
    assert isinstance(checkpoint.entries["a"], TensorInfo)
    assert "numpy values" in checkpoint.warnings[0]
