"""`ckptdiff compare hf:DIRECTORY` of large models, against only importing what their `from_pretrained` needs.

The files are sparse: their headers are those of such models, and nobody reads what they would hold. Run it where
transformers is, `.venv-zoo/bin/python -m benchmarks.from_pretrained` say, and let Python keep its compiled files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.following import write_sparse
from benchmarks.measure import in_turn, table

CONFIGURATIONS = """
import torch, transformers
def llama():
    return transformers.LlamaForCausalLM, transformers.LlamaConfig(hidden_size=8192, intermediate_size=28672,
        num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, vocab_size=128256, dtype="bfloat16")
def qwen():
    return transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig(hidden_size=2048, intermediate_size=6144,
        moe_intermediate_size=768, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128,
        num_experts=128, num_experts_per_tok=8, vocab_size=151936, dtype="bfloat16")
"""
DESCRIBE = (
    CONFIGURATIONS
    + """
import sys, json
name, folder = sys.argv[1:]
cls, config = globals()[name]()
config.architectures = [cls.__name__]
config.save_pretrained(folder)
with torch.device("meta"):
    model = cls(config)
print(json.dumps({key: list(value.shape) for key, value in model.state_dict().items()}))
"""
)
IMPORT = "import sys, torch, transformers; getattr(transformers, sys.argv[1]).from_pretrained"
CASES = {
    "llama": ("70 billion parameters", "LlamaForCausalLM"),
    "qwen": ("128 experts in each of 48 layers", "Qwen3MoeForCausalLM"),
}


def _names(key: str, shape: list[int]) -> dict[str, list[int]]:
    """Under which names a file has what the model has stacked."""
    stem, _, last = key.rpartition(".")
    if last == "gate_up_proj":
        experts, rows, columns = shape
        return {
            f"{stem}.{expert}.{name}.weight": [rows // 2, columns]
            for expert in range(experts)
            for name in ("gate_proj", "up_proj")
        }
    if last == "down_proj":
        return {f"{stem}.{expert}.down_proj.weight": shape[1:] for expert in range(shape[0])}
    return {key: shape}


def main() -> None:
    """Print one table a model. Disk is taken for headers only."""
    python = sys.executable
    for name, (said, owner) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            described = subprocess.run(
                [python, "-c", DESCRIBE, name, folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
            )
            total = write_sparse(Path(folder), json.loads(described.stdout.splitlines()[-1]), _names)
            yardstick = "import torch, transformers and the model's module"
            costs = in_turn(
                {
                    yardstick: [python, "-c", IMPORT, owner],
                    "ckptdiff compare hf:DIRECTORY": [python, "-m", "ckptdiff", "compare", f"hf:{folder}"],
                }
            )
            print(table(f"from_pretrained: {said}, {total / 1e9:.0f} GB", costs, yardstick))


if __name__ == "__main__":
    main()
