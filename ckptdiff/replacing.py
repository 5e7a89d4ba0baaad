"""Where a path that is to be written leads, and how a file is replaced: whole, at once, and keeping what was its own.

A temporary lies beside its destination, is called `.OUT.ckptdiff-PID-RANDOM.tmp` and is locked for as long as its
process lives. What a killed process left behind is therefore known by its name and by nobody holding its lock, and the
next run removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import time
from pathlib import Path

from ckptdiff.errors import OutputError

LEFTOVER = re.compile(r"\..+\.ckptdiff-\d+-[0-9a-f]{8}\.tmp")
READER_TIMEOUT = 10.0
"""Seconds that a pipe may be without a reader before it is given up."""

_MOST_LINKS = 40
_ELSEWHERE = re.compile(r"/proc/\d+(/task/\d+)?/fd")
_ATTRIBUTES = re.compile(r"user\..*|system\.posix_acl_access|security\.selinux")
_ACL = "system.posix_acl_access"


def write_whole(path: str | Path, text: str) -> None:
    """Replace a text file at once, so that it is never half written; raises OutputError, and it is what it was.

    A link stays, and what it leads to is replaced or made. A file that is no text, such as weights, is never replaced.
    What is no regular file (a device, a pipe, `/dev/stdout`) is not replaced but written to.
    """
    try:
        data = text.encode()
        if not _written_through(path, data):
            _replace(Path(os.path.realpath(path)), data)
    except UnicodeEncodeError:
        raise OutputError(f"{path} could not be written: it would hold what is no text.", "") from None
    except ValueError as error:  # a path with a null character
        raise OutputError(f"{str(path)!r} could not be written: {error}.", "Choose another path.") from None
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror or error}.", "Choose another path.") from None


def open_descriptor(path: str | Path) -> int | None:
    """The number of this process's own open file that a path stands for, as `/dev/stdout` and `/dev/fd/3` do."""
    place = os.path.abspath(path)  # noqa: PTH100 - links are followed one by one
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(place)
        folder = os.path.realpath(folder)
        if folder in (f"/proc/{os.getpid()}/fd", "/dev/fd") and name.isdecimal():
            return int(name)
        place = os.path.join(folder, name)  # noqa: PTH118
        if not os.path.islink(place):  # noqa: PTH114
            return None
        place = os.path.join(folder, os.readlink(place))  # noqa: PTH115, PTH118
    return None


def _written_through(path: str | Path, data: bytes) -> bool:
    """Write to what is there, where that is nothing to be replaced. False, and nothing is done, for all else."""
    number = open_descriptor(path)
    if number is not None:
        _flush(number)
        descriptor = os.dup(number)
    else:
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116
        except FileNotFoundError:
            if str(path).endswith(("/", os.sep)):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
            return False
        if stat.S_ISDIR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "it is a directory" if stat.S_ISDIR(mode) else "it is a disk")
        if stat.S_ISREG(mode) and not _ELSEWHERE.fullmatch(os.path.realpath(Path(path).parent)):
            return False
        descriptor = _open_through(path, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    return True


def _flush(number: int) -> None:
    """What was said before through Python's own streams comes before what is written past them."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stream.fileno() == number:
                stream.flush()


def _open_through(path: str | Path, mode: int) -> int:
    flags = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    if stat.S_ISREG(mode):
        return os.open(path, flags | os.O_TRUNC)
    if not stat.S_ISFIFO(mode):
        return os.open(path, flags)
    # A pipe that nobody reads would let the opening wait for ever.
    end = time.monotonic() + READER_TIMEOUT
    while True:
        try:
            descriptor = os.open(path, flags | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > end:
                raise OSError(errno.ENXIO, "it is a pipe that nobody reads") from None
            time.sleep(0.02)
            continue
        os.set_blocking(descriptor, True)
        return descriptor


def _replace(out: Path, data: bytes) -> None:
    remove_leftovers(out.parent)
    exists = out.exists()
    if exists and not _is_text(out):
        raise OSError(errno.EEXIST, "there is a file that is no text, which would be lost")
    path, descriptor = new_file(out, private=exists)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if exists:
                inherit(out, path)
        finally:
            os.close(descriptor)
        path.replace(out)
    except BaseException:
        delete(path)
        raise


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(1024)
    except PermissionError:
        return True  # of whoever may be written over and not looked into, nothing is known


# Temporaries


def temporary(out: Path) -> Path:
    """A new name beside `out`."""
    # File names are at most 255 bytes long on most file systems.
    stem = os.fsencode(out.name)[:180].decode("utf-8", "ignore")
    return out.parent / f".{stem}.ckptdiff-{os.getpid()}-{os.urandom(4).hex()}.tmp"


def new_file(out: Path, *, private: bool) -> tuple[Path, int]:
    """A new, locked file beside `out`, and its descriptor. `private` keeps others out until it has `out`'s own mode."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        path = temporary(out)
        descriptor = os.open(path, flags, 0o600 if private else 0o666)
        # Another run may have taken the newborn for a leftover before it was locked; then it is gone.
        if lock(descriptor) and os.path.lexists(path):
            return path, descriptor
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock without waiting. Where there are no locks, nobody can take a live temporary for a leftover either."""
    if sys.platform == "win32" or descriptor < 0:
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True


def remove_leftovers(directory: Path) -> list[str]:
    """Remove temporaries whose process is gone; returns their names."""
    removed = []
    with contextlib.suppress(OSError):
        for entry in list(directory.iterdir()):
            if LEFTOVER.fullmatch(entry.name) and _is_abandoned(entry):
                delete(entry)
                removed.append(entry.name)
    return removed


def _is_abandoned(path: Path) -> bool:
    try:
        status = path.lstat()
        # A pipe of that name would let the opening wait for ever, and is none of ours.
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return False
        if sys.platform == "win32":
            return not path.is_dir()
        if status.st_uid != os.geteuid():
            return False
        import fcntl

        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Delete a file, or a directory and the files in it; never what lies deeper, which nobody here has made."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            for entry in path.iterdir():
                with contextlib.suppress(OSError):
                    entry.unlink()
            path.rmdir()
        else:
            path.unlink()


# What a new file takes over from the old one


def inherit(old: Path, new: Path) -> None:
    """Give `new` the owner, group, mode and access list of `old`, as far as the system lets."""
    status, made = old.stat(), new.stat()
    mode = stat.S_IMODE(status.st_mode)
    if sys.platform != "win32" and (status.st_uid, status.st_gid) != (made.st_uid, made.st_gid):
        mode = _chown(new, status, mode)
    if hasattr(os, "listxattr"):
        _copy_attributes(old, new)
    with contextlib.suppress(OSError):
        new.chmod(mode)


def _chown(new: Path, status: os.stat_result, mode: int) -> int:
    """Returns the mode that is right for whom the file then belongs to."""
    try:
        os.chown(new, status.st_uid, status.st_gid)
    except OSError:
        mode &= 0o1777
        try:
            os.chown(new, -1, status.st_gid)
        except OSError:
            # Another group: it may do what anybody may.
            mode = mode & ~0o070 | (mode & 0o007) << 3
    return mode


def _copy_attributes(old: Path, new: Path) -> None:
    with contextlib.suppress(OSError):
        names = [name for name in os.listxattr(old) if _ATTRIBUTES.fullmatch(name)]
        for name in names:
            with contextlib.suppress(OSError):
                os.setxattr(new, name, os.getxattr(old, name))
        if _ACL not in names and _ACL in os.listxattr(new):
            # From the directory's default: it would let in whom the old file kept out.
            os.removexattr(new, _ACL)


def sync_directory(path: Path) -> None:
    """Make a rename durable, where directories can be synced at all."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
