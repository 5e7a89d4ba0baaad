"""The few lines of plain torch that load a checkpoint by hand, the renames included.

They run as they stand where the model has a name, and need a `model` where it is the caller's. What torch.load would
run code for is loaded by ckptdiff, which does not.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Container, Iterable, Sequence
from pathlib import PurePath

from ckptdiff.errors import UsageError
from ckptdiff.judging.beyond_repair import beyond_repair
from ckptdiff.judging.causes import cause
from ckptdiff.judging.question import Left, Question
from ckptdiff.judging.report import Report
from ckptdiff.model.reference import Reference, parse_reference
from ckptdiff.places import is_url
from ckptdiff.renaming.applied import Renames
from ckptdiff.renaming.prefixes import WRAPPERS
from ckptdiff.renaming.rename_rules import RenameRule
from ckptdiff.render.phrases import count

_FEW = 3
_MOST_RULES = 12
"""More are not said in lines of Python."""
_STATE = "state_dict"


def python(report: Report) -> str:
    """Lines of Python, "" where none can be said. They end with a newline."""
    question = report.question
    if question is None or report.empty_side or report.outcome.raised is not None or beyond_repair(report.outcome):
        return ""
    if question.loader:
        return _by_loader(report, question)
    keys = report.outcome.checkpoint.entries
    return loading(question, _left(report), keys, strict_loads=report.loads())


def file_words(report: Report) -> str:
    """What the file is where `load_state_dict(torch.load(path))` is not all there is to it, and whether what is in it
    fits; "" elsewhere."""
    question = report.question
    if question is None or question.loader:
        return ""
    whose = cause(report.outcome)
    if not question.saved.what:
        return f"the state dict {whose}" if whose else ""
    whole = "state dict" not in question.saved.what
    fits = ("; its state dict fits" if whole else ", which fits") if report.fits else ""
    return f"{question.saved.what}{fits}{f', {whose}' if whose else ''}"


def _left(report: Report) -> Left:
    left = report.repair.left
    if left is not None:
        return left
    return Left(
        loaded=sum(1 for _ in report.outcome.loaded()),
        missing=tuple(report.missing_keys),
        unexpected=tuple(report.unexpected_keys),
        mismatched=tuple(key for key, _, _ in report.mismatched_keys),
    )


def loading(question: Question, left: Left, keys: Container[object], *, strict_loads: bool) -> str:
    """The lines for `load_state_dict`, with what is left once everything is renamed."""
    saved = question.saved
    if left.other or not (left.loaded or strict_loads) or (question.checkpoint and not saved.reader):
        return ""
    imports, made = _model(question)
    renames = [renames for renames in (question.renames, left.renames) if renames]
    steps = [line for rename in renames for line in _renaming(rename, keys)]
    in_memory = not question.checkpoint
    by_hand = None not in steps and (in_memory or saved.reader != "none")
    if not by_hand:
        ours = [] if in_memory else _by_ours(question, left)
        return _program({*imports, "import ckptdiff"}, [*made, *ours]) if ours else ""
    of_file, read = (set[str](), list[str]()) if in_memory else _reading(question)
    renaming = [line for line in steps if line is not None]
    imports |= of_file | ({"import re"} if any("re.fullmatch" in line for line in renaming) else set())
    strict = ", strict=False" if left.missing or left.unexpected or left.mismatched else ""
    assign = ", assign=True" if question.assign else ""
    call = f"model.load_state_dict({_STATE}{strict}{assign})"
    return _program(imports, [*made, *read, *renaming, *_fitting(left), call])


def _program(imports: Iterable[str], lines: Sequence[str]) -> str:
    head = sorted(imports, key=lambda line: (line.startswith("from"), line))
    return "\n".join([*head, *([""] if head else []), *lines]) + "\n"


# The model


def _model(question: Question) -> tuple[set[str], list[str]]:
    """What makes the model: imports, and the line that binds it."""
    if not question.model:
        return set(), []
    try:
        reference = parse_reference(question.model)
    except UsageError:
        return set(), ["model = ...  # yours"]
    given = ", ".join(f"{name}={value!r}" for name, value in question.args.items())
    more = f", {given}" if given else ""
    if reference.kind == "torchvision":
        return {"import torchvision"}, [f"model = torchvision.models.get_model({_text(reference.target)}{more})"]
    if reference.kind == "timm":
        return {"import timm"}, [f"model = timm.create_model({_text(reference.target)}{more})"]
    named = _user_name(reference, question.attr, question.home)
    if named is not None:
        imports, there, name = named
        if question.ready is None:
            imports, name = imports | {"import torch"}, f"{name} if isinstance({name}, torch.nn.Module) else {name}"
        value = name + ("" if question.ready else f"({given})")
        return imports, [*there, *([] if value == "model" else [f"model = {value}"])]
    if reference.kind == "hf":
        made = "transformers.AutoModel.from_config(config)"
        return {"import transformers"}, [
            f"config = transformers.AutoConfig.from_pretrained({_text(reference.target)})",
            f"model = {made}  # or the class that you use",
        ]
    return set(), ["model = ...  # the one that the snapshot was made of"]


def _user_name(reference: Reference, attr: str, home: tuple[str, str]) -> tuple[set[str], list[str], str] | None:
    """What a name in code of the user's is called by: imports, lines before it, and itself; None where it has none."""
    attr = reference.attr or attr
    if not attr or reference.kind not in ("module", "file"):
        return None
    folder, name = home if reference.kind == "file" else ("", reference.target)
    first, _, rest = attr.partition(".")
    there = [f"sys.path.insert(0, {_text(folder)})"] if folder else []
    imports = {"import sys"} if folder else set()
    if name and there:
        return imports, [*there, f"from {name} import {first}"], attr
    if name:
        return {f"from {name} import {first}"}, [], attr
    loaded = f"runpy.run_path({_text(reference.target)})[{_text(first)}]"
    return {"import runpy", *imports}, there, loaded + (f".{rest}" if rest else "")


# The file


def _reading(question: Question) -> tuple[set[str], list[str]]:
    """What reads the state dict."""
    saved, path = question.saved, _text(question.checkpoint)
    if saved.reader == "safetensors":
        return {"from safetensors.torch import load_file"}, [f"{_STATE} = load_file({path})"]
    if saved.reader in ("safetensors shards", "torch shards"):
        plain = saved.reader == "torch shards"
        imports = {"import torch"} if plain else {"from safetensors.torch import load_file"}
        read = 'torch.load(shard, map_location="cpu", weights_only=True)' if plain else "load_file(shard)"
        ending = "*.bin" if plain else "*.safetensors"
        folder, names = _shards(question)
        listed = ", ".join(map(_text, names))
        if len(names) > _FEW and len({PurePath(name).suffix for name in names}) == 1:
            ending = f"*{PurePath(names[0]).suffix}"
            every = f"sorted(Path({_text(folder)}).glob({_text(ending)}))"
        else:
            every = f"[Path({_text(folder)}, name) for name in ({listed}{',' if len(names) == 1 else ''})]"
        return imports | {"from pathlib import Path"}, [
            f"{_STATE} = {{}}",
            f"for shard in {every}:",
            f"    {_STATE}.update({read})",
        ]
    lines = []
    imports = {"import torch"}
    if saved.allow:
        imports |= {f"import {path.partition('.')[0]}" for path in saved.allow}
        lines.append(f"torch.serialization.add_safe_globals([{', '.join(saved.allow)}])  # plain data")
    subscripts = "".join(f"[{_text(step) if isinstance(step, str) else step}]" for step in saved.steps)
    lines.append(f'{_STATE} = torch.load({path}, map_location="cpu", weights_only=True){subscripts}')
    return imports, lines


def _shards(question: Question) -> tuple[str, tuple[str, ...]]:
    path = question.checkpoint
    folder = str(PurePath(path).parent) if path.endswith(".json") else path
    return folder, question.saved.files


def _by_ours(question: Question, left: Left) -> list[str]:
    """Where torch.load would run code, or gives no state dict: ckptdiff loads it, and runs none."""
    if is_url(question.checkpoint):
        return []
    then = left.renames
    options = [*question.renames.given]
    before: list[str] = []
    if then and question.renames:
        return []
    if then.operations or len(then.rules) > _MOST_RULES:
        file = f"{PurePath(question.checkpoint).stem}.rules.toml"
        certain = all(rule.confidence == "certain" for rule in then.rules)
        asked = [_text(question.model) if question.model else "model", _text(question.checkpoint)]
        asked += [f"key={_text(question.key)}"] if question.key else []
        asked += [f"args={dict(question.args)!r}"] if question.args else []
        asked += [] if certain else ["include_likely=True"]
        before = [f"ckptdiff.suggest({', '.join(asked)}).save({_text(file)})"]
        options.append(("rules", file))
    elif then:
        options += [*then.given] or [("rename", str(rule)) for rule in then.rules]
    several: dict[str, list[str]] = {}
    for name, value in options:
        several.setdefault(name, []).append(value)
    if "reverse" in several:
        return []
    settings = [f"key={_text(question.key)}"] if question.key else []
    for name, values in several.items():
        settings.append(f"{name}={_text(values[0]) if len(values) == 1 else '[' + ', '.join(map(_text, values)) + ']'}")
    if not (left.missing or left.unexpected or left.mismatched):
        settings.append("strict=True")
    if question.assign:
        settings.append("assign=True")
    lines = [f"ckptdiff.load(model, {', '.join([_text(question.checkpoint), *settings])})"]
    why = question.saved.why or "More rules than a few lines hold, so they are kept in a file"
    return [*before, f"# {_comment(why)}{'; this does not' if question.saved.runs else ''}:", *lines]


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


# The names


def _renaming(renames: Renames, keys: Container[object]) -> list[str | None]:
    """One line for each step; None where a step cannot be said in a line or two."""
    if renames.operations or len(renames.rules) > _MOST_RULES:
        return [None]
    lines: list[str | None] = []
    for prefix in renames.strip_prefix:
        components = [part for part in prefix.split(".") if part]
        dotted = prefix if prefix.endswith(".") else f"{prefix}."
        if components and WRAPPERS.issuperset(components):
            new = "key" + "".join(f".replace({_text(f'{part}.')}, '')" for part in components)
            lines.append(_all_keys(new.replace("''", '""')))
        else:
            lines.append(_all_keys(f"key.removeprefix({_text(dotted)})"))
    if renames.rules:
        lines += _by_rules(renames.rules, keys)
    if renames.add_prefix:
        prefix = renames.add_prefix if renames.add_prefix.endswith(".") else f"{renames.add_prefix}."
        lines.append(_all_keys(f"{_text(prefix)} + key"))
    return lines


def _all_keys(new: str) -> str:
    return f"{_STATE} = {{{new}: value for key, value in {_STATE}.items()}}"


_SIMPLE = re.compile(r"(?P<old>[^{}\\]+\.)\{\*\} -> (?P<new>(?:[^{}\\]+\.)?)\{\*\}")


def _by_rules(rules: Sequence[RenameRule], keys: Container[object]) -> list[str | None]:
    """Rules as regular expressions with their replacements, of which the first that matches a key decides."""
    simple = _SIMPLE.fullmatch(str(rules[0])) if len(rules) == 1 else None
    if simple and simple["old"][:-1] not in keys:  # which such a rule renames, too
        old, new = simple["old"], simple["new"]
        if not new:
            return [_all_keys(f"key.removeprefix({_text(old)})")]
        renamed = f"{_text(new)} + key.removeprefix({_text(old)}) if key.startswith({_text(old)}) else key"
        return [_all_keys(renamed)]
    if all("{" not in str(rule) and "\\" not in str(rule) for rule in rules):
        pairs = ", ".join(f"{_text(rule.pattern)}: {_text(rule.replacement)}" for rule in rules)
        return [f"names = {{{pairs}}}", _all_keys("names.get(key, key)")]
    rows = []
    for rule in rules:
        regex, new = rule.as_python()
        rows.append(f"    ({_pattern(regex)}, lambda m: {new}),")
    return [
        "renames = [",
        *rows,
        "]",
        "",
        "def renamed(key):",
        "    for pattern, new in renames:",
        "        match = re.fullmatch(pattern, key, re.DOTALL)",
        "        if match and new(match):",
        "            return new(match)",
        "    return key",
        "",
        _all_keys("renamed(key)"),
    ]


def _pattern(regex: str) -> str:
    raw = regex.isprintable() and '"' not in regex and not regex.endswith("\\")
    return f'r"{regex}"' if raw else repr(regex)


# What does not fit


def _fitting(left: Left) -> list[str]:
    """What leaves out tensors of another shape, and says what stays."""
    lines = []
    if left.mismatched:
        lines += [
            "wanted = model.state_dict()",
            f"for key in wanted.keys() & {_STATE}.keys():",
            f"    if {_STATE}[key].shape != wanted[key].shape:",
            f"        del {_STATE}[key]  # {_listed(left.mismatched)}: another shape",
        ]
    stay = [*left.missing, *left.mismatched]
    if stay:
        lines.append(f"# {count(len(stay), 'key')} of the model keep initial values: {_listed(stay)}")
    return lines


def _listed(keys: Sequence[str]) -> str:
    shown = ", ".join(_comment(key) for key in keys[:_FEW])
    return shown if len(keys) <= _FEW else f"{shown} and {len(keys) - _FEW:,} more"


def _by_loader(report: Report, question: Question) -> str:
    """The call that a loader of a name makes, or that of the user's function, as one would write it."""
    loader, lines = report.loader, [*report.loader.python]
    reads = any("state_dict=state_dict" in line for line in lines)
    if (
        not lines
        or not question.checkpoint
        or is_url(question.checkpoint)
        or (reads and question.saved.reader == "none")
    ):
        return ""
    imports = {line for line in lines if line.startswith(("import ", "from "))}
    call = [line for line in lines if line not in imports]
    before: list[str] = []
    if loader.takes_model:
        of_model, before = _model(question)
        imports |= of_model
    if loader.name == "function":
        named = (
            _user_name(parse_reference(question.loader), "", question.loader_home) if ":" in question.loader else None
        )
        if named is None:
            return ""
        of_loader, there, name = named
        call = [line.replace("{loader}", name, 1) for line in call]
        imports, before = imports | of_loader, [*there, *before]
    if any("{class}" in line for line in call):
        named = _user_name(parse_reference(question.model), question.attr, question.home)
        if named is None:
            return ""
        of_class, there, name = named
        call = [line.replace("{class}", name, 1) for line in call]
        imports, before = imports | of_class, [*before, *there]
    if reads:
        of_file, read = _reading(question)
        imports, before = imports | of_file, [*before, *read]
    if any(re.search(r"\bpath\b", line) for line in call):
        before.append(f"path = {_text(question.checkpoint)}")
    if any("=torch." in line for line in call):
        imports.add("import torch")
    code = _program(imports, [*before, *call])
    try:
        ast.parse(code)
    except SyntaxError:  # something was given that has no literal
        return ""
    return code


def _text(value: object) -> str:
    """A Python string in double quotes; ASCII where it is not printable."""
    text = str(value)
    return json.dumps(text, ensure_ascii=not text.isprintable())
