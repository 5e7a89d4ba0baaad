"""Modules that are not installed and that a program needs for nothing before its weights."""

from __future__ import annotations

import collections.abc
import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from ckptdiff.absent import KERNELS, AbsentModules, importing_file
from ckptdiff.tracing.lines import is_programs
from ckptdiff.tracing.scene import Scene

LOGGERS = (
    "aim", "clearml", "comet_ml", "mlflow", "neptune", "swanlab", "tensorboard", "tensorboardX", "trackio", "visdom",
    "wandb",
)  # fmt: skip
UNNEEDED = (*KERNELS, "mpi4py")
"""Modules that programs import for what is not needed before the weights."""


class Nothing:
    """Whatever is asked of it is nothing, and says so by being false."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __call__(self, *args: object, **_: object) -> object:
        # A decorator gives back what it is put before.
        return args[0] if len(args) == 1 and callable(args[0]) else Nothing()

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[object]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was entered."""

    def __getitem__(self, _: object) -> object:
        return Nothing()

    def __setitem__(self, _: object, __: object) -> None:
        """Nothing is kept."""

    def __mro_entries__(self, _: object) -> tuple[type, ...]:
        return (object,)


class _Absent(ModuleType):
    """A module that is not installed and that nobody needs before the weights."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Nothing()


class _Communicator(Nothing):
    """The processes of MPI: this one alone. What it sends, it receives."""

    rank, size = 0, 1

    def Get_rank(self) -> int:  # noqa: N802 - the names are MPI's
        return 0

    def Get_size(self) -> int:  # noqa: N802
        return 1

    def bcast(self, value: object = None, root: int = 0) -> object:  # noqa: ARG002
        return value

    reduce = allreduce = bcast

    def gather(self, value: object = None, root: int = 0) -> list[object]:  # noqa: ARG002
        return [value]

    allgather = gather

    def scatter(self, values: Any, root: int = 0) -> object:  # noqa: ARG002
        return values[0]


class _MPI(Nothing):
    COMM_WORLD = COMM_SELF = _Communicator()


_KNOWN: Mapping[str, Mapping[str, object]] = {
    "mpi4py": {"MPI": _MPI()},
    "mpi4py.MPI": {"COMM_WORLD": _MPI.COMM_WORLD, "COMM_SELF": _MPI.COMM_WORLD},
    "torch._six": {
        "container_abcs": collections.abc, "string_classes": (str, bytes), "int_classes": int, "inf": math.inf,
        "nan": math.nan, "PY3": True, "PY37": True, "FileNotFoundError": FileNotFoundError,
    },
}  # fmt: skip
"""What has to have a value in those that are absent."""


_TENSORBOARD = "torch.utils.tensorboard"


def absent_modules(scene: Scene) -> None:
    """Loggers, kernels and the like that are not installed."""

    def stand_in(name: str) -> ModuleType | None:
        package = name.partition(".")[0]
        # A library looks whether it can have a kernel, and takes another way without.
        wanted = name in _KNOWN or package in LOGGERS or package in UNNEEDED
        if not wanted or (package not in LOGGERS and not is_programs(importing_file())):
            return None
        if name == "torch._six":
            scene.tell("torch._six is no part of this torch any more; the program gets what it was.")
        elif name == package:
            scene.tell(f"{name} is not installed; what the program takes from it is nothing.")
        made = _Absent(name)
        vars(made).update(_KNOWN.get(name, {}))
        return made

    if importlib.util.find_spec("tensorboard") is None:
        scene.patched.item(sys.modules, _TENSORBOARD, _Absent(_TENSORBOARD))  # torch's own needs it, and says so
    finder = AbsentModules(stand_in)
    finder.start()
    scene.patched.also(finder.stop)
