"""`python -m tests.fuzz.made DIRECTORY`: files to begin with, of what the committed ones have none."""

from __future__ import annotations

import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch


class Net(torch.nn.Module):
    """A module to script."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        self.register_buffer("scale", torch.arange(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def make(directory: Path) -> None:
    """Writes the files."""
    base = torch.arange(24.0).reshape(4, 6)
    state = OrderedDict(
        plain=torch.arange(6.0),
        tied=base,
        view=base[1:, ::2],
        turned=base.t(),
        half=torch.arange(3).to(torch.bfloat16),
        young=torch.arange(4).to(torch.uint16),
        yes=torch.tensor([True, False]),
        scalar=torch.tensor(5),
        complex=torch.complex(torch.arange(2.0), torch.arange(2.0)),
        parameter=torch.nn.Parameter(torch.arange(3.0)),
        empty=torch.zeros(0, 3),
        meta=torch.empty(2, 2, device="meta"),
        sparse=torch.eye(2).to_sparse(),
        quantized=torch.quantize_per_tensor(torch.arange(4.0), 0.5, 1, torch.qint8),
    )
    state._metadata = OrderedDict({"": {"version": 1, "nested": {"a": (1, [None, "b"])}}})  # type: ignore[attr-defined]
    marked = torch.nn.Parameter(torch.ones(2))
    marked.note = "a"  # type: ignore[attr-defined]
    torch.save(state, directory / "kinds.pth")
    torch.save(state, directory / "kinds_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": {"w": marked}, "epoch": 3, "list": [torch.ones(2), 1.5]}, directory / "marked.pth")
    torch.save({"a": torch.ones(2), "b": torch.arange(3)}, directory / "old.pth", pickle_protocol=4)
    torch.jit.script(Net()).save(str(directory / "net.pt"))
    with (
        zipfile.ZipFile(directory / "kinds.pth") as source,
        zipfile.ZipFile(directory / "packed.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    make(Path(sys.argv[1]))
