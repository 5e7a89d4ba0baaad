"""Never a half-written checkpoint: a temporary beside the destination, made durable, proved, and renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from ckptdiff.errors import CkptdiffError, OutputError
from ckptdiff.replacing import (
    LEFTOVER,
    delete,
    inherit,
    lock,
    new_file,
    open_descriptor,
    remove_leftovers,
    sync_directory,
    temporary,
)
from ckptdiff.spelling import option

_SHARDS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


class Stopped(BaseException):
    """A signal asked the process to end. No Exception, lest code of a model's swallows it."""


class Staged:
    """The temporary: `path` is an empty file to be written, or an empty directory to put files in."""

    def __init__(self, out: Path, path: Path) -> None:
        self.out = out
        self.path = path
        self.descriptor = -1
        self.complete = False
        """Whether `out` is the new file already."""

    def sync(self) -> None:
        """Bring every byte to the disk, so that what is read back and then renamed is what stays."""
        if self.path.is_dir():
            for file in self.path.iterdir():
                with file.open("r+b") as opened:
                    os.fsync(opened.fileno())
            sync_directory(self.path)
        else:
            os.fsync(self.descriptor)


@contextlib.contextmanager
def staged(
    out: Path, *, inputs: Iterable[str] = (), directory: bool = False, force: bool = False, fsync: bool = True
) -> Iterator[Staged]:
    """A temporary that becomes `out` when the block ends, and is gone when it does not.

    The block is to call `sync` itself before it proves what it wrote. Raises OutputError where `out` may not or cannot
    be written, whatever the reason; `out` is then what it was.
    """
    _refuse_special(out)
    out = Path(os.path.realpath(out))
    _restore(out)
    refuse(out, inputs, directory=directory, force=force)
    remove_leftovers(out.parent)
    stage = Staged(out, temporary(out))
    try:
        with _until_stopped():
            try:
                _create(stage, directory)
                yield stage
                if directory:
                    _replace_directory(stage, force)
                else:
                    _replace_file(stage, force)
                stage.complete = True
                if fsync:
                    sync_directory(out.parent)
            finally:
                _remove(stage)
    except Stopped as stopped:
        if stage.complete:
            raise OutputError(
                f"{stopped} ended the run when {out} was complete", "There is nothing to do again."
            ) from None
        raise OutputError(
            f"{out} was not written: {stopped} ended the run", "Nothing was changed; run it again."
        ) from None
    except CkptdiffError:
        raise
    except OSError as error:
        raise _explained(out, error) from error


def refuse(out: Path, inputs: Iterable[str], *, directory: bool, force: bool) -> None:
    """Raise OutputError where `out` must not be written: it exists, it is an input, it is something else."""
    _refuse_special(out)
    out = Path(os.path.realpath(out))
    for name in inputs:
        if _is_same(out, Path(name)) or (directory and out in Path(os.path.realpath(name)).parents):
            raise OutputError(f"{out} is the input, or holds it: {name}", "Choose another name for the output.")
    if not out.parent.is_dir():
        raise OutputError(
            f"{out.parent} is not a directory, so that {out.name} cannot be written there", "Create it first."
        )
    if not os.path.lexists(out):
        return
    if directory:
        if not out.is_dir():
            raise OutputError(f"{out} exists and is not a directory", "Choose another name for the output.")
        others = [entry.name for entry in out.iterdir() if not _is_shard(entry)]
        if others:
            raise OutputError(
                f"{out} holds other files than the shards that would replace it: {others[0]}",
                "Write to a new directory; nothing but shards is ever replaced.",
            )
        if not force and any(out.iterdir()):
            raise OutputError(
                f"{out} exists and is not empty", f"Add {option('force')} to replace it, or choose another name."
            )
    elif not out.is_file():
        raise OutputError(f"{out} exists and is not a regular file", "Choose another name for the output.")
    elif not force:
        raise OutputError(f"{out} exists", f"Add {option('force')} to replace it, or choose another name.")


def _refuse_special(out: Path) -> None:
    """Raise OutputError for a device, a pipe or a stream of this process: what is written there is gone at once."""
    special = open_descriptor(out) is not None
    with contextlib.suppress(OSError):
        mode = out.stat().st_mode
        special = special or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    if special:
        raise OutputError(
            f"{out} is not a regular file, and a checkpoint is read back before it gets its name",
            "Write a file, and send that on.",
        )


def _is_shard(path: Path) -> bool:
    """Whether it is a file, or a link to one, that is called as a shard is."""
    return _SHARDS.fullmatch(path.name) is not None and (path.is_symlink() or path.is_file())


def _restore(out: Path) -> None:
    """Put back a directory that a killed run had moved aside and not yet replaced."""
    beginning = temporary(out).name.rpartition(".ckptdiff-")[0]
    with contextlib.suppress(OSError):
        for entry in list(out.parent.iterdir()):
            moved = entry.suffix == ".old" and LEFTOVER.fullmatch(entry.with_suffix(".tmp").name)
            if (
                moved
                and entry.is_dir()
                and not entry.is_symlink()
                and entry.name.rpartition(".ckptdiff-")[0] == beginning
                and not os.path.lexists(out)
            ):
                os.rename(entry, out)  # noqa: PTH104


def _is_same(here: Path, there: Path) -> bool:
    """Whether both are one file, by whatever links."""
    try:
        return here.samefile(there)
    except OSError:
        return False


def _create(stage: Staged, directory: bool) -> None:
    # Until it takes the mode of what it replaces, nobody else may look into it.
    private = stage.out.exists()
    if not directory:
        stage.path, stage.descriptor = new_file(stage.out, private=private)
        return
    while True:
        stage.path = temporary(stage.out)
        stage.path.mkdir(mode=0o700 if private else 0o777)
        if sys.platform == "win32":
            return
        stage.descriptor = os.open(stage.path, os.O_RDONLY | os.O_CLOEXEC)
        # Another run may have taken the newborn for a leftover before it was locked; then it is gone.
        if lock(stage.descriptor) and os.path.lexists(stage.path):
            return
        _close(stage)


def _replace_file(stage: Staged, force: bool) -> None:
    if os.path.lexists(stage.out):
        if not force:
            raise OutputError(
                f"{stage.out} was written by somebody else meanwhile", f"Add {option('force')} to replace it."
            )
        inherit(stage.out, stage.path)
    if sys.platform == "win32":
        _close(stage)
    os.replace(stage.path, stage.out)  # noqa: PTH105


def _replace_directory(stage: Staged, force: bool) -> None:
    old = sorted(stage.out.iterdir()) if stage.out.is_dir() else []
    if old:
        refuse(stage.out, (), directory=True, force=force)
        for entry in stage.path.iterdir():
            # A shard of another name is as private as the others were.
            inherit(stage.out / entry.name if (stage.out / entry.name).exists() else old[0], entry)
    if stage.out.is_dir():
        inherit(stage.out, stage.path)
    if not old:
        if sys.platform == "win32" and stage.out.is_dir():
            stage.out.rmdir()
        os.rename(stage.path, stage.out)  # noqa: PTH104 - an empty directory is replaced
        return
    if not _exchange(stage.path, stage.out):
        # Two steps, and a run killed between them leaves no `out`: the next one puts it back, by this name.
        aside = stage.path.with_suffix(".old")
        os.rename(stage.out, aside)  # noqa: PTH104
        try:
            os.rename(stage.path, stage.out)  # noqa: PTH104
        except BaseException:
            os.rename(aside, stage.out)  # noqa: PTH104
            raise
        delete(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Let two directories change places in one step (Linux' renameat2). False where that cannot be had."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


def _remove(stage: Staged) -> None:
    """Close and delete the temporary if it still has its name."""
    _close(stage)
    if os.path.lexists(stage.path):
        delete(stage.path)


def _close(stage: Staged) -> None:
    if stage.descriptor >= 0:
        os.close(stage.descriptor)
        stage.descriptor = -1


@contextlib.contextmanager
def _until_stopped() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Stopped` here, where they would have ended the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [number for number in names if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _explained(out: Path, error: OSError) -> OutputError:
    full = {errno.ENOSPC: "the disk is full", errno.EFBIG: "files may not become that large here"}
    if hasattr(errno, "EDQUOT"):
        full[errno.EDQUOT] = "the disk quota is used up"
    denied = {
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied",
        errno.EPERM: "the operation is not permitted",
    }
    number = error.errno or 0
    if number in full:
        return OutputError(
            f"{out} was not written: {full[number]}", "Make room, or write elsewhere; nothing was changed."
        )
    what = denied.get(number) or error.strerror or str(error)
    return OutputError(
        f"{out} was not written: {what}", "Check the directory and its permissions; nothing was changed."
    )
