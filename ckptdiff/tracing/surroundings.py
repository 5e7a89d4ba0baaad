"""What stands between a program and its weights: process groups, compilers, kernels, loggers, downloads.

None of it changes which weights are loaded. Each is answered in the simplest way that lets the program go on, and every
answer is told. A stand-in is one function of `STAND_INS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ckptdiff.following.mode import parts
from ckptdiff.torch_private import IncompatibleKeys, store_of_one
from ckptdiff.tracing.children import child_processes
from ckptdiff.tracing.scene import Scene
from ckptdiff.tracing.unneeded import Nothing, absent_modules

RANK: Mapping[str, str] = {
    "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0", "ROLE_RANK": "0",
    "ROLE_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
"""What torchrun tells the one rank of a group of one."""


def group_of_one(scene: Scene) -> None:
    """Process groups: this rank alone, which is number 0."""
    if not torch.distributed.is_available():
        return
    import torch.distributed as dist

    asked: list[str] = []

    def init_process_group(backend: object = None, *_: object, **__: object) -> None:
        if not dist.is_initialized():
            scene.tell(f"A process group ({backend or 'by default'}) was made of this process alone, as rank 0 of 1.")
        asked.append(str(backend or "gloo"))
        _set_missing(scene, RANK)
        original("gloo", store=store_of_one(), rank=0, world_size=1)

    original = scene.patched.function(dist.init_process_group, init_process_group)
    before = scene.patched.function(
        dist.get_backend, lambda *args, **kwargs: asked[-1] if asked else before(*args, **kwargs)
    )

    def destroy() -> None:
        if asked and dist.is_initialized():
            dist.destroy_process_group()

    scene.patched.also(destroy)


def _set_missing(scene: Scene, variables: Mapping[str, str]) -> None:
    """Set those variables of the environment that are not there."""
    for name, value in variables.items():
        if name not in os.environ:
            scene.patched.item(os.environ, name, value)


def uncompiled(scene: Scene) -> None:
    """`torch.compile` gives back what it is given, a module in the wrapper that its keys are named after."""
    said: list[bool] = []

    def compile(model: object = None, *_: object, **__: object) -> object:  # noqa: A001 - torch's name
        if model is None:
            return lambda function: compile(function)
        if not said:
            said.append(True)
            scene.tell("torch.compile was passed through: nothing is compiled.")
        return OptimizedModule(model) if isinstance(model, nn.Module) else model

    scene.patched.function(torch.compile, compile)
    scene.patched.function(nn.Module.compile, lambda *_, **__: None)


class OptimizedModule(nn.Module):
    """A module as `torch.compile` wraps it, under the name it has there, but not compiled."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def __getattr__(self, name: str) -> Any:
        if name == "_orig_mod":
            return self._modules[name]
        return getattr(self._modules["_orig_mod"], name)

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the module does."""
        return self._orig_mod(*args, **kwargs)


def extensions(scene: Scene) -> None:
    """C++ and CUDA that a program would compile before it starts."""

    def load(name: object = "", *_: object, **__: object) -> object:
        scene.tell(f"The extension {name} was not compiled; what the program takes from it is nothing.")
        return Nothing()

    def patch(module: Any) -> None:
        for function in (module.load, module.load_inline):
            scene.patched.function(function, load)

    scene.patched.imports.once("torch.utils.cpp_extension", patch)


def downloads(scene: Scene) -> None:
    """Weights that would be downloaded: those of the cache, else what the model has, told to be from there."""
    from torch import hub

    def load_state_dict_from_url(url: object, model_dir: Any = None, *args: object, **kwargs: Any) -> object:
        folder = model_dir or os.path.join(hub.get_dir(), "checkpoints")  # noqa: PTH118 - as torch writes it
        name = kwargs.get("file_name") or os.path.basename(str(url).partition("?")[0])  # noqa: PTH119
        if os.path.exists(os.path.join(folder, name)):  # noqa: PTH110, PTH118
            return original(url, model_dir, *args, **kwargs)
        scene.tell(f"{url} was not downloaded; what it fills counts as filled by it.")
        return NotDownloaded(str(url))

    original = scene.patched.function(hub.load_state_dict_from_url, load_state_dict_from_url)

    def load_state_dict(module: nn.Module, state_dict: object, *args: object, **kwargs: object) -> object:
        if not isinstance(state_dict, NotDownloaded):
            return loading(module, state_dict, *args, **kwargs)
        for key, value in module.state_dict(keep_vars=True).items():
            for part in parts(value) if isinstance(value, torch.Tensor) else ():
                scene.watch.followed.engine.describe(part, (state_dict.url, key))
        return IncompatibleKeys([], [])

    loading = scene.patched.function(nn.Module.load_state_dict, load_state_dict)


class NotDownloaded(dict):  # type: ignore[type-arg]
    """The state dict of a file that was not downloaded."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url


def no_network(scene: Scene) -> None:
    """Connections to other machines: refused, as where there is no network."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "offline"}
    _set_missing(scene, offline)
    import socket

    said: list[str] = []

    def refused(address: object) -> None:
        host = str(address[0]) if isinstance(address, tuple) and address else ""
        if not host or host in ("localhost", "::1", "0.0.0.0") or host.startswith("127."):  # noqa: S104 - compared
            return
        if host not in said:
            said.append(host)
            scene.tell(f"A connection to {host} was refused.")
        raise OSError(101, "Network is unreachable")

    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def connecting(self: Any, address: Any) -> object:
        refused(address)
        return connect(self, address)

    def connecting_ex(self: Any, address: Any) -> object:
        refused(address)
        return connect_ex(self, address)

    scene.patched.attribute(socket.socket, "connect", connecting)
    scene.patched.attribute(socket.socket, "connect_ex", connecting_ex)
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> object:
        try:
            name = host.decode() if isinstance(host, bytes) else host
            refused((name or "localhost",))
        except OSError:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution") from None
        return resolve(host, *args, **kwargs)

    scene.patched.attribute(socket, "getaddrinfo", getaddrinfo)


STAND_INS: tuple[Callable[[Scene], None], ...] = (
    absent_modules,
    group_of_one,
    uncompiled,
    extensions,
    downloads,
    child_processes,
)
