"""What a directory is: a distributed checkpoint, a Hugging Face model, or a named something else."""

from __future__ import annotations

from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened
from ckptdiff.places import Place
from ckptdiff.suffixes import INDEX, WEIGHTS, is_index

# As transformers and diffusers look for them, safetensors first.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
MAX_LISTED = 10
_CORE_ML = "coremldata.bin"
_ORBAX = frozenset({"_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt", "_sharding"})


def read(folder: Place, key: str | None) -> Opened:
    """The checkpoint that a folder is, or that it holds. Raises CheckpointError, listing the choice, if none."""
    from ckptdiff.formats import hf_shards, opening, tensor_parallel

    names = folder.list()
    if ".metadata" in names:
        from ckptdiff.formats import distributed

        return distributed.read(folder)
    parts = hf_shards.files_in(names)
    if parts:
        return hf_shards.read(folder, parts)
    ranks = tensor_parallel.files_in(folder, names)
    if ranks:
        return tensor_parallel.read(folder, ranks)
    return opening.open_checkpoint(folder.within(choose(folder.name, names)), key)


def choose(path: str, names: list[str]) -> str:
    """The one of `names`, the files in the directory `path`, that transformers would read."""
    for name in _WEIGHTS:
        if name in names:
            return name
    candidates = [name for name in names if name.endswith((*WEIGHTS, INDEX)) and name != _CORE_ML]
    indices = [name for name in candidates if is_index(name)]
    if len(indices) == 1 or len(candidates) == 1:
        return (indices or candidates)[0]
    raise _unknown(path, names, candidates)


def _unknown(path: str, names: list[str], candidates: list[str]) -> CheckpointError:
    if candidates:
        more = f" and {len(candidates) - MAX_LISTED} more" if len(candidates) > MAX_LISTED else ""
        listed = ", ".join(repr(name) for name in candidates[:MAX_LISTED])
        return CheckpointError(f"{path} is a directory with several checkpoints", f"Give one of them: {listed}{more}.")
    if "saved_model.pb" in names or "variables" in names:
        return CheckpointError(f"{path} is a TensorFlow SavedModel", "Convert it to PyTorch first.")
    if any(name.endswith((".index", ".meta")) or ".data-00000-of-" in name for name in names):
        return CheckpointError(f"{path} holds a TensorFlow checkpoint", "Convert it to PyTorch first.")
    if not _ORBAX.isdisjoint(names):
        return CheckpointError(f"{path} is an Orbax checkpoint (JAX)", "Convert it to PyTorch first.")
    if any(name.endswith(".msgpack") for name in names):
        return CheckpointError(f"{path} holds a Flax checkpoint", "Convert it to PyTorch first.")
    if {"Manifest.json", "Data"} <= set(names) or _CORE_ML in names:
        return CheckpointError(f"{path} is a Core ML package", "Convert it to PyTorch first.")
    if "latest" in names or any(name.startswith("global_step") for name in names):
        return CheckpointError(
            f"{path} is a DeepSpeed run", "Give its mp_rank_00_model_states.pt, or convert it with zero_to_fp32.py."
        )
    if "data.pkl" in names:
        return CheckpointError(f"{path} is an unpacked torch archive", "Pack it again, or give the original file.")
    return CheckpointError(f"{path} is a directory without a checkpoint", "Give the path of a checkpoint file.")
