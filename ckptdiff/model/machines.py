"""The model as it is built on this machine, else on one that its code asks for, and whether that makes a difference.

Where this machine has no GPU, the code meets none. Where it has one, or the code insists on one, the model is built on
a machine that claims one (`ckptdiff.claimed`). Code that asked what there is may have gone by the answer: then it is
built on the other machines as well.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.claimed.here import devices_of, kind_here, noting
from ckptdiff.claimed.host import claimed
from ckptdiff.claimed.questions import Asked
from ckptdiff.errors import CkptdiffError, ModelError

if TYPE_CHECKING:
    from ckptdiff.claimed.host import Machine
    from ckptdiff.model.build import Built
    from ckptdiff.model.reference import Reference

MANY = 8
"""Devices of the machine for code that asks how many there are and is not content with one."""
NEWEST, OLDER = (9, 0), (7, 0)
_NAMED = re.compile(r"\b(?:(mps)|(xpu))\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine to build on: this one for `here`, else one that claims `count` devices of a kind; `cpu` has none."""

    kind: str = "cpu"
    count: int = 0
    capability: tuple[int, int] = NEWEST
    here: bool = False

    @property
    def shown(self) -> str:
        """What reports call it."""
        if self.kind == "cpu":
            return "a machine without a GPU"
        name = {"cuda": "GPU", "xpu": "GPU of Intel's", "mps": "GPU of Apple's"}[self.kind]
        older = f" of compute capability {self.capability[0]}.{self.capability[1]}" if self.capability != NEWEST else ""
        return f"a machine with {f'{self.count} {name}s' if self.count > 1 else f'a {name}'}{older}"


HERE = Host(here=True)
"""This one, where it has no GPU."""


@contextlib.contextmanager
def on(host: Host, asked: Asked, real: str) -> Iterator[Machine | None]:
    """Room for code to run as on a machine."""
    if host.here and host.kind == "cpu":
        with noting(asked):
            yield None
    else:
        with claimed(
            host.kind, count=max(host.count, 1), asked=asked, real=real, capability=host.capability
        ) as machine:
            yield machine


def hosts(device: str | None) -> Host:
    """The machine that is asked for; this one for None."""
    present = kind_here()
    if device is None:
        return Host(present, devices_of(present), here=True)
    return Host(device, max(devices_of(device), 1) if device != "cpu" else 0, here=device == "cpu" and present == "cpu")


def built_on(
    reference: Reference, args: Mapping[str, object], device: str | None, *, with_values: bool = False
) -> tuple[Built, tuple[Built, ...]]:
    """The model, and what it is on the machines for which it is another one as far as they could be tried.

    Raises as `build` does, for the first machine that was tried.
    """
    from ckptdiff.model.build import build

    host, asked = hosts(device), Asked()
    error: CkptdiffError | None = None
    built: Built | None = None
    try:
        built = build(reference, args, with_values=with_values, host=host, asked=asked)
    except ModelError as failed:
        error = failed
    if error is not None or asked.default:
        for other in _insisted(host, asked, error, device):
            with contextlib.suppress(CkptdiffError):
                built = build(reference, args, with_values=with_values, host=other, asked=asked)
                return built, tuple(_others(reference, args, built, asked, device))
    if built is None:
        assert error is not None
        raise error
    return built, tuple(_others(reference, args, built, asked, device))


def _insisted(host: Host, asked: Asked, error: CkptdiffError | None, device: str | None) -> Iterator[Host]:
    """The machines on which code may get what it lacked."""
    kind = next(iter(asked.needs), "")
    if host.kind == "cpu":
        if device is not None:
            return
        named = _NAMED.search(error.message if error is not None else "")
        kind = kind or (named[0].lower() if named else "cuda" if asked.questions else "")
        if kind:
            yield Host(kind, 1)
    kind = kind or host.kind
    counted = any("device_count" in question for question in asked.questions)
    if kind and (asked.most >= max(host.count, 1) or counted):
        for count in dict.fromkeys((asked.most + 1, 2, MANY)):
            if count > max(host.count, 1):
                yield Host(kind, count)


def _others(
    reference: Reference, args: Mapping[str, object], built: Built, asked: Asked, device: str | None
) -> Iterator[Built]:
    from ckptdiff.model.build import build

    if device is not None or not (asked.questions or asked.needs):
        return
    host, told = built.host, " ".join(asked.questions)
    others = []
    if host.kind == "cpu":
        others.append(Host(next(iter(asked.needs), "") or _kind(told), 1))
    else:
        others.append(Host("cpu", here=kind_here() == "cpu"))
    if "device_count" in told:
        others.append(Host("cuda", MANY if host.count == 1 or host.kind == "cpu" else 1))
    if any(word in told for word in ("capability", "properties", "bf16", "tf32")) or host.kind == "cpu":
        others.append(Host("cuda", 1, OLDER))
    modules = {name: module for name, module in sys.modules.items() if name.startswith("ckptdiff_model_")}
    further = Asked()
    for other in dict.fromkeys(others):
        if other.capability == OLDER and not _asks_for_capability(asked, further):
            continue
        with contextlib.suppress(CkptdiffError):
            elsewhere = build(reference, args, host=other, asked=further)
            yield elsewhere
    sys.modules.update(modules)


def _asks_for_capability(*asked: Asked) -> bool:
    told = " ".join(question for answers in asked for question in answers.questions)
    return any(word in told for word in ("capability", "properties", "bf16", "tf32"))


def _kind(told: str) -> str:
    return next((kind for kind in ("xpu", "mps") if f".{kind}." in told and ".cuda." not in told), "cuda")
