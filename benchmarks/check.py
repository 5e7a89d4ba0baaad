"""`ckptdiff check` on many targets against as many runs of `compare`, and a snapshot against an empty Typer program.

`python -m benchmarks.check 10` takes 10 targets instead of 100. Read only the wall time of `check`: the processes of
its targets are not its own children, so the system counts their CPU and memory elsewhere.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import in_turn, once, table

TARGETS = 100

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=64, depth=12):
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 4, width * 4) for _ in range(depth))
        self.head = nn.Linear(width, 1000)
"""

WRITE = """
import sys, torch
sys.path.insert(0, ".")
from model import Net
torch.save(Net().state_dict(), "weights.pth")
"""

# Arguments and an option, as every program has them.
EMPTY = """
import typer
app = typer.Typer()

@app.command()
def main(model: str, checkpoint: str, format: str = "auto") -> None:
    print("nothing")

if __name__ == "__main__":
    app()
"""


def main() -> None:
    """Print two tables."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else TARGETS
    python = sys.executable
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("model.py").write_text(MODEL)
        Path("empty.py").write_text(EMPTY)
        Path("ckptdiff.toml").write_text(
            "\n".join(
                f'[[targets]]\nname = "t{number}"\nmodel = "model.py:Net"\ncheckpoint = "weights.pth"\n'
                for number in range(count)
            )
        )
        once([python, "-c", WRITE])
        once([python, "-m", "ckptdiff", "snapshot", "model.py:Net", "-o", "model.ckptdiff.json"])

        compare = [python, "-m", "ckptdiff", "compare", "model.py:Net", "weights.pth"]
        loop = f"set -e; for i in $(seq {count}); do {shlex.join(compare)}; done"
        costs = in_turn(
            {
                f"{count} runs of ckptdiff compare": ["bash", "-c", loop],
                "ckptdiff check --jobs 2": [python, "-m", "ckptdiff", "check", "--jobs", "2"],
            },
            runs=1 if count > 20 else 3,
            warmups=0,  # the files were read before
        )
        print(table(f"check: {count} targets", costs, f"{count} runs of ckptdiff compare"))

        arguments = ["model.ckptdiff.json", "weights.pth"]
        costs = in_turn(
            {
                "an empty Typer program": [python, "empty.py", *arguments, "--format", "text"],
                "ckptdiff compare, with a snapshot": [
                    *(python, "-m", "ckptdiff", "compare"),
                    *arguments,
                    *("--format", "text"),
                ],
            },
            runs=15,
        )
        print(table("compare without torch", costs, "an empty Typer program"))


if __name__ == "__main__":
    main()
