"""What the tests of writing share: a state dict with one of everything, and the way from one file to another."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ckptdiff.checkpoint import read
from ckptdiff.requests import renames_of
from ckptdiff.writing.execute import Written, execute, output_of, prepare
from ckptdiff.writing.rewriting import plan_renamed

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5)
"""torch 2.4 saves no unsigned integers over 8 bits, and its weights_only loading takes no bytes."""
FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
SAFE = [torch.float64, torch.float32, torch.float16, torch.bfloat16, *FLOAT8, torch.int64, torch.int32, torch.int16,
        torch.int8, torch.uint8, torch.bool, torch.complex64, *([] if OLD else UNSIGNED)]  # fmt: skip


def of_bytes(dtype, shape, seed=0):
    """A tensor of arbitrary bits: NaNs with payloads, infinities, denormals."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def everything(safe=True):
    """A state dict of all dtypes and layouts of memory; with ties, views, parameters, an empty and 0-dim tensors."""
    state = {f"dtypes.{str(dtype)[6:]}": of_bytes(dtype, (3, 5), seed) for seed, dtype in enumerate(SAFE)}
    if not safe:
        state["dtypes.complex128"] = of_bytes(torch.complex128, (2, 2))
    state["scalar"] = torch.tensor(1.5)
    state["flag"] = torch.tensor(True)
    state["empty"] = torch.empty(0, 4)
    state["none.of"] = torch.empty(2, 0, dtype=torch.bfloat16)
    state["embed.weight"] = torch.randn(6, 4)
    state["head.weight"] = state["embed.weight"]
    state["turned.weight"] = torch.randn(4, 6).t()
    state["part"] = torch.randn(10, 4)[2:5]
    flat = torch.randn(40)
    state["rnn.a"], state["rnn.b"] = flat[:16].view(4, 4), flat[16:]
    state["rows.all"] = torch.randn(8, 3)
    state["rows.some"] = state["rows.all"][2:6]
    state["strided"] = torch.randn(9, 9)[::2, 1::3]
    state["expanded"] = torch.randn(1, 3).expand(4, 3)
    state["large"] = torch.randn(700, 1000)
    state["Ünïcødé.キー"] = torch.ones(2)
    return state


def same(one, other):
    """Equal dtype, shape and bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*raw)


def for_format(state, name):
    """What of a state dict the format can hold: the legacy one knows no dtype without a storage class of its own."""
    if not name.endswith(".tar"):
        return state
    return {key: value for key, value in state.items() if value.dtype not in (*FLOAT8, *UNSIGNED)}


def write(state, path: Path) -> Path:
    """Save by the library the extension stands for."""
    if path.suffix == ".safetensors":
        save_file(
            {key: value.contiguous().clone() for key, value in state.items()}, path, {"format": "pt", "note": "x"}
        )
    elif path.suffix == ".tar":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif path.suffix == ".json":
        keys = list(state)
        places = {}
        for number, part in enumerate((keys[: len(keys) // 2], keys[len(keys) // 2 :]), 1):
            name = f"pytorch_model-{number:05}-of-00002.bin"
            torch.save({key: state[key] for key in part}, path.parent / name)
            places.update(dict.fromkeys(part, name))
        path.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    else:
        torch.save(state, path)
    return path


def load(path: Path):
    """Load by the library the output is for."""
    if path.is_dir():
        index = path / "model.safetensors.index.json"
        if not index.exists():
            return load_file(path / "model.safetensors")
        places = json.loads(index.read_text())["weight_map"]
        merged = {}
        for name in sorted(set(places.values())):
            found = load_file(path / name)
            assert set(found) == {key for key, place in places.items() if place == name}
            merged.update(found)
        return merged
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def rewrite(
    source: Path,
    out,
    *,
    force=False,
    fsync=False,
    verify_bytes=False,
    shared=None,
    shard_size=0,
    progress=None,
    strip_prefix=None,
    add_prefix=None,
    **options,
) -> Written:
    output = output_of(str(out), sharded=bool(shard_size))
    plan = plan_renamed(read(source), renames_of(strip_prefix, add_prefix), format=output.format, **options)
    job = prepare(plan, output, shared=shared, shard_size=shard_size)
    return execute(job, force=force, fsync=fsync, verify_bytes=verify_bytes, progress=progress)


def computed(layout) -> bool:
    """Whether anything of the output is computed, rather than copied."""
    return any(block.ranges is None for block in layout.blocks)
