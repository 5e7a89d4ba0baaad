"""Following a loader on descriptions of its weights, against only importing what it needs.

The files are sparse: their headers are those of the real models, and nobody reads what they would hold.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import in_turn, once, table

CONFIGURATIONS = """
import transformers as tf
def llama():
    return tf.LlamaForCausalLM, tf.LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, vocab_size=128256, dtype="bfloat16")
def mixtral():
    return tf.MixtralForCausalLM, tf.MixtralConfig(vocab_size=32000, dtype="bfloat16")
"""
DESCRIBE = (
    CONFIGURATIONS
    + """
import sys, json, torch
make, folder = sys.argv[1:]
cls, config = globals()[make]()
config.architectures = [cls.__name__]
config.save_pretrained(folder)
with torch.device("meta"):
    model = cls(config)
print(json.dumps({key: list(value.shape) for key, value in model.state_dict().items()}))
"""
)
IMPORT = CONFIGURATIONS + "import sys; cls, config = globals()[sys.argv[1]](); cls.from_pretrained"
FOLLOW = (
    CONFIGURATIONS
    + """
import sys
from ckptdiff.loaders.function import ask
cls, config = globals()[sys.argv[1]]()
outcome = ask(lambda path: cls.from_pretrained(path), None, sys.argv[2])
assert outcome.raised is None, outcome.raised
assert all(entry.by == "file" and entry.rows is None for entry in outcome.filled.values())
"""
)
PLAIN = """
import torch
from torch import nn
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleList([nn.Linear(4096, 4096) for _ in range(4)])
        self.up, self.down, self.norm = nn.Linear(4096, 16384), nn.Linear(16384, 4096), nn.LayerNorm(4096)
def model():
    return nn.Sequential(nn.Embedding(50000, 4096), *[Block() for _ in range(20)])
def small():
    return nn.ParameterList([nn.Parameter(torch.empty(4)) for _ in range(100_000)])
"""
CONSTRUCT = (
    PLAIN
    + """
from ckptdiff.loaders.function import ask
outcome = ask(lambda path: model(), None, "no file")
assert sum(slot.tensor.nbytes for slot in outcome.model.keys().values()) > 16e9
"""
)
MANY = (
    PLAIN
    + """
from ckptdiff.loaders.function import ask
def load(path):
    tensors, made = torch.load(path), small()
    made.load_state_dict(tensors)
    return made
outcome = ask(load, None, __import__("sys").argv[1])
assert len(outcome.filled) == 100_000
"""
)
REALLY = PLAIN + "import sys; made = small(); made.load_state_dict(torch.load(sys.argv[1]))"


SAVED = """
import sys
from pathlib import Path
Path(sys.argv[1], "net.py").write_text('''import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(*(nn.Linear(4096, 4096) for _ in range(32)))

def load(model, path):
    state = torch.load(path, map_location="cpu")
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
''')
torch.save({f"module.{i}.{leaf}": torch.rand(4096, 4096) if leaf == "weight" else torch.rand(4096)
            for i in range(32) for leaf in ("weight", "bias")}, Path(sys.argv[1], "w.pth"))
"""


def _names(key: str, shape: list[int]) -> dict[str, list[int]]:
    """Under which names Mixtral's files hold what the model has stacked."""
    base = key.replace("mlp.experts.", "block_sparse_moe.experts.").replace("mlp.gate.", "block_sparse_moe.gate.")
    if key.endswith("experts.gate_up_proj"):
        stem, (experts, rows, columns) = base.removesuffix("gate_up_proj"), shape
        return {f"{stem}{e}.{w}.weight": [rows // 2, columns] for e in range(experts) for w in ("w1", "w3")}
    if key.endswith("experts.down_proj"):
        return {f"{base.removesuffix('down_proj')}{expert}.w2.weight": shape[1:] for expert in range(shape[0])}
    return {base: shape}


def write_sparse(
    folder: Path, shapes: dict[str, list[int]], names: Callable[[str, list[int]], dict[str, list[int]]] = _names
) -> int:
    """Shards of at most 5 GB whose tensors are holes, under `names` of their own; returns their size in bytes."""
    shards: list[dict[str, list[int]]] = [{}]
    filled = 0
    for key, shape in (named for item in shapes.items() for named in names(*item).items()):
        if filled + 2 * math.prod(shape) > 5e9:
            shards.append({})
            filled = 0
        shards[-1][key] = shape
        filled += 2 * math.prod(shape)
    weight_map, total = {}, 0
    for number, shard in enumerate(shards, 1):
        name, offset, header = f"model-{number:05}-of-{len(shards):05}.safetensors", 0, {}
        for key, shape in shard.items():
            end = offset + 2 * math.prod(shape)
            header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            offset, weight_map[key] = end, name
        text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + offset)
        total += offset
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def main() -> None:
    """Print one table a case. Disk is taken for headers only."""
    import subprocess

    python = sys.executable
    for name in ("llama", "mixtral"):
        with tempfile.TemporaryDirectory() as folder:
            described = subprocess.run([python, "-c", DESCRIBE, name, folder], stdout=subprocess.PIPE, check=True)
            total = write_sparse(Path(folder), json.loads(described.stdout.splitlines()[-1]))
            costs = in_turn(
                {
                    "import transformers and the model's module": [python, "-c", IMPORT, name],
                    "from_pretrained, followed": [python, "-c", FOLLOW, name, folder],
                }
            )
            title = f"following: {name}, {total / 1e9:.0f} GB"
            print(table(title, costs, "import transformers and the model's module"))
    costs = in_turn(
        {"import torch": [python, "-c", PLAIN], "plain constructors of 17 GB, followed": [python, "-c", CONSTRUCT]}
    )
    print(table("following: a model made inside the loader", costs, "import torch"))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "small.pth"))
        once([python, "-c", PLAIN + "import sys; torch.save(small().state_dict(), sys.argv[1])", path])
        costs = in_turn(
            {"load_state_dict, really": [python, "-c", REALLY, path], "followed": [python, "-c", MANY, path]}, runs=3
        )
        print(table("following: 100,000 small tensors", costs, "load_state_dict, really"))
    with tempfile.TemporaryDirectory() as folder:
        once([python, "-c", PLAIN + SAVED, folder])
        program = [python, "-m", "ckptdiff"]
        path, out = str(Path(folder, "w.pth")), str(Path(folder, "out.safetensors"))
        model, load = str(Path(folder, "net.py:Net")), str(Path(folder, "net.py:load"))
        costs = in_turn(
            {
                "rewrite": [*program, "rewrite", path, "-o", out, "--force"],
                "compare with the loader": [*program, "compare", model, path, "--loader", load],
                "convert": [*program, "convert", model, path, "--loader", load, "-o", out, "--force"],
            }
        )
        print(table("convert where bytes only move: 2.1 GB", costs, "rewrite"))


if __name__ == "__main__":
    main()
