"""A plan carried out: written beside the destination, read back, proved to load, renamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.checksums import Checksums
from ckptdiff.contents.files import Files
from ckptdiff.errors import CheckpointError, OutputError, UsageError
from ckptdiff.places import is_url
from ckptdiff.spelling import option
from ckptdiff.suffixes import SAFETENSORS, WEIGHTS
from ckptdiff.writing.atomic import Staged, refuse, staged
from ckptdiff.writing.blocks import BlockWriter
from ckptdiff.writing.byte_copying import Sink
from ckptdiff.writing.container_entries import ensure_plain
from ckptdiff.writing.entry_values import plain_objects
from ckptdiff.writing.layout import INDEX, Layout, OutputFile, Shared, lay_out
from ckptdiff.writing.plan import Drop, FilterPlan, Format
from ckptdiff.writing.readback import verify
from ckptdiff.writing.readback import verify_bytes as compare_bytes
from ckptdiff.writing.safetensors_file import index, metadata_of, write_safetensors
from ckptdiff.writing.torch_file import write_torch

if TYPE_CHECKING:
    from ckptdiff.loaders.outcome import Outcome

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""
Initial = Callable[[Sequence[str]], Mapping[str, Any]]
"""Gives the model's own initial values, torch tensors, for keys of its state dict."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where to, and in which format: what a path given to `-o` means."""

    path: Path
    format: Format
    directory: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A plan and everything about its execution that can be known beforehand: what `--dry-run` prints."""

    output: Output
    layout: Layout
    objects: Mapping[str, object]
    """Values of the entries that are no tensors, by their new keys."""
    keep_container: bool = False
    """Whether the state dict is written inside what was around it."""
    dropped_entries: tuple[str, ...] = ()
    """What was around it and is left out."""

    @property
    def plan(self) -> FilterPlan:
        return self.layout.plan

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the tensors that the output holds."""
        return self.layout.written

    @property
    def left_out(self) -> Mapping[str, str]:
        """Keys that safetensors has no place for, since their tensor is written under another: key → that key."""
        return dict(self.layout.aliases)


@dataclass(frozen=True, slots=True)
class Written:
    """What came of it. `files` are the paths and their sizes in bytes; `checkpoint` is the output, read back.

    `outcome` is the walk over the output, None without a model. `overflowed` maps keys to the number of values that
    the new dtype could not hold.
    """

    job: Job
    files: tuple[tuple[str, int], ...]
    checkpoint: Checkpoint
    outcome: Outcome | None = None
    overflowed: Mapping[str, int] | None = None
    damage: tuple[str, ...] = ()
    """With `force_damaged`: what of the input did not have the checksum that it gives, and was copied as it is."""

    @property
    def nbytes(self) -> int:
        return sum(size for _, size in self.files)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the tensors that the output holds."""
        return self.job.keys

    @property
    def left_out(self) -> Mapping[str, str]:
        """Tied keys that are not written, as the model would ask for: key → the key that has their tensor."""
        return self.job.left_out


def output_of(path: str, *, sharded: bool = False) -> Output:
    """What is written at `path`: `.safetensors`, `.pth .pt .bin .ckpt`, or a directory of shards.

    A directory is a path that ends with a slash, is one already, or has no suffix. Raises UsageError for other
    suffixes, and where `sharded` asks for shards of a file.
    """
    if "\0" in path:
        raise UsageError(f"{path!r} is no path: it has a null character in it", "Choose another name for the output.")
    place = Path(path)
    suffix = place.suffix.lower()
    slash = path.endswith(("/", os.sep))
    if not slash and suffix in WEIGHTS:
        if sharded:
            raise UsageError(
                f"{path} is one file, which has no shards",
                f"Give {option('out')} a directory, or leave {option('max_shard_size')} out.",
            )
        return Output(place, "safetensors" if suffix == SAFETENSORS else "torch")
    if suffix and not sharded and not slash and not place.is_dir():
        raise UsageError(
            f"{path} has an extension that says no format of weights: {place.suffix}",
            "Write .safetensors or .pth; end it with / for a directory of shards.",
        )
    return Output(place, "safetensors", directory=True)


def prepare(
    plan: FilterPlan,
    output: Output,
    *,
    shared: Shared | None = None,
    shard_size: int = 0,
    keep_container: bool = False,
    drop_entry: Sequence[str] = (),
) -> Job:
    """Everything but the writing. Reads headers only.

    `shared` and `shard_size` are those of `lay_out`. `keep_container` keeps what a .pth holds beside its state dict,
    but for the entries `drop_entry`.
    Raises CheckpointError for what cannot be written, UsageError where the options contradict each other.
    """
    remote = next((file for file in _inputs(plan.checkpoint) if is_url(file)), None)
    if remote is not None:
        raise CheckpointError(f"{remote} is no local file, and all of it would have to be read", "Download it first.")
    if keep_container:
        _check_container(plan, output)
        ensure_plain(plan.checkpoint, drop_entry)
    elif drop_entry:
        raise UsageError(
            f"{option('drop_entry')} is for what lies beside the state dict, which is not written",
            f"Give {option('keep_container')} as well.",
        )
    objects = plain_objects(plan.checkpoint, [item.source for item in plan.objects])
    opaque = [item for item in plan.objects if item.source not in objects]
    if opaque:
        types = plan.checkpoint.entries
        plan = replace(
            plan,
            kept=tuple(item for item in plan.kept if item not in opaque),
            dropped=(
                *plan.dropped,
                *(Drop(item.source, f"{types[item.source].type_name}, not plain data") for item in opaque),
            ),
        )
    layout = lay_out(plan, directory=output.directory, shared=shared, shard_size=shard_size)
    values = {item.key: objects[item.source] for item in plan.objects}
    return Job(output, layout, values, keep_container and bool(plan.checkpoint.state_dict_key), tuple(drop_entry))


def _check_container(plan: FilterPlan, output: Output) -> None:
    checkpoint = plan.checkpoint
    if output.format != "torch":
        raise UsageError(
            f"{output.path} is safetensors, which holds tensors alone",
            f"Write a .pth, or leave {option('keep_container')} out.",
        )
    if checkpoint.kind.content == "members":
        raise UsageError(
            f"{checkpoint.path} is a zip archive of several files, which are not written again",
            f"Unpack it and give the file alone, or leave {option('keep_container')} out.",
        )
    if not checkpoint.kind.by_torch_load:
        raise UsageError(
            f"{checkpoint.path} has nothing around its tensors to keep", f"Leave {option('keep_container')} out."
        )


def check(job: Job, *, force: bool = False) -> None:
    """Raise OutputError if the output must not be written there: what `execute` would refuse before it begins."""
    refuse(job.output.path, _inputs(job.plan.checkpoint), directory=job.output.directory, force=force)


def execute(
    job: Job,
    *,
    force: bool = False,
    fsync: bool = True,
    verify_bytes: bool = False,
    force_damaged: bool = False,
    progress: Progress | None = None,
    initial: Initial | None = None,
) -> Written:
    """Write the job's output; it appears whole, or not at all.

    `initial` supplies the values of filled keys; `force_damaged` copies damage too, and says so. Raises OutputError
    where it cannot be written or what was written does not hold, CheckpointError where the input cannot be read to its
    end. The destination is then what it was.
    """
    layout, plan, output = job.layout, job.plan, job.output
    values = _initial_values(plan, initial)
    total = layout.nbytes * (2 if verify_bytes else 1)
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        if progress is not None:
            progress(done, total)

    with (
        staged(
            output.path, inputs=_inputs(plan.checkpoint), directory=output.directory, force=force, fsync=fsync
        ) as stage,
        Files(plan.checkpoint.identities, watched=_files(plan.checkpoint)) as files,
        Checksums(plan.checkpoint, forgiving=force_damaged) as checksums,
    ):
        writer = BlockWriter(files, checksums, plan.checkpoint, values)
        starts: dict[str, dict[str, int]] = {}
        for file in layout.files:
            path = stage.path / file.name if file.name else stage.path
            if file.name:
                path.touch(exist_ok=False)
            with Sink(str(path), files, told, to_disk=fsync, checksums=checksums) as sink:
                starts[file.name] = _write(sink, writer, file, job)
        if len(layout.files) > 1:
            (stage.path / INDEX).write_bytes(index(layout))
        checksums.finish()
        if fsync:
            stage.sync()
        files.check_unchanged()
        key = None if output.format != "torch" else plan.checkpoint.state_dict_key if job.keep_container else ""
        result = verify(layout, output.path, stage.path, starts, key)
        if verify_bytes:
            compare_bytes(layout, output.path, stage.path, starts, files, writer.crcs, told)
            files.check_unchanged()
        outcome = _proved(job, result)
        sizes = _sizes(stage, layout)
    if progress is not None:
        progress(total, total)
    checkpoint = replace(result, path=str(output.path))
    damage = tuple(error.message for error in checksums.damaged)
    return Written(job, sizes, checkpoint, outcome, dict(writer.overflowed), damage)


def _write(sink: Sink, writer: BlockWriter, file: OutputFile, job: Job) -> dict[str, int]:
    if job.keep_container:
        from ckptdiff.writing.kept_container import write_container

        return write_container(sink, writer, file, job.plan, job.dropped_entries)
    if job.output.format == "torch":
        return write_torch(sink, writer, file, job.plan, job.objects)
    return write_safetensors(sink, writer, file, metadata_of(job.layout))


def _files(checkpoint: Checkpoint) -> list[str]:
    """The files that hold the checkpoint's tensors."""
    if checkpoint.live is not None:
        return []
    stored = (part for info in checkpoint.tensors.values() for part in (info, *(piece.tensor for piece in info.pieces)))
    return sorted({info.storage.file for info in stored if info.storage is not None})


def _inputs(checkpoint: Checkpoint) -> list[str]:
    """What must not be overwritten."""
    return [*_files(checkpoint), *([checkpoint.path] if checkpoint.path else ())]


def _initial_values(plan: FilterPlan, initial: Initial | None) -> Mapping[str, Any]:
    if not plan.filled:
        return {}
    if initial is None:
        raise CheckpointError(
            "The model's initial values are wanted and there is no model to take them from",
            f"{option('fill_missing')} needs the model itself, not a snapshot.",
        )
    return initial(plan.filled)


def _proved(job: Job, result: Checkpoint) -> Outcome | None:
    """The walk over the output itself. Raises OutputError if it does not load."""
    plan = job.plan
    if plan.tree is None:
        return None
    from ckptdiff.loaders.torch.answer import error_message
    from ckptdiff.loaders.torch.walk import compare

    outcome = compare(plan.tree, result)
    removed = {key for key, _ in job.layout.aliases}
    strict = plan.fill_missing and not removed
    message = error_message(outcome, strict)
    unexpected = outcome.problem_keys("unexpected")
    if message is None and unexpected:
        message = f"Unexpected key(s) in state_dict: {', '.join(map(repr, unexpected))}."
    if message is not None:
        raise OutputError(
            f"{job.output.path} was not written, since the model would not load it",
            "This is a defect of ckptdiff: please report it.",
            detail=message,
        )
    return outcome


def _sizes(stage: Staged, layout: Layout) -> tuple[tuple[str, int], ...]:
    if not layout.directory:
        return ((str(stage.out), stage.path.stat().st_size),)
    names = sorted(entry.name for entry in stage.path.iterdir())
    return tuple((str(stage.out / name), (stage.path / name).stat().st_size) for name in names)
