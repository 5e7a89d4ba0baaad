"""`ckptdiff inspect` of 2 GB in 5,000 tensors, against a Typer program that does nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import in_turn, once, table

WRITE = """
import sys, torch
from safetensors.torch import save_file
state = {f"layers.{i // 10}.block.{i % 10}.weight": torch.empty(256, 400) for i in range(5000)}
torch.save(state, sys.argv[1] + "/wide.pth")
save_file(state, sys.argv[1] + "/wide.safetensors")
"""

EMPTY = """
import typer
app = typer.Typer()
@app.command()
def main() -> None:
    pass
app()
"""

HEAVY = """
import sys
from ckptdiff.cli import main
sys.argv = ["ckptdiff", "inspect", sys.argv[1]]
try:
    main()
except SystemExit:
    pass
print([name for name in ("torch", "numpy", "fsspec", "pydantic", "rich") if name in sys.modules], file=sys.stderr)
"""


def main() -> None:
    """Print one table, and which heavy modules were imported. Writes about 4 GB to a temporary folder."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        once([python, "-c", WRITE, folder])
        files = {name: str(Path(folder, name)) for name in ("wide.pth", "wide.safetensors")}
        costs = in_turn(
            {"an empty Typer program": [python, "-c", EMPTY]}
            | {f"ckptdiff inspect {name}": [python, "-m", "ckptdiff", "inspect", path] for name, path in files.items()},
            runs=15,
        )
        print(table("inspect: 2 GB, 5,000 tensors", costs, "an empty Typer program"))
        for name, path in files.items():
            done = subprocess.run([python, "-c", HEAVY, path], capture_output=True, text=True, check=True)
            print(f"heavy modules imported for {name}: {done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
