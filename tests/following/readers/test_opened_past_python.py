"""Of files that compiled code opens, it is known which: by what the kernel tells, or the one given is taken to be."""

from __future__ import annotations

import contextlib
import sqlite3
import sys

import pytest

from ckptdiff.following.readers.opened_past_python import Watch

linux = pytest.mark.skipif(sys.platform != "linux", reason="what inotify tells")


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "deep" / "w.db"
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as made:
        made.execute("create table w (k text)")
        made.commit()
    (tmp_path / "deep" / "w.idx").touch()
    (tmp_path / "deep" / "other.db").touch()
    return path.resolve()


def looked_into(path):
    with contextlib.closing(sqlite3.connect(path)) as opened:
        opened.execute("select * from w").fetchall()


@linux
@pytest.mark.parametrize("asked", ["w.db", "w.idx", "w", ".", ".."])
def test_it_is_told_once_which_was_opened(database, asked):
    """Of a file, those beside it that are called alike, or what a folder holds."""
    watch = Watch([str((database.parent / asked).resolve())])
    with contextlib.closing(watch):
        assert watch.opened() == set()
        looked_into(database)
        assert watch.opened() == {str(database)}
        assert watch.opened() == set()


@linux
def test_what_is_called_otherwise_is_not_watched(database):
    with contextlib.closing(Watch([str(database.parent / "other.db")])) as watch:
        looked_into(database)
        assert watch.opened() == set()


def test_where_nobody_tells_what_was_given_may_have_been_opened(database, monkeypatch):
    monkeypatch.setattr(sys, "platform", "other")
    with contextlib.closing(Watch([str(database)])) as watch:
        assert watch.opened() == {str(database)}
