"""What a user asks, as values: which model, which checkpoint, under which names, written how. Parsed once."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.choices import path_meant
from ckptdiff.errors import CheckpointError, CkptdiffError, ModelError, UsageError
from ckptdiff.loaders.named_loaders import NAMES, Row, named, recognised
from ckptdiff.model.reference import Reference, parse_reference
from ckptdiff.model.tree import ModuleTree
from ckptdiff.places import is_url
from ckptdiff.spelling import Metavar, Value, call, given, option
from ckptdiff.stages import doing

if TYPE_CHECKING:
    from torch import nn

    from ckptdiff.loaders.left import Left
    from ckptdiff.model.given import GivenModel
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.writing.execute import Output
    from ckptdiff.writing.layout import Shared

    Model = nn.Module | ModuleTree | str | os.PathLike[str]
    File = Checkpoint | Mapping[Any, Any] | str | os.PathLike[str]
    Weights = File | nn.Module
    Path_ = str | os.PathLike[str]
    Texts = str | Iterable[str]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The model that is asked about: one that is there, or a reference and the keyword arguments to build it with."""

    model: Reference | ModuleTree | nn.Module
    args: Mapping[str, object] = field(default_factory=dict)
    device: str | None = None
    """As on which machine: `cuda` or `cpu`; None for this one, else the one that its code asks for."""

    @staticmethod
    def of(model: Model, args: Mapping[str, object] | None = None, device: str | None = None) -> ModelRequest:
        """Nothing is built or imported. Raises UsageError for what is no model, and for `args` where none are taken."""
        given: object = model  # callers without a type checker pass anything
        if isinstance(given, (str, os.PathLike)):
            reference = parse_reference(os.fspath(given))
            if args and reference.kind == "snapshot":
                raise UsageError(f"{reference.text} is a snapshot, which takes no arguments.", "Leave them out.")
            return ModelRequest(reference, args or {}, ensure_device(device))
        if not isinstance(given, ModuleTree):
            from torch import nn

            if not isinstance(given, nn.Module):
                raise UsageError(
                    f"A model is an nn.Module, a ModuleTree or a reference, not {type(given).__name__}.",
                    "Pass the module itself, or a string such as 'model.py:Net'.",
                )
        if args:
            raise UsageError("args is for a model that ckptdiff builds; this one is built.", "Leave args out.")
        return ModelRequest(given, device=ensure_device(device))

    @property
    def shown(self) -> str:
        """What the user called it, "" for a model that is there."""
        return self.model.text if isinstance(self.model, Reference) else ""

    @property
    def runs_code(self) -> bool:
        """Whether to answer takes code that the reference names; a live model's has run already."""
        return isinstance(self.model, Reference) and self.model.kind != "snapshot"

    def maker(self) -> nn.Module | Callable[[], nn.Module]:
        """A live model, or what builds the referenced one with its values. Raises UsageError for a mere description."""
        if isinstance(self.model, Reference) and self.model.kind != "snapshot":
            from ckptdiff.model.machines import built_on

            reference = self.model
            return lambda: built_on(reference, self.args, self.device, with_values=True)[0].module
        if isinstance(self.model, (Reference, ModuleTree)):
            raise UsageError(
                f"{self.shown or 'A ModuleTree'} describes a model, and a loader needs one to run on.",
                "Name the model itself, such as model.py:Net.",
            )
        return self.model

    def describe(self) -> GivenModel:
        """The model, described. Raises CkptdiffError where it does not build."""
        from ckptdiff.model.given import describe

        return describe(self.model, self.args, self.device)


def ensure_device(device: str | None) -> str | None:
    """A machine as an option names it. Raises UsageError for another word."""
    if device not in (None, "cuda", "cpu", "mps", "xpu"):
        raise UsageError(f"{given('device', str(device))}: there is no such machine.", "Write cuda or cpu.")
    return device


@dataclass(frozen=True, slots=True)
class CheckpointRequest:
    """The checkpoint that is asked about, the dotted path of the state dict in it, and what its keys are renamed to."""

    checkpoint: File
    key: str | None = None
    renames: Renames | None = None

    def read(self) -> Checkpoint:
        """The checkpoint as it is. Raises UsageError for what is none, CheckpointError for what cannot be read."""
        from ckptdiff.checkpoint.from_any import checkpoint_from

        doing("reading the checkpoint")
        return checkpoint_from(self.checkpoint, self.key)

    def renamed(self) -> tuple[Checkpoint, tuple[str, ...]]:
        """The checkpoint under its new names, and a sentence on each rename that found nothing to do."""
        checkpoint = self.read()
        if not self.renames:
            return checkpoint, ()
        from ckptdiff.writing.rewriting import applied

        return applied(checkpoint, self.renames)


@dataclass(frozen=True, slots=True)
class LoaderRequest:
    """What loads: a function or its reference, or a loader of a name with what it is told.

    `trust` says whether objects that a file names may be made for it, `trust_remote_code` whether code that lies beside
    the weights may run. `model_args` are for a model that it makes itself.
    """

    loader: str | Callable[..., Any] | Row
    args: Mapping[str, object] = field(default_factory=dict)
    trust: bool = False
    trust_remote_code: bool = False
    model_args: Mapping[str, object] = field(default_factory=dict)

    @staticmethod
    def of(
        loader: str | Callable[..., Any] | None,
        args: Mapping[str, object] | None = None,
        trust: bool = False,
        trust_remote_code: bool = False,
        model_args: Mapping[str, object] | None = None,
        *,
        or_usual: bool = False,
    ) -> LoaderRequest | None:
        """None for torch's own, `load_state_dict`; with `or_usual` for the usual one, too.

        Raises UsageError for what is no loader.
        """
        chosen: str | Callable[..., Any] | Row | None = loader
        if isinstance(loader, str) and loader.isidentifier():
            chosen = named(loader)
        elif isinstance(loader, str):
            if not parse_reference(loader).attr:
                raise UsageError(f"{loader} names no function.", "Write for example load.py:load_weights.")
        elif loader is not None and not isinstance(loader, str) and not callable(loader):
            raise UsageError(f"A loader is a name, a function or its reference, not {type(loader).__name__}.", "")
        if args and not isinstance(chosen, Row) and not (loader is None and or_usual):
            raise UsageError(
                f"{option('loader_args')} is for a loader of a name.", f"Those are {', '.join(NAMES[1:])}."
            )
        return None if chosen is None else LoaderRequest(chosen, args or {}, trust, trust_remote_code, model_args or {})

    @staticmethod
    def usual(
        model: ModelRequest | None,
        path: object,
        args: Mapping[str, object] | None = None,
        trust: bool = False,
        trust_remote_code: bool = False,
        model_args: Mapping[str, object] | None = None,
    ) -> LoaderRequest | None:
        """The one that people call for a model and a checkpoint, None where that is `load_state_dict`."""
        if not isinstance(path, (str, os.PathLike)):
            return None
        row = recognised(None if model is None else model.model, os.fspath(path))
        return None if row is None else LoaderRequest(row, args or {}, trust, trust_remote_code, model_args or {})

    def given(self) -> dict[str, Value]:
        """The options by which another request asks for it, too."""
        name = self.loader.name if isinstance(self.loader, Row) else self.loader
        values: dict[str, Value] = {"loader": name if isinstance(name, str) else Metavar("load")}
        if self.args:
            values["loader_args"] = {key: repr(value) for key, value in self.args.items()}
        values |= {"trust_checkpoint": True} if self.trust else {}
        return values | ({"trust_remote_code": True} if self.trust_remote_code else {})

    def comparing(self, model: ModelRequest | None, path: str | os.PathLike[str]) -> str:
        """The request that says what it leaves, and why it raises."""
        args = self.model_args if model is None else model.args
        values = {**({"args": {key: repr(value) for key, value in args.items()}} if args else {}), **self.given()}
        named = [] if model is None else [model.shown or Metavar("model")]
        return call("compare", *named, os.fspath(path), **values)

    def left(self, model: ModelRequest | None, path: str | os.PathLike[str], device: str | None = None) -> Left:
        """What it leaves in the model; None is one that it makes itself.

        It is asked as on a machine with `device`; without, as on this one, else on the one that its code insists on;
        where its code asks what machine it is, on the other one too, and a doubt says where that makes a difference.
        The GPU of this machine is claimed like any other.

        Raises CkptdiffError without an answer.
        """
        if not is_url(os.fspath(path)) and not Path(path).exists():
            raise CheckpointError(f"{os.fspath(path)} does not exist", path_meant(os.fspath(path)) or "Check the path.")
        from ckptdiff.claimed.questions import Asked
        from ckptdiff.model.machines import hosts, on

        doing("running the loader")
        host, asked = hosts(device), Asked()
        insists = device is None and host.kind == "cpu"
        try:
            with on(host, asked, "cpu"):
                left = self._left(model, path)
        except ModelError:
            if not (insists and asked.needs):
                raise
        else:
            if not (insists and asked.needs and left.outcome.raised is not None):
                machine = left.outcome.machine._replace(device=host.kind)
                doubts = self._elsewhere(left, model, path, host.kind) if device is None and asked.questions else ()
                outcome = replace(left.outcome, machine=machine, doubts=(*left.outcome.doubts, *doubts))
                return replace(left, outcome=outcome)
        return self.left(model, path, next(iter(asked.needs)))

    def _elsewhere(
        self, left: Left, model: ModelRequest | None, path: str | os.PathLike[str], kind: str
    ) -> tuple[str, ...]:
        """What another machine would make of it: nothing where that is the same."""
        from ckptdiff.loaders.left import told_apart

        other = "cuda" if kind == "cpu" else "cpu"
        machine = "a machine with a GPU" if kind == "cpu" else "a machine without one"
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the code has said it once
                difference = told_apart(left.outcome, self.left(model, path, other).outcome)
        except CkptdiffError as error:
            difference = f"there is no answer: {error.message}"
        return (f"The loader asks what machine it is; on {machine} {difference}",) if difference else ()

    def _left(self, model: ModelRequest | None, path: str | os.PathLike[str]) -> Left:
        from ckptdiff.loaders.asked import Asked

        given = (None, self.model_args) if model is None else (model.model, model.args)
        asked = Asked(given[0], os.fspath(path), given[1], self.args, self.trust, self.trust_remote_code)
        if isinstance(self.loader, Row):
            from ckptdiff.loaders.left import made_otherwise

            left = self.loader.ask(asked)
            doubts = (*left.outcome.doubts, *made_otherwise(left.outcome, asked.model))
            return replace(left, outcome=replace(left.outcome, doubts=doubts))
        from ckptdiff.loaders.function import left_by

        if model is None:
            asked.refuse_arguments()
            return left_by(self.loader, None, path, trust=self.trust)
        return left_by(self.loader, model.maker(), path, trust=self.trust, reference=model.shown)


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What of a checkpoint is written, where to and how."""

    output: Output
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    drop_prefix: tuple[str, ...] = ()
    dtype: str = ""
    keep_container: bool = False
    drop_entry: tuple[str, ...] = ()
    shared: Shared | None = None
    shard_size: int = 0
    dry_run: bool = False
    force: bool = False
    verify_bytes: bool = False
    force_damaged: bool = False
    fsync: bool = True

    @staticmethod
    def of(
        out: Path_,
        *,
        drop: Texts | None = (),
        keep: Texts | None = (),
        drop_prefix: Texts | None = (),
        dtype: object = "",
        keep_container: bool = False,
        drop_entry: Texts | None = (),
        shared: str | None = None,
        max_shard_size: int | str | None = None,
        dry_run: bool = False,
        force: bool = False,
        verify_bytes: bool = False,
        force_damaged: bool = False,
        fsync: bool = True,
    ) -> WriteOptions:
        """Nothing is read or written. Raises UsageError for an option that says nothing that can be done."""
        from ckptdiff.writing.execute import output_of
        from ckptdiff.writing.layout import parse_size

        if shared not in (None, "drop", "copy"):
            raise UsageError(f"{given('shared', shared)}: there is no such choice.", "Write drop or copy.")
        return WriteOptions(
            output=output_of(os.fspath(out), sharded=max_shard_size is not None),
            drop=several("drop", drop),
            keep=several("keep", keep),
            drop_prefix=several("drop_prefix", drop_prefix),
            dtype=dtype_name(dtype),
            keep_container=keep_container,
            drop_entry=several("drop_entry", drop_entry),
            shared=cast("Shared | None", shared),
            shard_size=parse_size(str(max_shard_size)) if max_shard_size is not None else 0,
            dry_run=dry_run,
            force=force,
            verify_bytes=verify_bytes,
            force_damaged=force_damaged,
            fsync=fsync,
        )


def dtype_name(dtype: object) -> str:
    """The name of a dtype that is called by it, by torch's own value, or by a short form of it; "" for none."""
    name = str(dtype or "").removeprefix("torch.")
    return _DTYPES.get(name.lower(), name)


_DTYPES = {
    "fp64": "float64", "double": "float64", "fp32": "float32", "float": "float32", "fp16": "float16",
    "half": "float16", "bf16": "bfloat16", "fp8": "float8_e4m3fn", "f64": "float64", "f32": "float32",
    "f16": "float16",
}  # fmt: skip


def renames_of(
    strip_prefix: Texts | None = None,
    add_prefix: str | None = None,
    rename: Texts | None = (),
    rules: Path_ | None = None,
    *,
    reverse: bool = False,
) -> Renames | None:
    """The renames that options ask for; None, and nothing imported, without any. Raises UsageError for a bad rule."""
    if not (strip_prefix or add_prefix or rename or rules):
        return None
    from ckptdiff.renaming.applied import Renames
    from ckptdiff.renaming.rename_rules import parse_rule
    from ckptdiff.renaming.rules_file import RulesFile, read_rules

    saved = RulesFile() if rules is None else read_rules(Path(rules))
    every = RulesFile((*(parse_rule(text) for text in several("rename", rename)), *saved.rules), saved.operations)
    if reverse:
        every = every.reversed()
    prefixes = several("strip_prefix", strip_prefix)
    given = [
        *(("strip_prefix", prefix) for prefix in prefixes),
        *(("rename", text) for text in several("rename", rename)),
        *([("rules", os.fspath(rules))] if rules else []),
        *([("reverse", "")] if reverse else []),
        *([("add_prefix", add_prefix)] if add_prefix else []),
    ]
    return Renames(prefixes, every.rules, add_prefix or "", every.operations, tuple(given))


def several(name: str, given: object) -> tuple[str, ...]:
    """What an option that takes several texts was given: None is none, a text is one. Raises UsageError."""
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,)
    texts: list[object] = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise UsageError(f"{name} takes a text, or a list of them, not {type(wrong[0]).__name__}.", "")
    return tuple(map(str, texts))
