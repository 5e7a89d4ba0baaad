"""What differs between two files of 2 GB, beside `cmp`, `sha256sum`, a torch script and two programs from PyPI.

    python -m benchmarks.diff [--size 2.0] [--runs 5] [--directory DIR] [--peers PATH]

Three pairs of 300 float32 tensors, generated and deleted here: identical, 10 % of the tensors changed, all changed. The
files are warm. Everything is run in turn, whole processes measured from outside; printed are medians, with ratios to
`cmp` on the identical pair, since `cmp` ends at the first difference. What takes minutes, torch and the peers, is run
once, behind the others. `--peers` is the folder of a virtual environment with `pip install 'ckptkit[cli]' diffai-python
safetensors numpy`, which change too often to be dependencies of the benchmarks. They read safetensors files, which are
written from the same pair.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import in_turn, once, table

GENERATE = """
import shutil, sys, torch
folder, size = sys.argv[1], float(sys.argv[2])
torch.manual_seed(0)
rows = int(size * 1e9 / 300 / 4 / 1024)
state = {f"layers.{i}.weight": torch.randn(rows, 1024) for i in range(300)}
torch.save(state, folder + "/a.pth")
shutil.copy(folder + "/a.pth", folder + "/same.pth")  # torch.save writes the name of the file into it
for i in range(0, 300, 10):
    state[f"layers.{i}.weight"] = state[f"layers.{i}.weight"] + 1e-3 * torch.randn(rows, 1024)
torch.save(state, folder + "/tenth.pth")
for i in range(300):
    state[f"layers.{i}.weight"] = state[f"layers.{i}.weight"] + 1e-3 * torch.randn(rows, 1024)
torch.save(state, folder + "/all.pth")
"""

TORCH = """
import sys, torch
a, b = (torch.load(path, weights_only=True, mmap=True) for path in sys.argv[1:])
for key in a:
    x, y = a[key], b[key]
    if not torch.allclose(x, y, rtol=0, atol=0, equal_nan=True):
        d = (x - y).abs()
        print(key, int((x != y).sum()), float(d.max()), float(d.norm() / x.norm()))
"""


PEER = """
import sys, diffai
print(len(diffai.diff_paths(*sys.argv[1:])))
"""


def ours(*arguments: str) -> list[str]:
    """`ckptdiff diff`, whose exit code says that files differ."""
    code = "import sys\nfrom ckptdiff.cli import main\nsys.exit(main(sys.argv[1:]) // 2)"
    return [sys.executable, "-c", code, "diff", *arguments]


def hashes(size: int = 256 << 20) -> str:
    """GB of memory a second and core that the algorithms of hashlib take."""
    data = memoryview(bytes(1 << 20))
    lines = []
    for name in ("sha256", "blake2b", "sha512"):
        total = hashlib.new(name)
        begin = time.process_time()
        for _ in range(size >> 20):
            total.update(data)
        lines.append(f"{name} {size / (time.process_time() - begin) / 1e9:.2f}")
    return "GB/s and core: " + ", ".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=float, default=2.0, help="GB of each file")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", help="where the files go; a temporary directory by default")
    parser.add_argument("--peers", help="a virtual environment in which two programs from PyPI are installed")
    parser.add_argument("--keep", action="store_true", help="use files that are there, and leave them")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode
    with tempfile.TemporaryDirectory(dir=options.directory) as temporary:
        folder = Path(options.directory) if options.keep else Path(temporary)
        if not (folder / "all.pth").exists():
            once([sys.executable, "-c", GENERATE, str(folder), str(options.size)])
        a, same, tenth, every = (str(folder / f"{name}.pth") for name in ("a", "same", "tenth", "all"))
        costs = in_turn(
            {
                "cmp, identical": ["cmp", a, same],
                "sha256sum of both": ["sha256sum", a, same],
                "ckptdiff diff, identical": ours(a, same),
                "ckptdiff diff, a tenth changed": ours(a, tenth),
                "ckptdiff diff, all changed": ours(a, every),
                "ckptdiff diff --quick": ours(a, tenth, "--quick"),
            },
            options.runs,
        )
        slow = {"torch allclose script, a tenth changed": [sys.executable, "-c", TORCH, a, tenth]}
        if options.peers:
            files = [str(folder / f"{name}.safetensors") for name in ("a", "tenth")]
            for source, file in zip((a, tenth), files, strict=True):
                if not Path(file).exists():
                    once([sys.executable, "-m", "ckptdiff", "rewrite", source, "-o", file, "--no-fsync"])
            slow["ckptdiff diff, a tenth changed, safetensors"] = ours(*files)
            slow["ckptkit diff"] = [f"{options.peers}/bin/ckptkit", "diff", *files]
            slow["diffai.diff_paths"] = [f"{options.peers}/bin/python", "-c", PEER, *files]
        costs |= in_turn(slow, 1, warmups=0)
    print(table(f"{options.size:g} GB against {options.size:g} GB", costs, "cmp, identical"))
    print(hashes())


if __name__ == "__main__":
    main()
