"""What a checkpoint, or a file beside it, says of the arguments that its model was built with. Nothing of it is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.errors import CkptdiffError
from ckptdiff.formats.pickles.stand_ins import Instance
from ckptdiff.places import is_url
from ckptdiff.small_files import json_of, text_of

_ENTRIES = re.compile(
    r"(?:hyper_?_?param(?:eter)?s?|hparams|(?:\w+_)?(?:args|arguments|kwargs|config|cfg|opts?|options|params))_?",
    re.IGNORECASE,
)
"""What entries with arguments are called: Lightning's hyper_parameters, a script's args, nanoGPT's model_args."""
_BESIDE = (
    "hparams.yaml", "hparams.json", "model_args.json", "args.json", "params.json", "model_config.json", "config.json",
    "config.yaml", "args.yaml",
)  # fmt: skip
_DEPTH = 4
_MOST = 10_000
_LINE = re.compile(r"( *)([A-Za-z_]\w*): *(.*)")
_ITEM = re.compile(r" *- *(-?[\d.]+)")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_LARGEST = 1e8
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
"""A name of something. Paths, addresses and programs are left out: the constructor is the user's, the text is not."""
_INTEGERS = re.compile(r"[iu][1248]|b1")


@dataclass(frozen=True, slots=True)
class Told:
    """Names and plain values, and who says so in words."""

    source: str
    values: Mapping[str, object]


def told_by(checkpoint: Checkpoint) -> Iterator[Told]:
    """What the file's own entries say, then what lies beside it, the best source first."""
    opened = checkpoint.opened
    content = opened.content if opened is not None and opened.kind.content == "object" else None
    if isinstance(content, dict):
        for name, value in content.items():
            if type(name) is str and _ENTRIES.fullmatch(name) and (values := _flat(value)):
                yield Told(f"the file's {name}", values)
    for name, text in checkpoint.file_metadata.items():
        if _ENTRIES.fullmatch(name):
            with suppress(ValueError):
                if values := _flat(json_of(text)):
                    yield Told(f"the file's {name}", values)
    yield from _beside(checkpoint.path)


def _beside(path: str) -> Iterator[Told]:
    """In the folder of the file, and, as Lightning has them, one above it."""
    if not path or is_url(path):
        return
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    for name in _BESIDE:
        for home in (folder, folder.parent) if name == "hparams.yaml" else (folder,):
            with suppress(CkptdiffError, OSError, ValueError):
                if (home / name).is_file():
                    text = text_of(home / name, "")
                    values = _flat(json_of(text) if name.endswith(".json") else _of_yaml(text))
                    if values:
                        yield Told(name, values)
                        break


def _flat(value: object) -> dict[str, object]:
    """Names and plain values at any depth; what is nearer to the top counts."""
    level: list[Any] = [value]
    flat: dict[str, object] = {}
    seen = 0
    for _ in range(_DEPTH):
        below: list[Any] = []
        for item in level:
            for name, inner in _items(item):
                seen += 1
                if seen > _MOST:
                    return flat
                if type(name) is not str:
                    continue
                known, plain = _plain(inner)
                if known:
                    flat.setdefault(name, plain)
                below.append(inner)
        level = below
    return flat


def _items(value: object) -> list[tuple[object, object]]:
    """Of a dict, or of an object that is a namespace of plain attributes: argparse's, a dataclass's."""
    if isinstance(value, Instance):
        value = value.state if isinstance(value.state, dict) else value.pairs
    return list(value.items()) if isinstance(value, dict) else []


def _plain(value: object) -> tuple[bool, object]:
    """Whether it is a value that a size, a switch or a choice may have, and that."""
    if value is None or type(value) is bool:
        return True, value
    if isinstance(value, (int, float)):
        return type(value) in (int, float) and abs(value) < _LARGEST, value  # so no NaN and no infinity either
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None, value
    if type(value) in (list, tuple):
        items = [_plain(item) for item in value]  # type: ignore[attr-defined]
        return all(known for known, _ in items), type(value)(item for _, item in items)  # type: ignore[call-arg]
    return _of_numpy(value)


def _of_numpy(value: object) -> tuple[bool, object]:
    """An integer that numpy pickled: its dtype and its bytes."""
    args = value.args if isinstance(value, Instance) and isinstance(value.args, tuple) else ()
    if len(args) == 2 and isinstance(args[0], Instance) and isinstance(args[0].args, tuple):
        code, data = next(iter(args[0].args), None), args[1]
        if type(code) is str and type(data) is bytes and _INTEGERS.fullmatch(code):
            number = int.from_bytes(data, "little", signed=code[0] == "i")
            return True, bool(number) if code == "b1" else number
    return False, None


def _of_yaml(text: str) -> dict[str, object]:
    """The `name: value` lines of a YAML text, whatever they lie below; the outer ones count. What is no number, text or
    list of numbers is left out."""
    found: list[tuple[int, str, str]] = []
    listed: dict[int, list[str]] = {}
    for line in text.splitlines():
        line = line.partition(" #")[0].rstrip()
        if match := _LINE.fullmatch(line):
            found.append((len(match[1]), match[2], match[3]))
        elif found and not found[-1][2] and (item := _ITEM.fullmatch(line)):
            listed.setdefault(len(found) - 1, []).append(item[1])
    for place, items in listed.items():
        found[place] = (*found[place][:2], f"[{', '.join(items)}]")
    values: dict[str, object] = {}
    for _, name, value in sorted(found, key=lambda row: row[0]):
        if value.lower() in _WORDS:
            if value:
                values.setdefault(name, _WORDS[value.lower()])
        elif value[0] not in "!&*|>{":
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                values.setdefault(name, ast.literal_eval(value))
                continue
            if re.fullmatch(r"[\w./-]+", value):
                values.setdefault(name, value)
    return values
