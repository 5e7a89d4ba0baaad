"""The loaders that have a name: what each needs, how it is recognised, and where its answer comes from."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptdiffError, ModelError, UsageError
from ckptdiff.model.reference import Reference
from ckptdiff.spelling import given
from ckptdiff.suffixes import is_snapshot

if TYPE_CHECKING:
    from ckptdiff.loaders.asked import Asked
    from ckptdiff.loaders.left import Left


@dataclass(frozen=True, slots=True)
class Row:
    """One loader. `library` is what it needs beside torch, which is what the extra of that name installs, too.

    `module` has its `ask(asked: Asked) -> Left`, imported only when it answers. `recognised` tells by what the user
    named, a model and the path of a checkpoint, whether this is how people load it; it looks at names and directories,
    and imports nothing.
    """

    name: str
    library: str
    call: str
    module: str
    recognised: Callable[[object, str], bool]

    def ask(self, asked: Asked) -> Left:
        """What it leaves. Raises ModelError where its library is not installed, CkptdiffError without an answer."""
        if find_spec(self.library) is None:
            raise ModelError(
                f"{self.library} is not installed, whose {self.call} is asked.",
                f"Install it: `pip install 'ckptdiff[{self.name}]'`; {given('loader', 'torch')} asks load_state_dict.",
            )
        answer: Callable[[Asked], Left] = import_module(self.module).ask
        return answer(asked)


TORCH = "torch"
"""The name of the walk, which is no row: it is asked with the options that the others do not take."""


def _is_transformers(model: object, path: str) -> bool:
    return isinstance(model, Reference) and model.kind == "hf" and Path(path).exists() and not is_snapshot(path)


def _is_diffusers(model: object, path: str) -> bool:
    folder = Path(path)
    if isinstance(model, Reference) and model.kind in ("snapshot", "hf"):
        return False
    return (folder / "model_index.json").is_file() or "_diffusers_version" in _json(folder / "config.json")


def _is_peft(model: object, path: str) -> bool:
    return (Path(path) / "adapter_config.json").is_file() and not _is_whole(path, model)


def _is_whole(path: str, model: object) -> bool:
    """Whether an adapter lies beside the weights of its own base model, which from_pretrained loads together."""
    named = isinstance(model, Reference) and model.kind == "hf" and Path(model.target) == Path(path)
    return named or (model is None and (Path(path) / "config.json").is_file())


def _is_timm(model: object, path: str) -> bool:
    if model is None:
        return "pretrained_cfg" in _json(Path(path) / "config.json")
    return isinstance(model, Reference) and model.kind == "timm" and Path(path).is_file() and not is_snapshot(path)


def _is_lightning(model: object, path: str) -> bool:
    if not Path(path).is_file() or is_snapshot(path):
        return False
    bases = {base.__name__ for base in type(model).__mro__}
    if "LightningModule" not in bases and not (
        isinstance(model, Reference) and model.kind in ("file", "module") and _names_lightning_class(model)
    ):
        return False
    return path.endswith(".ckpt") or _says_lightning(path)


def _names_lightning_class(model: Reference) -> bool:
    """Whether the source of a reference has a LightningModule's class under its name, as far as the text tells."""
    path = Path(model.target) if model.kind == "file" else Path(*model.target.split(".")).with_suffix(".py")
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    wanted = [model.attr] if model.attr else [name for name, node in classes.items() if node.col_offset == 0]
    return any(_is_lightning_class(name, classes, set()) for name in wanted)


def _is_lightning_class(name: str, classes: dict[str, ast.ClassDef], seen: set[str]) -> bool:
    if name == "LightningModule":
        return True
    if name not in classes or name in seen:
        return False
    bases = [ast.unparse(base).rpartition(".")[2] for base in classes[name].bases]
    return any(_is_lightning_class(base, classes, {*seen, name}) for base in bases)


def _says_lightning(path: str) -> bool:
    """Whether a torch file begins as Lightning writes it."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as file:
                return b"pytorch-lightning_version" in file.read(_HEAD)
    except (OSError, StopIteration, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError):
        return False


def _is_dcp(model: object, path: str) -> bool:
    if not (isinstance(model, Reference) or hasattr(model, "state_dict")) or not (Path(path) / ".metadata").is_file():
        return False
    if isinstance(model, Reference) and model.kind not in ("file", "module", "torchvision", "timm"):
        return False
    from ckptdiff.checkpoint.reading import read

    try:  # what lies deeper is handed to dcp.load as a part of something else
        checkpoint = read(path)
    except CkptdiffError:
        return False
    return not checkpoint.state_dict_key and not checkpoint.container


def _json(path: Path) -> dict[str, object]:
    try:
        read = json.loads(path.read_bytes()[:_HEAD])
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


_HEAD = 1 << 20
"""Bytes of a file that are looked at to tell who wrote it."""

LOADERS: tuple[Row, ...] = (
    # The more particular ones first: the first that recognises what was named is the default.
    Row("peft", "peft", "PeftModel.from_pretrained", "ckptdiff.loaders.peft", _is_peft),
    Row(
        "transformers",
        "transformers",
        "from_pretrained",
        "ckptdiff.loaders.transformers.from_pretrained",
        _is_transformers,
    ),
    Row("diffusers", "diffusers", "from_pretrained", "ckptdiff.loaders.diffusers", _is_diffusers),
    Row("timm", "timm", "load_checkpoint", "ckptdiff.loaders.timm", _is_timm),
    Row("lightning", "lightning", "load_from_checkpoint", "ckptdiff.loaders.lightning", _is_lightning),
    Row("dcp", "torch", "dcp.load", "ckptdiff.loaders.dcp", _is_dcp),
    Row("accelerate", "accelerate", "load_checkpoint_in_model", "ckptdiff.loaders.accelerate", lambda *_: False),
)

NAMES = (TORCH, *(row.name for row in LOADERS))


def named(name: str) -> Row | None:
    """The row of a name, None for torch. Raises UsageError for a name that there is not."""
    if name == TORCH:
        return None
    for row in LOADERS:
        if row.name == name:
            return row
    raise UsageError(
        f"{given('loader', name)}: there is no such loader.",
        f"Write {', '.join(NAMES)}, or a function such as load.py:load_weights.",
    )


def recognised(model: object, path: str) -> Row | None:
    """The loader that people call for what was named, None where that is torch's own."""
    return next((row for row in LOADERS if row.recognised(model, path)), None)
