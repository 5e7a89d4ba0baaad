"""How a file was saved, as far as loading it by hand goes: what it is, and how plain torch gets at its state dict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.pickles.constructors import STORAGE_DTYPES
from ckptdiff.formats.pickles.modules import is_module
from ckptdiff.formats.pickles.stand_ins import Instance
from ckptdiff.places import is_url
from ckptdiff.tensors import DTYPES

Reader = Literal["torch", "safetensors", "torch shards", "safetensors shards", "none", ""]

_LIGHTNING = "pytorch-lightning_version"

# torch/_weights_only_unpickler.py, _get_allowed_globals: what the oldest release that is promised takes. Whatever else
# a file names has to be allowed by name. A test holds it against the installed torch.
ALLOWED = frozenset((
    *(f"torch.{name}" for name in STORAGE_DTYPES if not name.startswith(("_", "Untyped"))),
    *(f"torch.{name}" for name in DTYPES if not name.startswith(("float4", "float8_e8", "int1", "uint1", "uint3"))),
    *(f"torch._utils._rebuild_{name}" for name in (
        "tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor", "sparse_tensor",
        "meta_tensor_no_storage",
    )),
    "torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.Size", "torch.Tensor", "torch.device",
    "torch.nn.parameter.Parameter", "torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2",
    "torch.per_tensor_affine", "torch.per_channel_affine", "collections.OrderedDict", "_codecs.encode",
    "builtins.bytearray", "builtins.set",
))  # fmt: skip
HARMLESS = frozenset((
    "argparse.Namespace", "types.SimpleNamespace", "datetime.date", "datetime.datetime",
    "datetime.time", "datetime.timedelta", "decimal.Decimal", "fractions.Fraction", "pathlib.PosixPath",
    "pathlib.PurePosixPath",
))  # fmt: skip
"""Plain data of the standard library, which is safe to allow: all of them take what a file says as values."""


@dataclass(frozen=True, slots=True)
class Saved:
    """`what` says what the file is where `load_state_dict(torch.load(path))` is not all there is to it, else "".

    `reader` is what plain code reads it by, `none` where there is no safe way but ours, and `why` then says why.
    `reader` is "" of what is no file of tensors at all; `runs` says that torch.load would run the file's own code.
    `steps` lead from what was saved to the state dict, `allow` names what `weights_only=True` has to be told of,
    `files` are the shards, relative to the folder.
    """

    reader: Reader
    what: str = ""
    steps: tuple[str | int, ...] = ()
    allow: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    why: str = ""
    runs: bool = False


def saved_as(checkpoint: Checkpoint) -> Saved:
    """How the file of a checkpoint was saved. Nothing is read for it."""
    opened = checkpoint.opened
    if opened is None or not checkpoint.path:
        return Saved("")
    if opened.kind.content == "none":
        return Saved("")
    if is_url(checkpoint.path):
        return Saved("none", why="torch.load takes no URL")
    if opened.format == "safetensors":
        return Saved("safetensors")
    if opened.kind.content == "shards":
        return _shards(opened)
    if opened.format not in ("torch-zip", "torch-legacy"):
        what = _OTHERS.get(opened.format, "a checkpoint of several files")
        return Saved("none", what, why="torch.load gives no state dict of it")
    return _of_torch(checkpoint, opened)


_OTHERS = {
    "torchscript": "a TorchScript archive",
    "torch-export": "an exported program",
    "torch-distributed": "a distributed checkpoint",
}


def _shards(opened: Opened) -> Saved:
    parts = opened.opened_parts()
    formats = {part.format for part in parts.values()}
    names = tuple(parts)
    what = f"{len(names)} shards of one state dict"
    if formats == {"safetensors"}:
        return Saved("safetensors shards", what, files=names)
    refused = any(part.weights_only or _to_allow(part)[0] for part in parts.values())
    if formats <= {"torch-zip", "torch-legacy"} and not refused:
        return Saved("torch shards", what, files=names)
    return Saved("none", what, why="its shards are of several kinds")


def _of_torch(checkpoint: Checkpoint, opened: Opened) -> Saved:
    path = checkpoint.state_dict_key
    way = next(_ways(opened.content, path), None)
    value, steps = (None, ()) if way is None else way
    where = f"under {path!r}" if path else ""
    if type(value) is Instance and is_module(value):
        what = f"a pickled model {where}".rstrip() if path else "a pickled whole model"
        return Saved("none", what, why="torch.load would run the code that the file names", runs=True)
    what = ""
    if path:
        kind = "Lightning checkpoint" if _LIGHTNING in checkpoint.container else "checkpoint"
        what = f"a {kind} with its state dict {where}"
    other, allow = _to_allow(opened)
    if way is None:
        return Saved(
            "none",
            what or "an object with a state dict in it",
            why="torch.load would run the code of the object around it",
            runs=True,
        )
    if other or opened.weights_only:
        if other:
            return Saved("none", what, why=f"torch.load would run {other[0]}, which the file names", runs=True)
        return Saved("none", what, why="torch.load(weights_only=True) refuses the file")
    return Saved("torch", what, steps=steps, allow=allow)


def _to_allow(opened: Opened) -> tuple[list[str], tuple[str, ...]]:
    """The globals that cannot be allowed in good conscience, and those that can."""
    named = [item.path for item in opened.globals.values() if item.path not in ALLOWED]
    return [path for path in named if path not in HARMLESS], tuple(dict.fromkeys(p for p in named if p in HARMLESS))


def _ways(value: Any, path: str) -> Iterator[tuple[Any, tuple[str | int, ...]]]:
    """The values that a dotted path may mean, with the subscripts that lead there through dicts and lists."""
    if not path:
        yield value, ()
        return
    children: list[tuple[str, str | int, Any]] = []
    if isinstance(value, dict):
        children = [(str(key), key, item) for key, item in value.items() if type(key) in (str, int)]
    elif type(value) in (list, tuple):
        children = [(str(place), place, item) for place, item in enumerate(value)]
    fitting = [child for child in children if path == child[0] or path.startswith(f"{child[0]}.")]
    for name, key, item in sorted(fitting, key=lambda child: -len(child[0])):
        for rest, steps in _ways(item, path[len(name) + 1 :]):
            yield rest, (key, *steps)
