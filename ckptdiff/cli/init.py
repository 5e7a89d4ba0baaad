"""`ckptdiff init`."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from ckptdiff.cli.streams import tell
from ckptdiff.errors import OutputError
from ckptdiff.replacing import write_whole
from ckptdiff.suffixes import INDEX, SAFETENSORS, SNAPSHOT, WEIGHTS, is_index

EXAMPLES = """\
  ckptdiff init
  ckptdiff init --out ci/ckptdiff.toml"""

_BINARY = ".bin"
"""Of files of this suffix those called …model.bin are weights; there are many others."""
_SHARD = re.compile(r"-\d+-of-\d+\.\w+$")
_MOST = 10_000
"""Files that are looked at."""
_SKIPPED = ("venv", "node_modules", "site-packages", "build", "dist", "tests", "test", "docs")
_HEAD = """\
# What `ckptdiff check` looks at: each target is a model and the weights, or the snapshot, it must go on loading.
# A snapshot needs no weights in the repository: `ckptdiff snapshot MODEL -o model.ckptdiff.json`.

# Levels of rules for all targets ("error", "warning", "note", "off"); `ckptdiff rules` lists them.
# levels = { lossy-dtype = "error" }

# Findings that are accepted, with the reason.
# [[ignore]]
# rule = "unexpected-key"
# key = "head.*"
# reason = "the released weights keep their old head"
"""


def command(
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="Where to write it.")] = "ckptdiff.toml",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a config that is there.")] = False,
) -> int:
    """Write a first config for `ckptdiff check`.

    It lists the models and weights below this folder. Nothing is imported or run: Python files are read for classes
    that derive from nn.Module.
    """
    path = Path(out)
    if path.exists() and not force:
        raise OutputError(f"{path} is there already.", "Give --force to replace it, or --out for another place.")
    # Paths in a config are relative to it.
    files = _files()
    models, weights = (
        [Path(os.path.relpath(name, path.parent)).as_posix() for name in listed]
        for listed in (_models(files), _weights(files))
    )
    write_whole(out, _config(models, weights))
    counts = f"{len(models)} model classes and {len(weights)} files of weights"
    tell(f"wrote {path} from {counts}; read it, keep the targets that are meant, then run `ckptdiff check`")
    return 0


def _config(models: list[str], weights: list[str]) -> str:
    model = json.dumps(models[0] if models else "model.py:Net")
    lines = [_HEAD]
    if len(models) > 1:
        lines += ["# Further models found: " + ", ".join(json.dumps(name) for name in models[1:20]), ""]
    names: set[str] = set()
    for file in weights[:20] or ["weights.safetensors"]:
        given = bool(models and weights)
        target = [
            "[[targets]]",
            f"name = {json.dumps(_unused(Path(file).name.partition('.')[0], names))}",
            f"model = {model}",
            f"checkpoint = {json.dumps(file)}",
            "# args = { num_classes = 10 }",
        ]
        # A target that was not found is a proposal, not a failing check.
        lines += [*(target if given else [f"# {line.removeprefix('# ')}" for line in target]), ""]
    return "\n".join(lines)


def _unused(name: str, names: set[str]) -> str:
    """The name, with a number where it is taken."""
    chosen, number = name, 1
    while chosen in names:
        number += 1
        chosen = f"{name}-{number}"
    names.add(chosen)
    return chosen


def _files() -> list[Path]:
    files = []
    for folder, below, names in os.walk("."):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in _SKIPPED)
        files += [Path(folder, name) for name in sorted(names)]
        if len(files) >= _MOST:
            break
    return files[:_MOST]


def _weights(files: list[Path]) -> list[str]:
    """Files of weights, where the shards of one checkpoint are one: its index."""
    names = [path.as_posix() for path in files if _is_weights(path.name.lower())]
    return [name for name in names if not _SHARD.search(name)]


def _is_weights(name: str) -> bool:
    if is_index(name):
        return name.endswith((f"{SAFETENSORS}{INDEX}", f"{_BINARY}{INDEX}"))
    if name.endswith(_BINARY):
        return name.endswith(f"model{_BINARY}")
    return name.endswith((*WEIGHTS, SNAPSHOT))


def _models(files: list[Path]) -> list[str]:
    """`file.py:Class` for each class that derives from something called Module, the outermost ones first."""
    models: list[tuple[int, str]] = []
    for path in files:
        if path.suffix != ".py" or path.stat().st_size > 1_000_000:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError, RecursionError):
            continue
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and _is_module(node)]
        for node in classes:
            used = sum(other is not node and _uses(other, node.name) for other in classes)
            models.append((used, f"{path.as_posix()}:{node.name}"))
    return [name for _, name in sorted(models, key=lambda item: item[0])]


def _is_module(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).rpartition(".")[2] in ("Module", "LightningModule") for base in node.bases)


def _uses(node: ast.ClassDef, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node))
