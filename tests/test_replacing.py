"""A file that is written takes the place of another, or goes through what is no file: checked on the real system."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptdiff import replacing
from ckptdiff.errors import OutputError
from ckptdiff.replacing import write_whole

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX files")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux")
root = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root may give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_made_and_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    write_whole(out, "one\n")
    write_whole(str(out), "zwei ü\n")
    assert out.read_bytes() == "zwei ü\n".encode()
    assert os.listdir(tmp_path) == ["out.json"]


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "out", "x")
    finally:
        os.umask(before)
    assert mode(tmp_path / "out") == 0o666 & ~umask


@posix
@pytest.mark.parametrize("kept", [0o600, 0o640, 0o664, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, kept: int) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    out.chmod(kept)
    write_whole(out, "new")
    assert mode(out) == kept


@root
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    out.chmod(0o640)
    os.chown(out, 12345, 54321)
    write_whole(out, "new")
    found = out.stat()
    assert (found.st_uid, found.st_gid, mode(out), out.read_text()) == (12345, 54321, 0o640, "new")


def as_another(do: Callable[[], None]) -> None:
    """Run `do` as a user without rights, in a process of its own; raises AssertionError where it does not succeed."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setgroups([])
            os.setgid(7)
            os.setuid(7)
            do()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@root
def test_who_may_not_give_a_file_away_shares_it_with_no_new_group(open_to_all: Path) -> None:
    out = open_to_all / "out"
    out.write_text("old")
    out.chmod(0o660)
    os.chown(out, 12345, 54321)
    as_another(lambda: write_whole(out, "new"))
    assert (out.stat().st_uid, mode(out), out.read_text()) == (7, 0o600, "new")


@root
def test_a_directory_that_may_not_be_written_to(open_to_all: Path) -> None:
    (open_to_all / "out").write_text("old")
    open_to_all.chmod(0o555)

    def refused() -> None:
        with pytest.raises(OutputError, match="Permission denied"):
            write_whole(open_to_all / "out", "x")

    as_another(refused)
    assert (open_to_all / "out").read_text() == "old"
    assert os.listdir(open_to_all) == ["out"]


@linux
def test_attributes_of_a_replaced_file_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    try:
        os.setxattr(out, "user.note", b"mine")
    except OSError:
        pytest.skip("no extended attributes here")
    write_whole(out, "new")
    assert os.getxattr(out, "user.note") == b"mine"


@posix
def test_links_stay_and_what_they_lead_to_is_replaced_or_made(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").write_text("old")
    for name in ("old", "new"):  # "new" dangles
        (tmp_path / name).symlink_to(Path("real") / name)
        write_whole(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "real" / name).read_text() == name
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OutputError, match="could not be written"):
        write_whole(tmp_path / "a", "x")


@posix
def test_another_name_of_the_same_file_keeps_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    os.link(tmp_path / "one", tmp_path / "other")
    write_whole(tmp_path / "one", "new")
    assert ((tmp_path / "one").read_text(), (tmp_path / "other").read_text()) == ("new", "old")


@posix
def test_a_device_is_written_to_and_stays() -> None:
    before = os.stat("/dev/null")
    write_whole("/dev/null", "gone")
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_ino, before.st_rdev, before.st_mode) == (after.st_ino, after.st_rdev, after.st_mode)
    if Path("/dev/full").exists():
        with pytest.raises(OutputError, match="/dev/full could not be written"):
            write_whole("/dev/full", "no room")


@root
@linux
def test_a_device_elsewhere_is_written_to_and_a_disk_is_not(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(tmp_path / "disk", 0o666 | stat.S_IFBLK, os.makedev(7, 200))
    except PermissionError:
        pytest.skip("no devices may be made here")
    write_whole(tmp_path / "null", "gone")
    assert stat.S_ISCHR((tmp_path / "null").lstat().st_mode)
    with pytest.raises(OutputError, match="it is a disk"):
        write_whole(tmp_path / "disk", "x")


@posix
@pytest.mark.parametrize("text", ["short", "long " * 100_000])
def test_a_pipe_is_written_to_and_stays(tmp_path: Path, text: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, text)
    reader.join()
    assert found == [text]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


@posix
def test_a_pipe_that_nobody_reads_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(replacing, "READER_TIMEOUT", 0.1)
    with pytest.raises(OutputError, match="a pipe that nobody reads"):
        write_whole(tmp_path / "pipe", "x")


@linux
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("to", ["pipe", "file"])
def test_the_programs_own_output_is_written_to_in_turn(tmp_path: Path, name: str, to: str) -> None:
    if name == "link":
        (tmp_path / "link").symlink_to("/dev/stdout")
        name = str(tmp_path / "link")
    code = (
        "import sys; from ckptdiff.replacing import write_whole\n"
        "print('before'); write_whole(sys.argv[1], 'text\\n'); print('after')"
    )
    out = tmp_path / "out"
    with out.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", code, name], stdout=subprocess.PIPE if to == "pipe" else file, check=True
        )
    found = done.stdout.decode() if to == "pipe" else out.read_text()
    assert found == "before\ntext\nafter\n"


@linux
def test_an_open_file_is_written_to_by_its_number(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        write_whole(f"/dev/fd/{file.fileno()}", "one ")
        write_whole(f"/proc/self/fd/{file.fileno()}", "two")
        number = file.fileno()
    assert (tmp_path / "file").read_text() == "one two"
    with pytest.raises(OutputError, match="Bad file descriptor"):
        write_whole(f"/dev/fd/{number}", "three")


@pytest.mark.parametrize("path", ["dir", "dir/", "new/", "no/such/out"])
def test_places_that_are_no_place(tmp_path: Path, path: str) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(OutputError, match="could not be written"):
        write_whole(f"{tmp_path}/{path}", "x")
    assert os.listdir(tmp_path) == ["dir"]
    assert os.listdir(tmp_path / "dir") == []


@posix
def test_nothing_of_anothers_is_taken_for_a_leftover(tmp_path: Path) -> None:
    """A pipe under a temporary's name would let whoever opens it wait for ever; a directory may hold anything."""
    os.mkfifo(tmp_path / ".out.ckptdiff-1-0123abcd.tmp")
    (tmp_path / ".a.ckptdiff-1-0123abcd.tmp").symlink_to("/dev/zero")
    folder = tmp_path / ".b.ckptdiff-1-0123abcd.tmp"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("mine")
    (tmp_path / ".c.ckptdiff-1-0123abcd.tmp").write_text("left")
    write_whole(tmp_path / "out", "x")
    assert sorted(os.listdir(tmp_path)) == [
        ".a.ckptdiff-1-0123abcd.tmp", ".b.ckptdiff-1-0123abcd.tmp", ".out.ckptdiff-1-0123abcd.tmp", "out",
    ]  # fmt: skip
    assert (folder / "deep" / "file").read_text() == "mine"


@root
def test_what_another_user_left_is_not_removed(tmp_path: Path) -> None:
    left = tmp_path / ".out.ckptdiff-1-0123abcd.tmp"
    left.write_text("x")
    os.chown(left, 12345, -1)
    write_whole(tmp_path / "out", "x")
    assert left.exists()


def test_weights_are_not_replaced_by_a_report(tmp_path: Path) -> None:
    import torch

    for name, how in (("zip.pth", True), ("old.pth", False)):
        torch.save({"a": torch.ones(2)}, tmp_path / name, _use_new_zipfile_serialization=how)
    (tmp_path / "a.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    for path in list(tmp_path.iterdir()):
        before = path.read_bytes()
        with pytest.raises(OutputError, match="a file that is no text, which would be lost"):
            write_whole(path, "{}")
        assert path.read_bytes() == before
    (tmp_path / "empty").touch()
    write_whole(tmp_path / "empty", "{}")
    with pytest.raises(OutputError, match="null byte"):
        write_whole("a\0b", "x")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no text"):
        write_whole(tmp_path / "out", "\udc80")
    assert os.listdir(tmp_path) == []
