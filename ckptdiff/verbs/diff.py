"""What differs between two checkpoints?"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.difference.beside import beside
from ckptdiff.difference.difference import Difference, Side
from ckptdiff.difference.differing import DiffOptions, difference
from ckptdiff.difference.locks import Lock, is_lock, read_lock
from ckptdiff.errors import UsageError
from ckptdiff.keys import Globs
from ckptdiff.requests import CheckpointRequest, renames_of, several
from ckptdiff.spelling import given, option

if TYPE_CHECKING:
    from ckptdiff.contents.spreading import Progress
    from ckptdiff.requests import File, Weights


def diff(
    a: Weights,
    b: Weights,
    *,
    values: bool = True,
    quick: bool = False,
    atol: float = 0.0,
    rtol: float = 0.0,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    key_a: str | None = None,
    key_b: str | None = None,
    keys: str | Sequence[str] = (),
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Difference:
    """What differs between two checkpoints: files of any format, folders, URLs, locks, state dicts in memory.

    Every value is read and compared; with `values=False` only names, dtypes and shapes are, with `quick` the checksums
    that torch's files have. `atol` and `rtol` allow differences as `torch.allclose` does. The keys of A are renamed
    first, as in `compare`. `key_a` and `key_b` are the dotted paths of the state dicts inside their files, `keys` are
    globs of those that are looked at. `scheduler` is the address of a Dask scheduler whose workers read the values.
    `progress` is called with the bytes done and all bytes.

    Raises CkptdiffError where a file cannot be read, or has no values to look at.
    """
    for name, value in (("atol", atol), ("rtol", rtol)):
        if not 0 <= value < float("inf"):
            raise UsageError(f"{given(name, value)}: a tolerance is a number from 0 on.", "")
    options = DiffOptions(
        values=values,
        quick=quick,
        atol=atol,
        rtol=rtol,
        keys=chosen(several("keys", keys)),
        scheduler=scheduler,
        progress=progress,
    )
    return diffed(
        CheckpointRequest(weights(a), key_a, renames_of(strip_prefix, add_prefix, rename, rules)),
        CheckpointRequest(weights(b), key_b),
        options,
    )


def diffed(a: CheckpointRequest, b: CheckpointRequest, options: DiffOptions, *, hashed: bool = False) -> Difference:
    """`diff`, as it was asked; `hashed` for the digests of what differs."""
    if a.renames is not None and a.renames.operations:
        return _computed(a, b, options, hashed=hashed)
    before, after = side(a), side(b)
    idle: tuple[str, ...] = ()
    if a.renames:
        renamed, idle = _new_names(before, a)
        options = replace(options, renamed=renamed)
    if options.keys is not None:
        keys = [*before.tensors, *after.tensors]
        if not any(options.keys(str(key)) for key in keys):
            raise UsageError(f"{option('keys')} matches no key of either side.", "Quote the glob, and check its keys.")
        idle += options.keys.idle("keys", keys)
    result = replace(difference(before, after, options), notes=idle)
    return with_digests(result, a, b) if hashed else result


def _computed(a: CheckpointRequest, b: CheckpointRequest, options: DiffOptions, *, hashed: bool) -> Difference:
    """The same where the rules compute tensors: A is written under them first, beside the files of others that come and
    go, and B is held against that."""
    from tempfile import TemporaryDirectory

    from ckptdiff.requests import WriteOptions
    from ckptdiff.verbs.rewrite import rewritten
    from ckptdiff.writing.execute import Written

    before, after = side(a), side(b)
    if isinstance(before, Lock):
        raise UsageError(
            f"{option('rules')}: the file has operations on tensors, and {before.path} is a lock, which has no values.",
            "Give the checkpoint itself.",
        )
    if options.scheduler is not None:
        raise UsageError(
            f"{option('rules')}: the file has operations on tensors, whose results only this machine has.",
            f"Leave {option('scheduler')} out.",
        )
    with TemporaryDirectory(prefix="ckptdiff-") as folder:
        written = os.path.join(folder, "a.pth")  # noqa: PTH118
        written_as = rewritten(a, WriteOptions.of(written, fsync=False))
        result = diffed(CheckpointRequest(written), b, options, hashed=hashed)
    whose = Side(
        before.path or "a state dict in memory",
        before.format,
        result.a.tensors,
        result.a.nbytes,
        before.state_dict_key,
    )
    notes = written_as.job.plan.notes if isinstance(written_as, Written) else ()
    return replace(result, a=whose, notes=notes, beside=() if isinstance(after, Lock) else beside(before, after))


def with_digests(result: Difference, a: CheckpointRequest, b: CheckpointRequest) -> Difference:
    """The same, with the digests of what differs."""
    from ckptdiff.contents.digests import digests_of

    to = dict(result.renamed)
    mine = [
        key for key in result.tensors_a if key in result.changed or key in result.only_in_a or _reshaped(result, key)
    ]
    theirs = [*(to.get(key, key) for key in mine if key not in result.only_in_a), *result.only_in_b]
    known = []
    for request, keys in ((a, mine), (b, theirs)):
        file = side(request)
        every = file.digests if isinstance(file, Lock) else digests_of(file, keys).tensors
        known.append({key: every[key] for key in keys})
    digests = {key: (known[0][key], known[1].get(to.get(key, key))) for key in mine}
    return replace(result, digests={**digests, **{key: (None, known[1][key]) for key in result.only_in_b}})


def _reshaped(result: Difference, key: str) -> bool:
    return any(key == name for name, *_ in result.other_shape)


def side(request: CheckpointRequest) -> Checkpoint | Lock:
    """One side: a checkpoint, or a lock. Raises CkptdiffError for what cannot be read."""
    given_ = request.checkpoint
    if isinstance(given_, (str, os.PathLike)) and is_lock(os.fspath(given_)):
        if request.key:
            raise UsageError(f"{os.fspath(given_)} is a lock, which has no keys inside keys.", "Leave the key out.")
        return read_lock(os.fspath(given_))
    return request.read()


def weights(given_: Weights) -> File:
    """What a live module would save, and whatever else stands for weights as it is."""
    torch = sys.modules.get("torch")  # whoever has a module has imported it
    if torch is not None and isinstance(given_, torch.nn.Module):
        state_dict: File = given_.state_dict()
        return state_dict
    return given_  # type: ignore[return-value]  # no module


def _new_names(file: Checkpoint | Lock, request: CheckpointRequest) -> tuple[Mapping[str, str], tuple[str, ...]]:
    from ckptdiff.renaming.applied import new_names

    renames = request.renames
    assert renames is not None
    if isinstance(file, Lock):
        file = Checkpoint(file.path, "lock", file.tensors)
    return new_names(file, renames)


def chosen(patterns: Sequence[str]) -> Globs | None:
    """A test whether a key matches one of some globs; None without any."""
    return Globs(patterns) if patterns else None
