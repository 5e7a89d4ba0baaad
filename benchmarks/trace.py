"""Tracing a program, beside the program's own way to the same point: the first call of the model that it has loaded."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import in_turn, once, table

MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 8, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    def forward(self, x):
        return x + self.down(self.up(self.norm(x)))

class GPT(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(1000, width), nn.Sequential(*(Block(width) for _ in range(depth)))
    def forward(self, x):
        return self.blocks(self.embed(x))
"""
PREPARE = """
import torch
from model import GPT
for name, width, depth in (("small", 64, 4), ("large", 1024, 12), ("deep", 32, 400)):
    model = GPT(width, depth)
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, f"{name}.ckpt")
"""
PROGRAM = """
import sys, torch
from model import GPT
name, width, depth = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = GPT(width, depth)
run = torch.load(f"{name}.ckpt", map_location="cpu")
model.load_state_dict(run["model"])
optimizer = torch.optim.Adam(model.parameters())
optimizer.load_state_dict(run["optimizer"])
model(torch.zeros(1, 4, dtype=torch.long))
"""
TRANSFORMERS = """
import torch, transformers
config = transformers.BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
model = transformers.BertModel(config)
torch.save(model.state_dict(), "bert.pth") if not __import__("os").path.exists("bert.pth") else None
model.load_state_dict(torch.load("bert.pth"))
model(torch.zeros(1, 4, dtype=torch.long))
"""
OWN = """
import os, runpy, sys
sys.argv = sys.argv[1:]; sys.path.insert(0, os.getcwd())
from torch import nn
nn.Module.__call__ = lambda *_: os._exit(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CASES = {
    "a small model": ["program.py", "small", "64", "4"],
    "a resume, 0.6 GB of weights and 1.2 GB of Adam's state": ["program.py", "large", "1024", "12"],
    "a resume, 4,000 modules": ["program.py", "deep", "32", "400"],
    "a program that imports transformers": ["with_transformers.py"],
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in {
            "model.py": MODEL, "prepare.py": PREPARE, "program.py": PROGRAM, "own.py": OWN,
            "with_transformers.py": TRANSFORMERS,
        }.items():  # fmt: skip
            (folder / file).write_text(text)
        inside = ["env", "-C", name, f"PYTHONPATH={Path(__file__).parents[1]}", "OMP_NUM_THREADS=1", sys.executable]
        once([*inside, "prepare.py"])
        for title, words in CASES.items():
            commands = {
                "the program's own way": [*inside, "own.py", *words],
                "ckptdiff trace": [*inside, "-m", "ckptdiff", "trace", "--quiet", *words],
            }
            costs = in_turn(commands)
            print(table(title, costs, "the program's own way"))
            own, traced = costs["the program's own way"].cpu, costs["ckptdiff trace"].cpu
            print(f"\ntarget, 1.3 × + 1 s: {1.3 * own + 1:.2f} s, {'met' if traced <= 1.3 * own + 1 else 'MISSED'}\n")


if __name__ == "__main__":
    main()
