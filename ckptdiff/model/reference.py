"""What the user called the model: the text of MODEL and of `--arg`, read without importing anything heavy."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ckptdiff.errors import UsageError
from ckptdiff.spelling import Metavar, call, given, option, options
from ckptdiff.suffixes import OLD, WEIGHTS

Kind = Literal["file", "module", "hf", "torchvision", "timm", "snapshot"]

_FORMS = (
    "Write model.py, model.py:Net, package.module:factory, torchvision:NAME, timm:NAME, hf:DIRECTORY "
    "or a snapshot file."
)
_LIBRARIES: dict[str, Kind] = {"hf": "hf", "torchvision": "torchvision", "timm": "timm"}
_JSON_WORDS = {"true": "True", "false": "False", "null": "None"}


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed MODEL.

    `target` is a path for the kinds `file`, `snapshot` and `hf`, a dotted module for `module`, and a model's name for
    `torchvision` and `timm`. `attr` is what to take from a file or module, possibly dotted; "" asks a file for its one
    obvious model.
    """

    text: str
    kind: Kind
    target: str
    attr: str = ""


def parse_reference(text: str) -> Reference:
    """Read a MODEL as the user wrote it. Nothing is looked up but, for a better hint, whether a file is there.

    Raises UsageError when the text has none of the known forms.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _LIBRARIES:
        if not rest:
            raise UsageError(f"`{text}` names no model after the colon.", _FORMS)
        return Reference(text, _LIBRARIES[scheme], rest)
    if text.lower().endswith(".json"):
        return Reference(text, "snapshot", text)
    if text.lower().endswith(".py"):
        return Reference(text, "file", text)
    # The last colon divides, so that the one of a Windows drive stays in the path.
    target, colon, attr = text.rpartition(":")
    if not colon:
        raise UsageError(f"`{text}` is no model reference.", _hint_without_colon(text))
    if target.lower().endswith(".py"):
        if not _is_dotted(attr):
            raise UsageError(f"`{text}`: `{attr}` after the colon is no Python name.", f"Write `{target}:Net`.")
        return Reference(text, "file", target, attr)
    if _is_dotted(target) and _is_dotted(attr):
        return Reference(text, "module", target, attr)
    raise UsageError(f"`{text}` is no model reference.", _FORMS)


def runs_code(text: str) -> bool:
    """Whether a MODEL names code to run; what is none may, since nothing is known of it."""
    try:
        return parse_reference(text).kind != "snapshot"
    except UsageError:
        return True


def moved(text: str, move: Callable[[str], str]) -> str:
    """A MODEL with the path in it, where it has one, as `move` gives it. What is none is left to whoever parses it."""
    try:
        reference = parse_reference(text)
    except UsageError:
        return text if ":" in text else move(text)
    if reference.kind == "hf":
        return f"hf:{move(reference.target)}"
    if reference.kind in ("file", "snapshot"):
        return move(reference.target) + (f":{reference.attr}" if reference.attr else "")
    return text


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _hint_without_colon(text: str) -> str:
    if not text:
        return _FORMS
    if text.lower().endswith((*WEIGHTS, *OLD)):
        two = call("diff", Metavar("A"), Metavar("B"))
        return f"The model comes first and the checkpoint second; `{two}` compares two checkpoints."
    try:
        if Path(text).is_dir():
            return f"For a transformers model write `hf:{text}`."
        if Path(f"{text}.py").is_file():
            return f"For the file write `{text}.py`."
    except (OSError, ValueError):  # no name a file can have
        return _FORMS
    if "." in text and _is_dotted(text):
        return f"Say what to take from the module: `{text}:Net`."
    if text.isidentifier():
        return f"For a library's model write `torchvision:{text}` or `timm:{text}`. {_FORMS}"
    return _FORMS


def parse_args(items: Sequence[str], named: str = "args") -> dict[str, object]:
    """Read the values of `--arg`, or of the option that is named, each `name=value` with a Python literal; a bare word
    is a string.

    Raises UsageError for an item without a name, a repeated name, a literal that does not parse, and for JSON's
    `true`, `false` and `null`, which as strings would all count as true.
    """
    args: dict[str, object] = {}
    for item in items:
        name, equals, value = item.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise UsageError(
                f"{given(named, item)}: this is not `name=value`.",
                f"Write for example `{options(**{named: {'num_classes': '10'}})}`.",
            )
        if name in args:
            raise UsageError(f"{given(named, name)} is given twice.", "Give each argument once.")
        args[name] = _literal(name, value.strip(), named)
    return args


def _literal(name: str, text: str, named: str) -> object:
    if text in _JSON_WORDS:
        quoted = f"{option(named)} {name}='\"{text}\"'"
        raise UsageError(
            f"{given(named, f'{name}={text}')}: values are Python, where this is {_JSON_WORDS[text]}.",
            f"Write `{options(**{named: {name: _JSON_WORDS[text]}})}`, or `{quoted}` for the string.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `"\d"` warns of its escape
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if text[:1] in tuple("[({'\""):
            raise UsageError(
                f"{given(named, f'{name}={text}')}: this is no Python literal.",
                "Check brackets and quotes; quote the whole item for the shell, "
                f"as in {options(**{named: {'sizes': '[1, 2]'}})}.",
            ) from None
        return text
