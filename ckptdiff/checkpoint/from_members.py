"""One of several checkpoints in a zip, such as Stable-Baselines3 writes, as a Checkpoint of the whole file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ckptdiff.checkpoint.checkpoint import Alternative, Checkpoint
from ckptdiff.checkpoint.no_state_dict import EXISTS
from ckptdiff.checkpoint.survey import is_other
from ckptdiff.errors import CheckpointError
from ckptdiff.formats.opened import Opened
from ckptdiff.formats.reach import many
from ckptdiff.formats.zip_members import called, split
from ckptdiff.spelling import option
from ckptdiff.tensors import Entry, Storage, TensorInfo

MAX_LISTED = 20

Choose = Callable[[Opened, "str | None"], Checkpoint]


def member(opened: Opened, key: str | None, choose: Choose) -> Checkpoint:
    """The checkpoint of the member that `key` names, or of the only one that is a model's; `choose` gives that of one.

    Raises CheckpointError, listing the members, where none is named and several could be meant.
    """
    if key:
        name, inner = split(opened.parts, key)
        try:
            return _placed(opened, name, _chosen(opened, name, inner or None, choose), ())
        except CheckpointError as error:
            if error.hint.startswith(EXISTS):
                raise CheckpointError(
                    error.message, f"{error.hint[:-1]}, each after {name[:200]!r} and a dot."
                ) from None
            raise
    models: dict[str, Checkpoint] = {}
    problems: dict[str, str] = {}
    for name, part in opened.parts.items():
        if part is None:
            problems[name] = "not looked at"
            continue
        try:
            models[name] = _chosen(opened, name, None, choose)
        except CheckpointError as error:
            if len(opened.parts) == 1:
                raise
            problems[name] = error.message.removeprefix(f"{called(opened.name, name)} ")
    held = {name: checkpoint for name, checkpoint in models.items() if checkpoint.tensors}
    likely = [name for name in held if not any(is_other(part) for part in name.replace("/", ".").split("."))]
    if len(likely) != 1:
        raise _several(opened.name, held, problems)
    (name,) = likely
    others = tuple(Alternative(other, len(held[other].tensors)) for other in held if other != name)
    return _placed(opened, name, models[name], others, problems)


def _chosen(opened: Opened, name: str, key: str | None, choose: Choose) -> Checkpoint:
    part = opened.parts[name]
    if isinstance(part, CheckpointError):
        raise part
    assert part is not None
    return choose(part, key)


def _placed(
    opened: Opened,
    name: str,
    checkpoint: Checkpoint,
    others: tuple[Alternative, ...],
    beside: dict[str, str] | None = None,
) -> Checkpoint:
    """A member's checkpoint as one of the whole file: where bytes lie, what `--key` would name."""
    base = opened.opened_parts()[name].start
    moved: dict[int, Storage] = {}
    entries: dict[str, Entry] = {}
    for key, entry in checkpoint.entries.items():
        if isinstance(entry, TensorInfo) and entry.storage is not None:
            storage = moved.get(id(entry.storage))
            if storage is None:
                start = None if entry.storage.start is None else base + entry.storage.start
                storage = entry.storage._replace(id=f"{name}:{entry.storage.id}", file=opened.name, start=start)
                moved[id(entry.storage)] = storage
            entry = entry._replace(storage=storage)
        entries[key] = entry
    inside = tuple(Alternative(f"{name}.{other.key}", other.tensors) for other in checkpoint.alternatives if other.key)
    return replace(
        checkpoint,
        path=opened.name,
        format=f"{opened.format} {checkpoint.format}",
        entries=entries,
        state_dict_key=f"{name}.{checkpoint.state_dict_key}".rstrip("."),
        alternatives=(*inside, *others),
        container={**checkpoint.container, **(beside or {})},
        nbytes=opened.nbytes,
        identities=opened.identities,
        opened=opened,
    )


def _several(archive: str, held: dict[str, Checkpoint], problems: dict[str, str]) -> CheckpointError:
    listed = [f"{name[:200]!r} ({many(len(checkpoint.tensors), 'tensor')})" for name, checkpoint in held.items()]
    listed += [f"{name[:200]!r} ({problem[:200]})" for name, problem in problems.items()]
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return CheckpointError(
        f"{archive} is a zip archive of {many(len(listed), 'checkpoint')}",
        f"Choose one with {option('key')}: {', '.join(listed[:MAX_LISTED])}{more}.",
    )
