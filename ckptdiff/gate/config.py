"""`ckptdiff.toml`, or `[tool.ckptdiff]` in pyproject.toml → Config: the targets of `ckptdiff check`.

```toml
levels = { lossy-dtype = "error" }                   # for every target; "off" silences a rule

[[ignore]]                                           # findings that are accepted, for every target
rule = "unexpected-key"
key = "*.num_batches_tracked"
reason = "written by an old BatchNorm"

[[targets]]
name = "released"
model = "model.py:Net"
checkpoint = "weights/v1.safetensors"                # or a snapshot
args = { num_classes = 10 }
key = "ema.state_dict"
strip_prefix = "module."                             # a string or a list of them, as is rename
rename = "encoder.{*} -> {*}"
rules = "v1.rules.toml"
add_prefix = "model."
assign = true
check_values = true
fail_on = "warning"
```

A target says what `ckptdiff.compare` takes, in its words. Or it is a command, which `ckptdiff trace` answers:

```toml
[target.sampling]                                    # the same as [[targets]] with a name
trace = "sample.py --out_dir=out"
```
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ckptdiff.choices import closest
from ckptdiff.errors import UsageError
from ckptdiff.gate.policy import Ignore, Policy, PolicyLevel
from ckptdiff.judging.rules import LEVELS, RULES, Level
from ckptdiff.loaders.named_loaders import recognised
from ckptdiff.model.reference import moved
from ckptdiff.places import is_url
from ckptdiff.small_files import text_of
from ckptdiff.spelling import given, option

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = ("ckptdiff.toml", "pyproject.toml")
_TOP = ("targets", "target", "levels", "ignore")
_TEXT, _TEXTS, _SWITCH = "a string", "a string or a list of strings", "true or false"
_EXAMPLES = {_TEXT: '"..."', _TEXTS: '["..."]', _SWITCH: "true"}
_OPTIONS = {
    "name": _TEXT,
    "model": _TEXT,
    "checkpoint": _TEXT,
    "trace": _TEXT,
    "key": _TEXT,
    "strip_prefix": _TEXTS,
    "add_prefix": _TEXT,
    "rename": _TEXTS,
    "rules": _TEXT,
    "loader": _TEXT,
    "trust_checkpoint": _SWITCH,
    "trust_remote_code": _SWITCH,
    "assign": _SWITCH,
    "check_values": _SWITCH,
    "device": _TEXT,
    "fail_on": _TEXT,
}
TARGET = (*_OPTIONS, "args", "loader_args", "levels", "ignore")
TRACED = ("name", "trace", "trust_checkpoint", "fail_on", "levels", "ignore")
_IGNORE = ("rule", "key", "reason")
_POLICY_LEVELS = (*LEVELS, "off")


@dataclass(frozen=True, slots=True)
class Target:
    """One pair to check. Paths in `model`, `checkpoint`, `loader` and `rules` are already relative to the current
    directory or absolute, `model` is "" where the loader makes it; `policy` holds what the config says for all targets
    and what it says for this one. The rest is what `compare` takes; `fail_on` is None where the target leaves it to the
    run."""

    name: str
    model: str
    checkpoint: str
    args: Mapping[str, object] = field(default_factory=dict)
    trace: str = ""
    """A command, in whose place there are model and checkpoint otherwise, and which is run in `folder`."""
    folder: str = ""
    key: str | None = None
    strip_prefix: tuple[str, ...] = ()
    add_prefix: str = ""
    rename: tuple[str, ...] = ()
    rules: str | None = None
    loader: str | None = None
    loader_args: Mapping[str, object] = field(default_factory=dict)
    trust_checkpoint: bool = False
    trust_remote_code: bool = False
    assign: bool = False
    check_values: bool = False
    device: str | None = None
    fail_on: Level | None = None
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class Config:
    """A read config file: where it is, and its targets in declared order."""

    path: Path
    targets: tuple[Target, ...]


def find(start: Path) -> Path:
    """The config that governs `start`: the nearest ckptdiff.toml, or pyproject.toml with [tool.ckptdiff], upwards.

    Models that it names are run, so one that another user has put above is not taken. Raises UsageError for that, and
    when there is none.
    """
    trusted = _owners(start)
    for folder in (start, *start.parents):
        for name in NAMES:
            path = folder / name
            if name == NAMES[0] and (path.is_file() or path.is_symlink()):
                _ensure_ours(path, start, trusted)
                return path
            if path.is_file():
                try:
                    ours = _tool(path) is not None
                except UsageError:
                    if _is_ours(path, start, trusted):
                        raise
                    continue  # a stranger's, and of no concern
                if ours:
                    _ensure_ours(path, start, trusted)
                    return path
    raise UsageError(
        f"There is no ckptdiff.toml, and no pyproject.toml with [tool.ckptdiff], in {start} or above.",
        "Write a first one with `ckptdiff init`.",
    )


def hidden(path: Path) -> Path | None:
    """The pyproject.toml beside a ckptdiff.toml whose [tool.ckptdiff] is not read on its account."""
    other = path.with_name("pyproject.toml")
    if path.name != NAMES[0] or not other.is_file():
        return None
    try:
        return other if _tool(other) is not None else None
    except UsageError:  # whose file that is may say what is wrong with it
        return None


def _owners(start: Path) -> set[int]:
    """Who may name code to run: this user, the system's, and the owner of the directory this was started in."""
    if not hasattr(os, "getuid"):
        return set()
    return {0, os.getuid(), start.stat().st_uid}


def _is_ours(path: Path, start: Path, trusted: set[int]) -> bool:
    """Whether a config belongs to one of the owners, or to the repository of one of them that `start` is in."""
    if not trusted:
        return True
    if {path.lstat().st_uid, path.stat().st_uid} <= trusted:
        return True
    for folder in (start, *start.parents):
        if (folder / ".git").exists():
            return path.is_relative_to(folder) and {folder.stat().st_uid, (folder / ".git").stat().st_uid} <= trusted
    return False


def _ensure_ours(path: Path, start: Path, trusted: set[int]) -> None:
    try:
        ours = _is_ours(path, start, trusted)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}.", f"Give the right one with {option('config')}."
        ) from None
    if not ours:
        raise UsageError(
            f"{path} belongs to another user, so the models it names are not run.",
            f"Give {given('config', path)} if it is meant.",
        )


def _tool(path: Path) -> object:
    """What pyproject.toml has as [tool.ckptdiff], None without."""
    tool = _parse(path).get("tool")
    return tool.get("ckptdiff") if isinstance(tool, dict) else None


def load(path: Path) -> Config:
    """Read a config file. Raises UsageError naming the table and key at fault."""
    content = _parse(path)
    where = str(path)
    if path.name == "pyproject.toml":
        table = _tool(path)
        where = f"[tool.ckptdiff] in {path}"
        if table is None:
            raise UsageError(f"{path} has no table [tool.ckptdiff].", "Write a first config with `ckptdiff init`.")
        if not isinstance(table, dict):
            raise UsageError(f"{where} is no table.", "Write a first config with `ckptdiff init`.")
        content = table
    _known(content, _TOP, where)
    shared = _policy(content, where)
    tables = [*_tables(content.get("targets", []), f"targets of {where}"), *_named(content.get("target", {}), where)]
    targets = tuple(_target(table, position, where, path.parent, shared) for position, table in enumerate(tables, 1))
    names = Counter(target.name for target in targets)
    for name, times in names.items():
        if times > 1:
            raise UsageError(f"{where} has two targets named {name!r}.", "Give each target a name of its own.")
    if not targets:
        raise UsageError(f"{where} lists no targets.", "Add a [[targets]] table with name, model and checkpoint.")
    return Config(path, targets)


def _parse(path: Path) -> dict[str, Any]:
    text = text_of(path, f"Check the path given to {option('config')}.", "TOML")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError of Python's
        raise UsageError(f"{path} is not valid TOML: {error}.", "Mend the line it names.") from None


def _target(table: Mapping[str, Any], position: int, where: str, folder: Path, shared: Policy) -> Target:
    place = f"target {table.get('name', position)!r} of {where}"
    _known(table, TRACED if "trace" in table else TARGET, place)
    for name in ("name", "model", "checkpoint"):
        if name not in table and not _is_given(name, table, folder):
            raise UsageError(f"The {place} has no {name!r}.", f'Add `{name} = "..."`.')
    for name, kind in _OPTIONS.items():
        if name in table:
            _ensure(kind, table[name], name, place)
    if "fail_on" in table:
        level = table["fail_on"]
        _one_of(level, LEVELS, f"the level {level!r} in 'fail_on' of the {place}", f"Use {', '.join(LEVELS)}.")
    if "device" in table:
        device = table["device"]
        _one_of(device, ("cuda", "cpu"), f"the machine {device!r} in 'device' of the {place}", "Use cuda or cpu.")
    for name in ("args", "loader_args"):
        if not isinstance(table.get(name, {}), dict):
            raise UsageError(f"{name!r} of the {place} is not a table.", f"Write `{name} = {{ name = value }}`.")
    return Target(
        name=table["name"],
        model=moved(table["model"], lambda path: _path_from(folder, path)) if "model" in table else "",
        checkpoint=_path_from(folder, table["checkpoint"]) if "checkpoint" in table else "",
        args=table.get("args", {}),
        trace=table.get("trace", ""),
        folder=str(folder),
        key=table.get("key"),
        strip_prefix=_texts(table.get("strip_prefix", ())),
        add_prefix=table.get("add_prefix", ""),
        rename=_texts(table.get("rename", ())),
        loader=_loader(folder, table["loader"]) if "loader" in table else None,
        loader_args=table.get("loader_args", {}),
        trust_remote_code=table.get("trust_remote_code", False),
        trust_checkpoint=table.get("trust_checkpoint", False),
        assign=table.get("assign", False),
        check_values=table.get("check_values", False),
        device=table.get("device"),
        fail_on=table.get("fail_on"),
        rules=_path_from(folder, table["rules"]) if "rules" in table else None,
        policy=shared.refined(_policy(table, f"the {place}")),
    )


def _named(tables: object, where: str) -> list[Mapping[str, Any]]:
    """Targets in tables of their own, `[target.released]`."""
    if isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values()):
        return [{"name": name, **table} for name, table in tables.items()]
    raise UsageError(f"'target' of {where} is no table of tables.", "Write [target.released], or [[targets]].")


def _is_given(name: str, table: Mapping[str, Any], folder: Path) -> bool:
    """Whether a target need not name it: a loader may make its model, be it named or that of the directory, a `hf:`
    directory holds its weights, a program has both."""
    if name != "name" and "trace" in table:
        return True
    if name == "model":
        directory = table.get("checkpoint")
        usual = isinstance(directory, str) and recognised(None, _path_from(folder, directory)) is not None
        return "loader" in table or usual
    return name == "checkpoint" and str(table.get("model", "")).startswith("hf:")


def _loader(folder: Path, text: str) -> str:
    """A loader's name, or its reference with the path as seen from here."""
    return moved(text, lambda path: _path_from(folder, path)) if ":" in text else text


def _ensure(kind: str, value: object, name: str, place: str) -> None:
    """Raise UsageError for a value of a target's option that is not of its kind."""
    hint = f"Write `{name} = {_EXAMPLES[kind]}`."
    if kind is _SWITCH:
        right = isinstance(value, bool)
    elif kind is _TEXTS and isinstance(value, list):
        right = all(isinstance(text, str) for text in value)
    else:
        right = isinstance(value, str)
    if not right:
        raise UsageError(f"{name!r} of the {place} is not {kind}.", hint)
    if kind is not _SWITCH and any(not text.strip() or "\0" in text for text in _texts(value)):
        raise UsageError(f"{name!r} of the {place} says nothing that can be.", hint)


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _policy(table: Mapping[str, Any], where: str) -> Policy:
    levels = table.get("levels", {})
    if not isinstance(levels, dict):
        raise UsageError(f"'levels' of {where} is not a table.", 'Write `levels = { lossy-dtype = "error" }`.')
    for rule, level in levels.items():
        _one_of(rule, tuple(RULES), f"the rule {rule!r} in 'levels' of {where}", "`ckptdiff rules` lists them all.")
        _one_of(level, _POLICY_LEVELS, f"the level {level!r} of {rule} in {where}", f"Use {', '.join(_POLICY_LEVELS)}.")
    ignores = []
    for row in _tables(table.get("ignore", []), f"ignore of {where}"):
        _known(row, _IGNORE, f"ignore of {where}")
        if not all(isinstance(value, str) for value in row.values()):
            raise UsageError(f"An ignore of {where} holds something other than strings.", "Write rule, key and reason.")
        if not row.get("reason", "").strip():
            raise UsageError(f"An ignore of {where} has no reason.", 'Add `reason = "why this is accepted"`.')
        if "rule" not in row and "key" not in row:
            raise UsageError(f"An ignore of {where} names neither a rule nor a key.", "Say what it ignores.")
        if "rule" in row:
            what = f"the rule {row['rule']!r} in an ignore of {where}"
            _one_of(row["rule"], tuple(RULES), what, "`ckptdiff rules` lists them all.")
        ignores.append(Ignore(row["reason"], row.get("rule", ""), row.get("key", "*")))
    return Policy(cast("Mapping[str, PolicyLevel]", levels), tuple(ignores))


def _tables(value: object, where: str) -> list[Mapping[str, Any]]:
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    raise UsageError(f"The {where} is not a list of tables.", "Write it with double brackets, as in [[targets]].")


def _known(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in table:
        _one_of(name, names, f"the key {name!r} of {where}", f"Known are {', '.join(names)}.")


def _one_of(value: object, known: tuple[str, ...], what: str, hint: str) -> None:
    if value in known:
        return
    close = closest(str(value), known)
    raise UsageError(f"ckptdiff does not know {what}.", f"Did you mean {close!r}?" if close else hint)


def _path_from(folder: Path, text: str) -> str:
    """A path as seen from here that is written as seen from the config; URLs stay."""
    if is_url(text):
        return text
    path = Path(text).expanduser()
    return str(path if path.is_absolute() else Path(os.path.relpath(folder / path)))
