"""`ckptdiff compare` on a 1.1-billion-parameter Llama against the script everybody writes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import in_turn, table

LLAMA = Path(__file__).parent / "models" / "llama.py"  # a folder of its own: it goes on sys.path

WRITE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from llama import model
from safetensors.torch import save_file
with torch.device("meta"):
    empty = model()
state = {key: torch.randn(value.shape, dtype=value.dtype) for key, value in empty.state_dict().items()}
torch.save(state, sys.argv[2] + "/llama.pth")
save_file(state, sys.argv[2] + "/llama.safetensors")
"""

SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from llama import model
net = model()
if sys.argv[2].endswith(".pth"):
    state = torch.load(sys.argv[2], weights_only=True)
else:
    from safetensors.torch import load_file
    state = load_file(sys.argv[2])
print(net.load_state_dict(state))
"""

IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); import llama"


def main() -> None:
    """Print one table a format. Writes about 4.4 GB to a temporary folder."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        from benchmarks.measure import once

        once([python, "-c", WRITE, str(LLAMA.parent), folder])
        for name in ("llama.pth", "llama.safetensors"):
            weights = str(Path(folder, name))
            costs = in_turn(
                {
                    "import torch and the model's module": [python, "-c", IMPORT, str(LLAMA.parent)],
                    "ckptdiff compare": [python, "-m", "ckptdiff", "compare", f"{LLAMA}:model", weights],
                    "build, load, load_state_dict": [python, "-c", SCRIPT, str(LLAMA.parent), weights],
                }
            )
            print(table(f"compare: Llama 1.1B, {name}", costs, "import torch and the model's module"))


if __name__ == "__main__":
    main()
