"""Rewriting a 2.2 GB checkpoint, beside `cp` and beside the script people write instead: time and peak memory.

    python benchmarks/writing.py [--runs 5] [--directory DIR]

The file is a bfloat16 Llama of 1.1 billion parameters with random values, as .safetensors and as .pth, generated and
deleted here. The runs of a round are interleaved, since a disk is not equally fast all the time; printed are medians,
and the median of the ratios within a round. Every rewrite here drops one key and renames all others, so that no
contender could get away with copying the file as a whole.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GENERATE = """
import sys, torch
from safetensors.torch import save_file
torch.manual_seed(0)
def layer(i):
    p = f"model.layers.{i}."
    yield p + "input_layernorm.weight", (2048,)
    yield p + "mlp.down_proj.weight", (2048, 5632)
    yield p + "mlp.gate_proj.weight", (5632, 2048)
    yield p + "mlp.up_proj.weight", (5632, 2048)
    yield p + "post_attention_layernorm.weight", (2048,)
    yield p + "self_attn.k_proj.weight", (256, 2048)
    yield p + "self_attn.o_proj.weight", (2048, 2048)
    yield p + "self_attn.q_proj.weight", (2048, 2048)
    yield p + "self_attn.v_proj.weight", (256, 2048)
shapes = dict([("lm_head.weight", (32000, 2048)), ("model.embed_tokens.weight", (32000, 2048)),
               *(pair for i in range(22) for pair in layer(i)), ("model.norm.weight", (2048,))])
def values(shape):
    bits = torch.randint(-2**15, 2**15, shape, dtype=torch.int16)
    return bits.bitwise_and_(~0x7000).bitwise_or_(0x3000).view(torch.bfloat16)  # magnitudes of weights, below 1
state = {key: values(shape) for key, shape in shapes.items()}
save_file(state, sys.argv[1] + "/in.safetensors", {"format": "pt"})
torch.save(state, sys.argv[1] + "/in.pth")
"""

REWRITE = """
import sys
from ckptdiff.checkpoint import read
from ckptdiff.requests import renames_of
from ckptdiff.writing.rewriting import plan_renamed
from ckptdiff.writing.execute import execute, output_of, prepare
source, out, fsync, verify = sys.argv[1:]
output = output_of(out)
plan = plan_renamed(read(source), renames_of("model", None), format=output.format, drop=["lm_head.weight"],
                    dtype="float16" if verify == "convert" else "")
job = prepare(plan, output)
execute(job, force=True, fsync=fsync == "fsync", verify_bytes=verify == "verify")
assert ("torch" in sys.modules) == job.layout.needs_torch
"""

SCRIPT = """
import sys, torch
from safetensors.torch import load_file, save_file
source, out = sys.argv[1:]
state = load_file(source) if source.endswith("safetensors") else torch.load(source, weights_only=True)
state = {key.removeprefix("model."): value for key, value in state.items() if key != "lm_head.weight"}
save_file(state, out, {"format": "pt"}) if out.endswith("safetensors") else torch.save(state, out)
"""

MMAP_SAVE = """
import sys, torch
source, out = sys.argv[1:]
state = torch.load(source, weights_only=True, mmap=True)
state = {key.removeprefix("model."): value for key, value in state.items() if key != "lm_head.weight"}
torch.save(state, out)
"""

PAIRS = (("safetensors", "safetensors"), ("pth", "pth"), ("pth", "safetensors"), ("safetensors", "pth"))


def run(command: list[str], cwd: Path) -> tuple[float, int]:
    """Seconds, and the peak resident memory in MB."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)[:200]}")
    return seconds, usage.ru_maxrss // 1024


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def contenders(short: bool) -> dict[str, tuple[str, list[str]]]:
    """Name → (the name of what it is measured against, its command). The yardsticks come first."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for suffix in ("safetensors", "pth"):
        copy = f"cp in.{suffix} out"
        rows[f"cp && sync, .{suffix}"] = ("", ["sh", "-c", f"{copy} && sync out"])
        rows[f"cp, .{suffix}"] = ("", ["sh", "-c", copy])
    for one, other in PAIRS:
        files = f"in.{one}", f"out.{other}"
        yardstick = f".{one}"
        rows[f".{one} → .{other}"] = (f"cp && sync, {yardstick}", python(REWRITE, *files, "fsync", ""))
        rows[f".{one} → .{other}, no fsync"] = (f"cp, {yardstick}", python(REWRITE, *files, "", ""))
    if short:
        return rows
    files = "in.safetensors", "out.safetensors"
    rows["… with every byte verified"] = ("cp && sync, .safetensors", python(REWRITE, *files, "fsync", "verify"))
    rows["… to float16"] = ("cp && sync, .safetensors", python(REWRITE, *files, "fsync", "convert"))
    rows["… to shards"] = ("cp && sync, .safetensors", python(REWRITE, "in.safetensors", "out/", "fsync", ""))
    for one, other in PAIRS[:2]:
        rows[f"load, save script, .{one} → .{other}"] = (f"cp, .{one}", python(SCRIPT, f"in.{one}", f"out.{other}"))
    rows["torch.save over a memory map"] = ("cp, .pth", python(MMAP_SAVE, "in.pth", "out.pth"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", help="where the files go; a temporary directory by default")
    parser.add_argument("--short", action="store_true", help="only copying, and what it is measured against")
    options = parser.parse_args()
    rows = contenders(options.short)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    memory: dict[str, int] = dict.fromkeys(rows, 0)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        place = Path(folder)
        run(python(GENERATE, folder), place)
        os.sync()
        size = (place / "in.safetensors").stat().st_size
        for number in range(options.runs):
            print(f"round {number + 1} of {options.runs}", file=sys.stderr)
            for name, (_, command) in rows.items():
                took, peak = run(command, place)
                seconds[name].append(took)
                memory[name] = max(memory[name], peak)
                for entry in place.glob("out*"):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                os.sync()
    print(
        f"\n{size / 1e9:.2f} GB, {options.runs} interleaved rounds; medians, and speed relative to the copy beside it\n"
    )
    print(f"{'':42} {'seconds':>8} {'min':>7} {'speed':>6}  {'peak MB':>7}")
    for name, (yardstick, _) in rows.items():
        took = seconds[name]
        ratio = ""
        if yardstick:
            ratio = f"{statistics.median(a / b for a, b in zip(seconds[yardstick], took, strict=True)):.2f}x"
        print(f"{name:42} {statistics.median(took):8.2f} {min(took):7.2f} {ratio:>6}  {memory[name]:>7}")


if __name__ == "__main__":
    main()
