"""`from_pretrained`, of every fourth model type of transformers: what it fills, its own lists, and what it raises."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.following.table.rows import NotMade, Row, in_folder, safetensors, valued

MODELS = 96
MOST = 64_000_000
"""Elements that a model may have in all."""
SITUATIONS = ("good", "missing", "extra", "mismatch", "dtype", "prefix", "shuffled", "truncated")


def chosen() -> list[str]:
    """The same classes every time."""
    try:
        from tests.zoo.tiny import kinds

        names = sorted({head or base for _, base, head in kinds()})
    except ImportError:
        return []
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:MODELS]


def template(name: str) -> Any:
    made = _tried(name)
    if isinstance(made, Exception):
        raise NotMade(f"{type(made).__name__}: {made}")
    return made


@functools.cache
def _tried(name: str) -> Any:
    from tests.zoo.tiny import tiny

    try:
        return tiny(name, MOST)
    except Exception as error:
        return error


@functools.cache
def on_disk(name: str, seed: int) -> dict[str, Any]:
    """The tensors of a directory that the class saved itself."""
    from safetensors.torch import load_file

    model = template(name)
    model.load_state_dict(valued(model, seed), strict=False)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return {key: value for file in Path(folder).glob("*.safetensors") for key, value in load_file(file).items()}


def row(name: str) -> Row:
    def load(path: Path) -> Any:
        import transformers

        model, info = getattr(transformers, name).from_pretrained(path, output_loading_info=True)
        return model, {kind: sorted(map(str, keys)) for kind, keys in info.items()}

    def save(state: Mapping[str, Any], folder: Path) -> Path:
        config = template(name).config
        config.architectures = [name]
        config.save_pretrained(folder)
        written = json.loads((folder / "config.json").read_text())
        written.pop("dtype", None)
        (folder / "config.json").write_text(json.dumps(written))
        return in_folder("model.safetensors", safetensors)(state, folder)

    state = functools.partial(on_disk, name)
    return Row(name, load, save, makes_model=True, state=state, only=SITUATIONS, needs=("transformers",))


ROWS = [row(name) for name in chosen()]
