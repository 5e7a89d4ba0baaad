"""What torch and safetensors themselves make of a file, asked in a process of their own, which a mutant may crash.

`python -m tests.fuzz.library` answers one question a line. Nothing a mutant names is ever run: torch.load gets
weights_only=True, and the unpickler of distributed checkpoints knows the classes of their metadata alone.
"""

from __future__ import annotations

import base64
import json
import pickle
import select
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 20
SECONDS = 20
"""For an answer; the process gets longer to start, since it imports torch."""
STARTING = 300
READY = b"ready\n"
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Said:
    """The library's answer: `refused` is its error, or "", and then `value` what it holds."""

    refused: str
    value: Any = None


class Library:
    """The process that answers, started anew where a mutant ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.ended = 0

    def ask(self, kind: str, path: Path, key: str) -> Said:
        """What the library says of the state dict at `key` in a file of this kind."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps([kind, str(path), key]).encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], SECONDS)
            line = process.stdout.readline() if ready else b""
        except OSError:
            line = b""
        if line.endswith(b"\n"):
            refused, value = pickle.loads(base64.b64decode(line))
            return Said(refused, value)
        process.kill()
        process.wait()
        self.ended += 1
        return Said("ended or hung")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.library"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, cwd=REPOSITORY,
            )  # fmt: skip
            ready, _, _ = select.select([self._process.stdout], [], [], STARTING)
            assert self._process.stdout is not None
            if not ready or self._process.stdout.readline() != READY:
                raise SystemExit("the process that asks torch does not start")
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _load(kind: str, path: str, key: str) -> Any:
    import torch

    if kind == "safetensors":
        import safetensors.torch

        return safetensors.torch.load_file(path)
    if kind == "sharded":
        import safetensors.torch

        index = next(Path(path).glob("*.index.json"))
        files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        state: dict[str, Any] = {}
        for file in files:
            state.update(safetensors.torch.load_file(str(Path(path) / file)))
        return state
    if kind == "torchscript":
        return torch.jit.load(path, map_location="cpu").state_dict()
    if kind == "torch-distributed":
        return _at(_distributed(path), key)
    return _at(torch.load(path, map_location="cpu", weights_only=True), key)


def _at(value: Any, key: str) -> Any:
    """What lies at a dotted path, the longest name that fits first."""
    while key:
        names = [str(index) for index in range(len(value))] if isinstance(value, (list, tuple)) else value
        name = max(
            (n for n in names if isinstance(n, str) and key.startswith(n) and key[len(n) : len(n) + 1] in ("", ".")),
            key=len,
        )
        value = value[int(name)] if isinstance(value, (list, tuple)) else value[name]
        key = key[len(name) + 1 :]
    return value


class _OfMetadata(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        import torch

        fits = module.startswith("torch.distributed.checkpoint.") or (module, name) in (
            ("torch", "Size"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict"),
            ("torch", "device"), ("pathlib", "PosixPath"),
        )  # fmt: skip
        if not fits and not (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}")
        return super().find_class(module, name)


def _distributed(path: str) -> Any:
    import torch
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    with (Path(path) / ".metadata").open("rb") as file:
        metadata = _OfMetadata(file).load()
    root: dict[str, Any] = {}
    for key, value in metadata.state_dict_metadata.items():
        leaf: Any = None
        if isinstance(value, TensorStorageMetadata):
            leaf = torch.empty(value.size, dtype=value.properties.dtype, device="meta")
        here = root
        *above, last = map(str, (metadata.planner_data or {}).get(key, (key,)))
        for part in above:
            here = here.setdefault(part, {})
        here[last] = leaf
    return root


def described(value: Any) -> Any:
    """Keys in order; of a tensor dtype, shape, layout, device, bytes and the storage it shares; `_metadata`."""
    import torch

    if not isinstance(value, dict):
        return None
    entries = []
    storages: dict[int, int] = {}
    for name, item in value.items():
        key = name if name is None or type(name) in (str, int, float, bool, bytes) else repr(name)
        if not isinstance(item, torch.Tensor):
            entries.append((key, type(item).__name__, item if type(item) in (bool, int, float, str, bytes) else None))
            continue
        layout = str(item.layout).removeprefix("torch.")
        content, share = None, None
        if layout == "strided" and not item.is_meta:
            pointer = item.untyped_storage().data_ptr()
            share = storages.setdefault(pointer, len(storages)) if pointer else None
            if item.numel() * item.element_size() <= MAX_BYTES:
                content = _bytes(item.detach())
        dtype = str(item.dtype).removeprefix("torch.")
        entries.append((key, (dtype, tuple(item.shape), layout, item.is_meta, share), content))
    metadata = getattr(value, "_metadata", None)
    return entries, repr(_plain(metadata)) if metadata is not None else None


def _bytes(tensor: Any) -> bytes | None:
    import torch

    if tensor.is_quantized:
        if tensor.dtype in (torch.quint4x2, torch.quint2x4):
            return None
        tensor = tensor.int_repr()
    flat = tensor.contiguous().reshape(-1)
    if not flat.numel():
        return b""
    return bytes(flat.view(torch.uint8).untyped_storage().tolist()[: flat.numel() * flat.element_size()])


def _plain(value: Any) -> Any:
    """OrderedDicts as dicts, so that their `repr` is one."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if type(key) is str}
    return value


def main() -> None:
    """Answers what comes on stdin."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1],) * 2)
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(READY.decode(), end="", flush=True)
    for line in sys.stdin:
        kind, path, key = json.loads(line)
        try:
            answer = ("", described(_load(kind, path, key)))
        except Exception as error:
            answer = (f"{type(error).__name__}: {error}"[:500] or "refused", None)
        print(base64.b64encode(pickle.dumps(answer)).decode(), flush=True)


if __name__ == "__main__":
    main()
