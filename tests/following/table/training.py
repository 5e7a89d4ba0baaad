"""Lightning, Fabric, accelerate, ignite, fastai, skorch, mmengine, fvcore and their like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.following.oracle import Net
from tests.following.table.plain import sharded
from tests.following.table.rows import Row, in_folder, pth, safetensors, under


def lightning_module() -> Any:
    import lightning

    class Lit(lightning.LightningModule):
        def __init__(self, width: int = 16) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width))
            self.register_buffer("scale", torch.ones(3))

        def test_step(self, batch: Any, index: int) -> None:
            return None

        def test_dataloader(self) -> Any:
            return torch.utils.data.DataLoader([1], batch_size=1)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    return Lit


def lit() -> nn.Module:
    return lightning_module()()


def lightning_file(state: Mapping[str, Any], folder: Path) -> Path:
    import lightning

    content = {
        "state_dict": dict(state),
        "hyper_parameters": {"width": 16},
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 1,
        "global_step": 5,
        "loops": None,
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    }
    return pth(content, folder)


def load_from_checkpoint(p):
    return lightning_module().load_from_checkpoint(p, map_location="cpu")


def load_from_checkpoint_loosely(p):
    return lightning_module().load_from_checkpoint(p, map_location="cpu", strict=False)


def trainer_test(m, p):
    import lightning

    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.test(m, ckpt_path=p, verbose=False, weights_only=False)


def fabric_load(m, p):
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu")
    rest = fabric.load(p, {"model": fabric.setup(m)}, strict=False)
    return sorted(rest)


def fabric_load_strictly(m, p):
    from lightning.fabric import Fabric

    return Fabric(accelerator="cpu").load(p, {"model": m})


def fabric_raw(m, p):
    from lightning.fabric import Fabric

    return Fabric(accelerator="cpu").load_raw(p, m, strict=True)


def accelerate_load(m, p):
    from accelerate import load_checkpoint_in_model

    return load_checkpoint_in_model(m, str(p))


def accelerate_strictly(m, p):
    from accelerate import load_checkpoint_in_model

    return load_checkpoint_in_model(m, str(p), strict=True)


def accelerate_mapped(m, p):
    from accelerate import load_checkpoint_in_model

    return load_checkpoint_in_model(m, str(p), device_map={"": "cpu"}, dtype=torch.float16)


def accelerate_dispatched(p):
    from accelerate import init_empty_weights, load_checkpoint_and_dispatch

    with init_empty_weights():
        model = Net()
    return load_checkpoint_and_dispatch(model, str(p), device_map={"": "cpu"})


def accelerate_index(state: Mapping[str, Any], folder: Path) -> Path:
    sharded(state, folder)
    (folder / "index.json").rename(folder / "model.safetensors.index.json")
    return folder


def accelerator_state(m, p):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    m = accelerator.prepare(m)
    accelerator.load_state(str(p), strict=False)
    return accelerator.unwrap_model(m)


def ignite_load(m, p):
    from ignite.handlers import Checkpoint

    return Checkpoint.load_objects({"model": m}, torch.load(p, weights_only=True), strict=False)


def ignite_file(m, p):
    from ignite.handlers import Checkpoint

    return Checkpoint.load_objects({"model": m}, p)


def ignite_pair(m, p):
    """Two objects of one file."""
    from ignite.handlers import Checkpoint

    optimizer = torch.optim.SGD(m.parameters(), 0.1)
    return Checkpoint.load_objects({"model": m, "optimizer": optimizer}, p, strict=False)


def ignite_pair_saved(state: Mapping[str, Any], folder: Path) -> Path:
    return pth({"model": dict(state), "optimizer": torch.optim.SGD(Net().parameters(), 0.1).state_dict()}, folder)


def learner(m: nn.Module, folder: Path) -> Any:
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    return Learner(DataLoaders([], []), m, loss_func=nn.MSELoss(), path=folder, model_dir=".")


def fastai_learner(m, p):
    learner(m, p.parent).load(p.stem, with_opt=False)


def fastai_model(m, p):
    from fastai.learner import load_model

    load_model(p, m, None, with_opt=False, strict=False)


def skorch_net(m: nn.Module) -> Any:
    import skorch

    return skorch.NeuralNet(m, criterion=nn.MSELoss).initialize()


def skorch_load(m, p):
    net = skorch_net(m)
    net.load_params(f_params=p)
    return net.module_


def skorch_safetensors(m, p):
    net = skorch_net(m)
    net.load_params(f_params=p, use_safetensors=True)
    return net.module_


def skorch_checkpoint(m, p):
    import skorch

    net = skorch_net(m)
    net.load_params(
        checkpoint=skorch.callbacks.Checkpoint(dirname=p, f_params="w.pth", f_optimizer=None, f_history=None)
    )
    return net.module_


def mmengine_load(m, p):
    from mmengine.runner import load_checkpoint

    return sorted(load_checkpoint(m, str(p), map_location="cpu"))


def mmengine_strictly(m, p):
    from mmengine.runner import load_checkpoint

    return sorted(load_checkpoint(m, str(p), strict=True, revise_keys=[(r"^module\.", "")]))


def mmengine_prefix(m, p):
    from mmengine.runner.checkpoint import _load_checkpoint_with_prefix, load_state_dict

    load_state_dict(m, _load_checkpoint_with_prefix("module", str(p), "cpu"))


def mmengine_init(m, p):
    from mmengine.model import PretrainedInit

    PretrainedInit(str(p))(m)


def fvcore_load(m, p):
    from fvcore.common.checkpoint import Checkpointer

    return sorted(Checkpointer(m).load(str(p)))


def fvcore_resume(m, p):
    from fvcore.common.checkpoint import Checkpointer

    return sorted(Checkpointer(m, str(p)).resume_or_load("nowhere.pth", resume=True))


def fvcore_folder(state: Mapping[str, Any], folder: Path) -> Path:
    under("model", iteration=9)(state, folder)
    (folder / "last_checkpoint").write_text("w.pth")
    return folder


def torchtnt_load(m, p):
    from torchtnt.utils.checkpoint import get_checkpoint_dirpaths

    get_checkpoint_dirpaths(str(p.parent))
    m.load_state_dict(torch.load(p)["app_state"]["module"])


def swa(m, p):
    """A weight average, as torch has it, and its model."""
    from torch.optim.swa_utils import AveragedModel

    averaged = AveragedModel(m)
    averaged.load_state_dict(torch.load(p))
    return averaged.module


def averaged_file(state: Mapping[str, Any], folder: Path) -> Path:
    return pth({"n_averaged": torch.tensor(4), **{f"module.{key}": value for key, value in state.items()}}, folder)


def data_parallel(m, p):
    nn.DataParallel(m).load_state_dict(torch.load(p))


def with_module(state: Mapping[str, Any], folder: Path) -> Path:
    return pth({f"module.{key}": value for key, value in state.items()}, folder)


def ema_shadow(m, p):
    """As torch_ema keeps its parameters: a list."""
    from torch_ema import ExponentialMovingAverage

    average = ExponentialMovingAverage(m.parameters(), decay=0.99)
    average.load_state_dict(torch.load(p))
    average.copy_to(m.parameters())


def shadow(state: Mapping[str, Any], folder: Path) -> Path:
    names = [key for key, _ in Net().named_parameters()]
    shadows = [state[key] for key in names if key in state]
    return pth({"decay": 0.99, "num_updates": 3, "shadow_params": shadows, "collected_params": None}, folder)


ROWS = [
    Row(
        "LightningModule.load_from_checkpoint",
        load_from_checkpoint,
        lightning_file,
        lit,
        makes_model=True,
        needs=("lightning",),
    ),
    Row(
        "load_from_checkpoint, not strict",
        load_from_checkpoint_loosely,
        lightning_file,
        lit,
        makes_model=True,
        needs=("lightning",),
    ),
    Row("Trainer.test(ckpt_path=)", trainer_test, lightning_file, lit, needs=("lightning",)),
    Row("Fabric.load, not strict", fabric_load, under("model", iteration=3), needs=("lightning",)),
    Row("Fabric.load", fabric_load_strictly, under("model"), needs=("lightning",)),
    Row("Fabric.load_raw", fabric_raw, pth, needs=("lightning",)),
    Row("accelerate load_checkpoint_in_model", accelerate_load, safetensors, needs=("accelerate",)),
    Row("accelerate load_checkpoint_in_model, strict", accelerate_strictly, pth, needs=("accelerate",)),
    Row(
        "accelerate load_checkpoint_in_model, with a map and dtype",
        accelerate_mapped,
        safetensors,
        needs=("accelerate",),
    ),
    Row("accelerate load_checkpoint_in_model of shards", accelerate_load, accelerate_index, needs=("accelerate",)),
    Row(
        "accelerate load_checkpoint_and_dispatch",
        accelerate_dispatched,
        safetensors,
        makes_model=True,
        needs=("accelerate",),
    ),
    Row(
        "Accelerator.load_state", accelerator_state, in_folder("model.safetensors", safetensors), needs=("accelerate",)
    ),
    Row("ignite load_objects", ignite_load, pth, needs=("ignite.handlers",)),
    Row("ignite load_objects of a file", ignite_file, pth, needs=("ignite.handlers",)),
    Row("ignite load_objects, two", ignite_pair, ignite_pair_saved, needs=("ignite.handlers",)),
    Row("fastai Learner.load", fastai_learner, pth, needs=("fastai.learner",)),
    Row("fastai load_model", fastai_model, under("model", opt={}), needs=("fastai.learner",)),
    Row("skorch load_params", skorch_load, pth, needs=("skorch",)),
    Row("skorch load_params of safetensors", skorch_safetensors, safetensors, needs=("skorch",)),
    Row("skorch load_params of a checkpoint", skorch_checkpoint, in_folder("w.pth", pth), needs=("skorch",)),
    Row("mmengine load_checkpoint", mmengine_load, under("state_dict", meta={}), needs=("mmengine.runner",)),
    Row("mmengine load_checkpoint, strict", mmengine_strictly, pth, needs=("mmengine.runner",)),
    Row("mmengine, with a prefix", mmengine_prefix, with_module, needs=("mmengine.runner",)),
    Row("mmengine PretrainedInit", mmengine_init, pth, needs=("mmengine.model",)),
    Row("fvcore Checkpointer.load", fvcore_load, under("model"), needs=("fvcore.common.checkpoint",)),
    Row("fvcore Checkpointer.load, bare", fvcore_load, pth, needs=("fvcore.common.checkpoint",)),
    Row("fvcore resume_or_load", fvcore_resume, fvcore_folder, needs=("fvcore.common.checkpoint",)),
    Row("torchtnt's layout", torchtnt_load, under("app_state", "module"), needs=("torchtnt.utils.checkpoint",)),
    Row("AveragedModel", swa, averaged_file),
    Row("DataParallel", data_parallel, with_module),
    Row("torch_ema copy_to", ema_shadow, shadow, needs=("torch_ema",)),
]
