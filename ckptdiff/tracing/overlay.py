"""Files of weights that the program writes, renames or removes: it finds them as it left them, and those that are there
stay as they are."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from ckptdiff.patches import Kept
from ckptdiff.suffixes import OLD, WEIGHTS
from ckptdiff.tracing.options import Maps

ASIDE = 4 << 30
"""Bytes up to which what the program would write is kept aside, to be read again."""


def is_weights(path: str) -> bool:
    """Whether a path is named as weights are."""
    return path.lower().endswith((*WEIGHTS, *OLD))


class Overlay:
    """What the program sees in place of what is there, by absolute path. `maps` are paths that mean others here."""

    def __init__(self, maps: Maps, tell: Callable[[str], None], folder: str = "") -> None:
        self._maps = maps
        self._tell = tell
        self._added: dict[str, str] = {}
        self._gone: set[str] = set()
        self._own: set[str] = set()
        self._said: dict[str, str] = {}
        """What the program calls what lies aside, by where it lies."""
        self._folder = folder
        self.moved: Callable[[str, str], object] = lambda *_: None
        """Is called with the path that a file had and the one it has."""
        self.writes: Callable[[str], object] = lambda _: None
        """Is called with every path that the program begins to write."""
        # Bound before anything is put in their place.
        self._stat, self._listdir = Kept(os.stat), Kept(os.listdir)

    @property
    def idle(self) -> bool:
        """Whether every path is what it is."""
        return not (self._maps or self._added or self._gone)

    def close(self) -> None:
        """Throw away what was kept aside."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    # What the program finds

    def mapped(self, path: object) -> Any:
        """A path under its name here; anything else as it is."""
        if not self._maps or not isinstance(path, (str, os.PathLike)):
            return path
        text = os.fspath(path)
        if isinstance(text, str):
            for old, new in self._maps:
                start = old.rstrip("/")
                if text in (old, start) or text.startswith(start + "/"):
                    return new + text[len(start) :]
        return path

    def here(self, path: object, folder: int | None = None) -> Any:
        """Where what a path names lies. Raises FileNotFoundError for what the program has removed."""
        path = self.mapped(path)
        if not (self._added or self._gone) or not isinstance(path, (str, os.PathLike)):
            return path
        whole = self._absolute(path, folder)
        if whole is None:
            return path
        if whole in self._added:
            return self._added[whole]
        if self._is_gone(whole):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        return path

    def named(self, aside: object) -> str | None:
        """The path that the program means by a file that was kept aside."""
        text = os.fspath(aside) if isinstance(aside, (str, os.PathLike)) else aside
        return next((self._said.get(place, path) for path, place in self._added.items() if place == text), None)

    def inside(self, folder: object) -> tuple[dict[str, str], set[str]]:
        """The names in a folder that the program has added, each with where it lies, and those it has removed."""
        at = _path_of(folder) if isinstance(folder, int) else folder
        whole = self._absolute(at) if at is not None else None
        if whole is None:
            return {}, set()
        added = {os.path.basename(path): at for path, at in self._added.items() if os.path.dirname(path) == whole}  # noqa: PTH119, PTH120
        gone = {os.path.basename(path) for path in self._gone if os.path.dirname(path) == whole}  # noqa: PTH119, PTH120
        return added, gone - set(added)

    # What it does to them

    def aside(self, path: Any, *, keeping: bool = False) -> str:
        """Where what the program writes to a path goes; with `keeping`, what is there goes along."""
        whole = self._absolute(path)
        assert whole is not None
        before = None
        with contextlib.suppress(OSError):
            before = os.fspath(self.here(path))
        place = self._added.get(whole, "")
        if not self._folder or not place.startswith(self._folder):
            place = self._place(whole)
            if keeping and before is not None and self._exists(before):
                shutil.copyfile(before, place)
        self._added[whole] = place
        self._said[place] = os.fspath(path)
        self._gone.discard(whole)
        self._own.discard(place)
        self.writes(whole)
        return place

    def own(self, path: object) -> None:
        """Note that a file now holds the program's own objects."""
        with contextlib.suppress(OSError, TypeError):
            self._own.add(os.fspath(self.here(path)))

    def is_own(self, file: object) -> bool:
        """Whether a file, or an open one, holds what the program has put there itself."""
        if not self._own:
            return False
        name = file if isinstance(file, (str, os.PathLike)) else getattr(file, "name", None)
        with contextlib.suppress(OSError, TypeError):
            return os.fspath(self.here(name)) in self._own
        return False

    def told(self, path: Any) -> None:
        """Tell that a file is not written."""
        self._tell(f"{os.fspath(path)!s} was not written.")

    def remove(self, path: Any, folder: int | None = None) -> bool:
        """Have a file be gone for the program. False where it is for the system to remove it."""
        whole = self._absolute(path, folder)
        if whole is None or not (whole in self._added or whole in self._gone or is_weights(whole)):
            return False
        self.here(path, folder)  # raises where it is gone
        if whole not in self._added and not self._exists(whole):
            return False
        self._added.pop(whole, None)
        if self._exists(whole):
            self._gone.add(whole)
            self._tell(f"{os.fspath(path)!s} was not removed.")
        return True

    def move(self, source: object, target: object, *, keeping: bool = False) -> bool:
        """Have a file be under another path, with `keeping` under both. False where it is for the system to do it."""
        old, new = self._absolute(source), self._absolute(target)
        if old is None or new is None:
            return False
        if not (old in self._added or new in self._added or is_weights(old) or is_weights(new)):
            self._move_inside(old, new)
            return False
        place = os.fspath(self.here(source))
        if not self._exists(place) or os.path.isdir(place):  # noqa: PTH112
            return False
        if not keeping:
            self._added.pop(old, None)
            if self._exists(old):
                self._gone.add(old)
        self._added[new] = os.path.abspath(place)  # noqa: PTH100
        self._gone.discard(new)
        self.moved(old, new)
        self.told(target)
        return True

    def remove_folder(self, path: Any, folder: int | None = None) -> bool:
        """Have a folder be gone of which the program has removed everything. False where the system is to."""
        whole = self._absolute(path, folder)
        if whole is None:
            return False
        self.here(path, folder)
        added, gone = self.inside(whole)
        if added:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), os.fspath(path))
        if not gone or set(self._listdir.value(whole)) - gone:
            return False
        self._gone.add(whole)
        return True

    def make_folder(self, path: object) -> bool:
        """Have a folder be there again that is only gone for the program."""
        whole = self._absolute(self.mapped(path))
        if whole is None or whole not in self._gone:
            return False
        self._gone.discard(whole)
        self._gone |= {os.path.join(whole, name) for name in self._listdir.value(whole)}  # noqa: PTH118
        return True

    def _move_inside(self, old: str, new: str) -> None:
        """What was added to a folder goes with it."""
        for path in [path for path in self._added if path.startswith(old + os.sep)]:
            self._added[new + path[len(old) :]] = self._added.pop(path)

    def _place(self, whole: str) -> str:
        if not self._folder:
            self._folder = tempfile.mkdtemp(prefix="ckptdiff-")
        return os.path.join(tempfile.mkdtemp(dir=self._folder), os.path.basename(whole))  # noqa: PTH118, PTH119

    def _is_gone(self, whole: str) -> bool:
        return whole in self._gone or any(whole.startswith(path + os.sep) for path in self._gone)

    def _exists(self, path: str) -> bool:
        try:
            self._stat.value(path)
        except (OSError, ValueError):
            return False
        return True

    def _absolute(self, path: Any, folder: int | None = None) -> str | None:
        try:
            text = os.fspath(path)
        except TypeError:
            return None
        if not isinstance(text, str):
            return None
        if not os.path.isabs(text):  # noqa: PTH117
            start = os.getcwd() if folder is None else _path_of(folder)  # noqa: PTH109
            if start is None:
                return None
            text = os.path.join(start, text)  # noqa: PTH118
        return os.path.normpath(text)


def _path_of(descriptor: int) -> str | None:
    """The path of an open folder, where the system tells."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    return None


class Entries:
    """What `os.scandir` gives, with other entries: an iterator that is closed at its end."""

    def __init__(self, real: Any, gone: set[str], added: dict[str, str], folder: str) -> None:
        self._real, self._gone, self._added, self._folder = real, gone, added, folder
        self._items = self._all()

    def _all(self) -> Iterator[object]:
        for entry in self._real:
            if entry.name not in self._gone and entry.name not in self._added:
                yield entry
        for name, place in self._added.items():
            yield _Entry(name, os.path.join(self._folder, name), place)  # noqa: PTH118

    def __iter__(self) -> object:
        return self

    def __next__(self) -> object:
        return next(self._items)

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """As the real one."""
        self._real.close()


class _Entry:
    """A file that the program has written, as `os.scandir` shows files."""

    def __init__(self, name: str, path: str, place: str) -> None:
        self.name, self.path, self._place = name, path, place

    def __fspath__(self) -> str:
        return self.path

    def is_file(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002 - as the real one
        return True

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002
        return False

    def is_symlink(self) -> bool:
        return False

    def inode(self) -> int:
        return self.stat().st_ino

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002
        return os.stat(self._place)  # noqa: PTH116
