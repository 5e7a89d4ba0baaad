"""OUT is what it was, or complete: whatever ends the run, and wherever it writes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError, OutputError
from ckptdiff.writing import atomic
from ckptdiff.writing import byte_copying as copying
from ckptdiff.writing.atomic import LEFTOVER, staged

from .support import load, rewrite, same, write

posix = pytest.mark.skipif(os.name != "posix", reason="signals and mounts of POSIX")

OUTPUTS = ["out.safetensors", "out.pth", "out/"]

ONE_RUN = """
import sys, time
from ckptdiff.checkpoint import read
from ckptdiff.errors import OutputError
from ckptdiff.writing.execute import execute, output_of, prepare
from ckptdiff.writing.planning import plan_rewrite

def run(source, out, dtype="", progress=None):
    output = output_of(out)
    plan = plan_rewrite(read(source), format=output.format, dtype=dtype)
    shard_size = 300_000 if output.directory else 0
    execute(prepare(plan, output, shard_size=shard_size), force=True, fsync=False, progress=progress)
"""

FOR_EVER = (
    ONE_RUN
    + """
run(sys.argv[1], sys.argv[3], sys.argv[4])
print("ready", flush=True)
while True:
    run(sys.argv[2], sys.argv[3], sys.argv[4])
    run(sys.argv[1], sys.argv[3], sys.argv[4])
"""
)

WAITS_HALFWAY = (
    ONE_RUN
    + """
def progress(done, total):
    if done > total // 3:
        print("halfway", flush=True)
        time.sleep(60)
try:
    run(sys.argv[1], sys.argv[2], progress=progress)
except OutputError as error:
    print(error.message)
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)
"""
)


def state(seed):
    generator = torch.Generator().manual_seed(seed)
    return {f"layer.{i}.weight": torch.randn(50_000 + seed, generator=generator) for i in range(8)}


def content(path: Path):
    if path.is_dir():
        return {entry.name: entry.read_bytes() for entry in path.iterdir()}
    return path.read_bytes()


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def leftovers(directory: Path):
    return [entry.name for entry in directory.iterdir() if LEFTOVER.fullmatch(entry.name)]


def kill_at_random(tmp_path, source, out, dtype, times, seed):
    """Kill a process that writes OUT over and over, `times` times; returns how often it left something behind."""
    chance = random.Random(seed)
    write(state(1), tmp_path / f"a.{source}")
    write(state(2), tmp_path / f"b.{source}")
    target = f"{tmp_path}/{out}"
    expected = []
    for name in (f"a.{source}", f"b.{source}"):
        rewrite(tmp_path / name, target, force=True, dtype=dtype, shard_size=300_000 if out.endswith("/") else 0)
        expected.append(content(Path(target)))
    left = 0
    for _ in range(times):
        child = start(FOR_EVER, tmp_path / f"a.{source}", tmp_path / f"b.{source}", target, dtype)
        begin = time.monotonic()
        assert child.stdout.readline() == "ready\n"
        once = time.monotonic() - begin
        time.sleep(chance.uniform(0, min(once, 0.15)))
        child.kill()
        child.wait()
        child.stdout.close()
        assert content(Path(target)) in expected
        found = leftovers(tmp_path)
        left += len(found)
        assert len(found) <= 1
    rewrite(tmp_path / f"a.{source}", target, force=True, dtype=dtype, shard_size=300_000 if out.endswith("/") else 0)
    assert leftovers(tmp_path) == []
    assert content(Path(target)) == expected[0]
    return left


@posix
@pytest.mark.parametrize(("source", "out"), [("safetensors", "out.safetensors"), ("pth", "out.pth"), ("pth", "out/")])
def test_killed_at_some_moments(tmp_path, source, out):
    kill_at_random(tmp_path, source, out, "", 6, 0)


@posix
@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "out", "dtype", "times"),
    [
        ("safetensors", "out.safetensors", "", 60),
        ("pth", "out.pth", "", 60),
        ("pth", "out.safetensors", "", 30),
        ("safetensors", "out.pth", "", 30),
        ("pth", "out/", "", 60),
        ("pth", "out.safetensors", "bfloat16", 8),
    ],
)
def test_killed_at_hundreds_of_moments(tmp_path, source, out, dtype, times):
    left = kill_at_random(tmp_path, source, out, dtype, times, 7)
    assert left > 0, "no kill fell into a write, so that nothing was tested"


@posix
@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 2), (signal.SIGHUP, 2), (signal.SIGINT, 130)])
def test_stopped_halfway(tmp_path, out, number, code):
    write(state(1), tmp_path / "in.safetensors")
    child = start(WAITS_HALFWAY, tmp_path / "in.safetensors", f"{tmp_path}/{out}")
    assert child.stdout.readline() == "halfway\n"
    assert len(leftovers(tmp_path)) == 1
    child.send_signal(number)
    said, _ = child.communicate()
    assert child.returncode == code
    if code == 2:
        assert said == f"{tmp_path / out} was not written: {number.name} ended the run\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.safetensors"]


@posix
def test_a_living_process_keeps_its_temporary(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    child = start(WAITS_HALFWAY, tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert child.stdout.readline() == "halfway\n"
    rewrite(tmp_path / "in.safetensors", tmp_path / "other.safetensors")
    assert len(leftovers(tmp_path)) == 1
    child.kill()
    child.communicate()
    rewrite(tmp_path / "in.safetensors", tmp_path / "third.safetensors")
    assert leftovers(tmp_path) == []


@contextlib.contextmanager
def mounted(place: Path, *options: str):
    place.mkdir(exist_ok=True)
    if subprocess.run(["mount", *options, str(place)], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # tensors may still map files of it


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs")
@pytest.mark.parametrize("out", OUTPUTS)
def test_a_full_disk(tmp_path, out):
    write(state(1), tmp_path / "in.safetensors")
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as small:
        target = Path(f"{small}/{out}")
        write({"old": torch.ones(1)}, small / "out.safetensors")
        write({"old": torch.ones(1)}, small / "out.pth")
        before = content(target) if target.exists() else None
        with pytest.raises(OutputError, match="was not written: the disk is full"):
            rewrite(tmp_path / "in.safetensors", f"{small}/{out}", force=True)
        assert (content(target) if target.exists() else None) == before
        assert sorted(entry.name for entry in small.iterdir()) == ["out.pth", "out.safetensors"]


@posix
def test_a_limit_on_the_size_of_files(tmp_path):
    import resource

    write(state(1), tmp_path / "in.safetensors")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="may not become that large"):
            rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.safetensors"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts")
@pytest.mark.parametrize("out", OUTPUTS)
def test_a_read_only_directory(tmp_path, out):
    write(state(1), tmp_path / "in.safetensors")
    place = mounted(tmp_path / "ro", "-t", "tmpfs", "-o", "ro", "tmpfs")
    with place, pytest.raises(OutputError, match="the file system is read-only"):
        rewrite(tmp_path / "in.safetensors", f"{tmp_path}/ro/{out}")


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_without_permission(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    (tmp_path / "mine").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="permission denied"):
        rewrite(tmp_path / "in.safetensors", tmp_path / "mine" / "out.safetensors")


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("dtype", ["", "float16"])
@pytest.mark.parametrize("source", ["in.safetensors", "in.pth"])
def test_an_input_that_shrinks_meanwhile(tmp_path, source, out, dtype):
    write(state(1), tmp_path / source)
    size = (tmp_path / source).stat().st_size

    def shrink(done, total):
        if done:
            os.truncate(tmp_path / source, size // 3)

    with pytest.raises(CheckpointError, match=r"changed while it was being read|truncated"):
        rewrite(tmp_path / source, f"{tmp_path}/{out}", dtype=dtype, progress=shrink,
                shard_size=300_000 if out == "out/" else 0)  # fmt: skip
    assert [entry.name for entry in tmp_path.iterdir()] == [source]


def test_an_input_that_is_written_to_meanwhile(tmp_path):
    write(state(1), tmp_path / "in.safetensors")

    def scribble(done, total):
        with open(tmp_path / "in.safetensors", "r+b") as file:
            file.seek(-4, 2)
            file.write(b"\0\0\0\0")
        os.utime(tmp_path / "in.safetensors", (1, 1))

    with pytest.raises(CheckpointError, match="changed while it was being read"):
        rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors", progress=scribble)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.safetensors"]


def test_an_input_that_is_gone(tmp_path):
    from ckptdiff.writing.execute import execute, output_of, prepare
    from ckptdiff.writing.planning import plan_rewrite

    write(state(1), tmp_path / "in.safetensors")
    job = prepare(plan_rewrite(read(tmp_path / "in.safetensors")), output_of(str(tmp_path / "out.safetensors")))
    (tmp_path / "in.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be opened any more"):
        execute(job)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["itself", "symlink", "hardlink", "link to the directory"])
def test_the_input_is_never_overwritten(tmp_path, kind):
    source = write(state(1), tmp_path / "in.safetensors")
    before = source.read_bytes()
    target = tmp_path / "link.safetensors"
    if kind == "itself":
        target = source
    elif kind == "symlink":
        target.symlink_to(source)
    elif kind == "hardlink":
        os.link(source, target)
    else:
        (tmp_path / "dir").symlink_to(tmp_path)
        target = tmp_path / "dir" / "in.safetensors"
    with pytest.raises(OutputError, match="is the input"):
        rewrite(source, target, force=True)
    assert source.read_bytes() == before


def test_a_shard_of_the_input_or_its_directory_is_never_overwritten(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", f"{tmp_path}/shards/", shard_size=300_000)
    shard = next((tmp_path / "shards").glob("*.safetensors"))
    for target in (shard, f"{tmp_path}/shards/"):
        with pytest.raises(OutputError, match="is the input, or holds it"):
            rewrite(tmp_path / "shards" / "model.safetensors.index.json", target, force=True)


@pytest.mark.parametrize("out", OUTPUTS)
def test_what_exists_is_only_replaced_by_force(tmp_path, out):
    write(state(1), tmp_path / "a.safetensors")
    write(state(2), tmp_path / "b.safetensors")
    rewrite(tmp_path / "a.safetensors", f"{tmp_path}/{out}")
    with pytest.raises(OutputError, match="exists") as caught:
        rewrite(tmp_path / "b.safetensors", f"{tmp_path}/{out}")
    assert "force=True" in caught.value.hint
    assert same(load(tmp_path / out)["layer.0.weight"], state(1)["layer.0.weight"])
    rewrite(tmp_path / "b.safetensors", f"{tmp_path}/{out}", force=True)
    assert same(load(tmp_path / out)["layer.0.weight"], state(2)["layer.0.weight"])
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_a_directory_of_shards_is_replaced_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    write(state(1), tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", f"{tmp_path}/out/", shard_size=300_000)
    rewrite(tmp_path / "in.safetensors", f"{tmp_path}/out/", force=True)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in.safetensors", "out"]


def test_a_directory_moved_aside_by_a_killed_run_is_put_back(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    aside = tmp_path / ".out.ckptdiff-1-0123abcd.old"
    aside.mkdir()
    write({"a": torch.ones(1)}, aside / "model.safetensors")
    with pytest.raises(OutputError, match="not empty"):
        rewrite(tmp_path / "in.safetensors", f"{tmp_path}/out/")
    assert list(load(tmp_path / "out")) == ["a"]


def test_a_directory_that_holds_anything_else_is_not_replaced(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(OutputError, match=r"config\.json"):
        rewrite(tmp_path / "in.safetensors", f"{tmp_path}/out/", force=True)


@pytest.mark.parametrize("kind", ["directory", "pipe"])
@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_what_only_has_the_name_of_a_shard_is_not_deleted(tmp_path, kind):
    write(state(1), tmp_path / "in.safetensors")
    impostor = tmp_path / "out" / "model-00001-of-00002.safetensors"
    impostor.parent.mkdir()
    if kind == "directory":
        impostor.mkdir()
        (impostor / "mine").write_text("mine")
    else:
        os.mkfifo(impostor)
    with pytest.raises(OutputError, match="holds other files than the shards"):
        rewrite(tmp_path / "in.safetensors", f"{tmp_path}/out/", force=True)
    assert impostor.is_fifo() if kind == "pipe" else (impostor / "mine").read_text() == "mine"


@posix
@pytest.mark.parametrize("empty", [True, False])
def test_a_replaced_directory_keeps_its_mode_and_its_files_theirs(tmp_path, empty):
    write(state(1), tmp_path / "in.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    if not empty:
        rewrite(tmp_path / "in.safetensors", f"{out}/", force=True)
        (out / "model.safetensors").chmod(0o600)
    out.chmod(0o750)
    if os.geteuid() == 0:
        os.chown(out, 12345, 54321)
    rewrite(tmp_path / "in.safetensors", f"{out}/", force=True, shard_size=300_000)
    assert stat.S_IMODE(out.stat().st_mode) == 0o750
    if os.geteuid() == 0:
        assert (out.stat().st_uid, out.stat().st_gid) == (12345, 54321)
    modes = {stat.S_IMODE(entry.stat().st_mode) for entry in out.iterdir()}
    assert modes == {0o666 & ~_umask() if empty else 0o600}
    assert len(load(out)) == 8


@posix
def test_what_replaces_a_private_file_is_private_from_the_beginning(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    for name in ("out.pth", "out/"):
        rewrite(tmp_path / "in.safetensors", f"{tmp_path}/{name}")
        (tmp_path / name).chmod(0o700 if name == "out/" else 0o600)
        seen = set()

        def look(done, total, seen=seen):
            seen.update(stat.S_IMODE((tmp_path / left).stat().st_mode) for left in leftovers(tmp_path))

        rewrite(tmp_path / "in.safetensors", f"{tmp_path}/{name}", force=True, progress=look)
        assert seen
        assert not any(mode & 0o077 for mode in seen)


@posix
@pytest.mark.parametrize("out", OUTPUTS)
def test_a_pipe_that_has_the_name_of_a_temporary(tmp_path, out):
    write(state(1), tmp_path / "in.safetensors")
    os.mkfifo(tmp_path / ".out.ckptdiff-1-0123abcd.tmp")
    os.mkfifo(tmp_path / ".out.ckptdiff-1-0123abcd.old")
    rewrite(tmp_path / "in.safetensors", f"{tmp_path}/{out}")
    assert len(load(tmp_path / out)) == 8


@posix
def test_a_directory_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    write(state(1), tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", f"{tmp_path}/out/")
    before = content(tmp_path / "out")
    real = os.rename

    def fails(one, other):
        if Path(other) == tmp_path / "out" and ".tmp" in str(one):
            raise OSError(28, "No space left on device")
        real(one, other)

    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    monkeypatch.setattr(atomic.os, "rename", fails)
    with pytest.raises(OutputError, match="disk is full"):
        rewrite(tmp_path / "in.safetensors", f"{tmp_path}/out/", force=True)
    assert content(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["in.safetensors", "out"]


@posix
@pytest.mark.parametrize("place", ["/dev/null", "/dev/stdout", "/dev/fd/1", "pipe.pth", "link.pth"])
def test_a_checkpoint_goes_through_no_pipe_or_device(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    write(state(1), tmp_path / "in.safetensors")
    os.mkfifo("pipe.pth")
    os.symlink("/dev/null", "link.pth")
    with pytest.raises(OutputError, match="is not a regular file"):
        rewrite(tmp_path / "in.safetensors", place, force=True)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["in.safetensors", "link.pth", "pipe.pth"]


def test_a_slash_at_the_end_says_directory(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", f"{tmp_path}/out.safetensors/")
    assert os.listdir(tmp_path / "out.safetensors") == ["model.safetensors"]
    (tmp_path / "file.pth").write_bytes(b"old")
    with pytest.raises(OutputError, match="is not a directory"):
        rewrite(tmp_path / "in.safetensors", f"{tmp_path}/file.pth/", force=True)


def test_an_output_beside_the_input_in_its_directory(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", f"{tmp_path}/shards/", shard_size=300_000)
    before = content(tmp_path / "shards")
    rewrite(tmp_path / "shards", f"{tmp_path}/shards/copy.pth")
    rewrite(tmp_path / "shards", f"{tmp_path}/shards/deeper/")
    after = {entry.name: entry.read_bytes() for entry in (tmp_path / "shards").iterdir() if entry.name in before}
    assert after == before
    assert len(load(tmp_path / "shards" / "deeper")) == len(load(tmp_path / "shards" / "copy.pth")) == 8


@posix
def test_a_dangling_link_leads_to_the_new_file(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    (tmp_path / "real").mkdir()
    (tmp_path / "out.pth").symlink_to("real/new.pth")
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.pth")
    assert (tmp_path / "out.pth").is_symlink()
    assert len(load(tmp_path / "real" / "new.pth")) == 8


def test_a_link_stays_a_link(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out.safetensors").write_bytes(b"old")
    (tmp_path / "out.safetensors").symlink_to(tmp_path / "real" / "out.safetensors")
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors", force=True)
    assert (tmp_path / "out.safetensors").is_symlink()
    assert len(load(tmp_path / "real" / "out.safetensors")) == 8


@posix
def test_places_that_are_no_place(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "dir.pth").mkdir()
    for target, what in (
        ("pipe.pth", "not a regular file"),
        ("dir.pth", "not a regular file"),
        ("no/out.pth", "not a directory"),
    ):
        with pytest.raises(OutputError, match=what):
            rewrite(tmp_path / "in.safetensors", tmp_path / target, force=True)


def test_a_name_as_long_as_names_may_be(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    out = tmp_path / f"{'é' * 121}.safetensors"
    rewrite(tmp_path / "in.safetensors", out)
    assert len(load(out)) == 8


@posix
def test_the_mode_of_what_is_replaced_is_kept(tmp_path):
    write(state(1), tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").stat().st_mode & 0o777 == 0o666 & ~_umask()
    (tmp_path / "out.safetensors").chmod(0o600)
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors", force=True)
    assert (tmp_path / "out.safetensors").stat().st_mode & 0o777 == 0o600


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("verify_bytes", [False, True])
def test_what_the_disk_changed_is_noticed(tmp_path, monkeypatch, out, verify_bytes):
    write(state(1), tmp_path / "in.safetensors")

    def damage(stage):
        file = stage.path if stage.path.is_file() else stage.path / "model.safetensors"
        with file.open("r+b") as opened:
            opened.seek(1_000_000 if verify_bytes else 8)
            opened.write(b"!!!!")

    monkeypatch.setattr(atomic.Staged, "sync", damage)
    with pytest.raises(OutputError, match="read back is not what was written"):
        rewrite(tmp_path / "in.safetensors", f"{tmp_path}/{out}", fsync=True, verify_bytes=verify_bytes)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.safetensors"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts")
@pytest.mark.parametrize("system", ["xfs", "btrfs"])
def test_blocks_are_shared_where_the_file_system_can(tmp_path, system):
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(400 << 20)
    if shutil.which(f"mkfs.{system}") is None:
        pytest.skip(f"mkfs.{system} is not there")
    subprocess.run([f"mkfs.{system}", "-q", str(image)], check=True, capture_output=True)
    given = {**state(1), "large": torch.arange(10_000_000)}
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as disk:
        write(given, disk / "in.safetensors")
        rewrite(disk / "in.safetensors", disk / "other.safetensors", drop=["layer.7.*"], fsync=True)
        os.sync()
        before = os.statvfs(disk).f_bfree
        rewrite(disk / "in.safetensors", disk / "out.safetensors", add_prefix="x", verify_bytes=True, fsync=True)
        os.sync()
        taken = (before - os.statvfs(disk).f_bfree) * os.statvfs(disk).f_frsize
        found = load(disk / "out.safetensors")
        assert all(same(found[f"x.{key}"], value) for key, value in given.items())
        assert all(same(value, given[key]) for key, value in load(disk / "other.safetensors").items())
        assert taken < (disk / "out.safetensors").stat().st_size / 4


@pytest.mark.parametrize("drop", [(), ["layer.3.*"]])
def test_a_file_system_that_does_not_share_is_asked_once(tmp_path, monkeypatch, drop):
    fcntl = pytest.importorskip("fcntl")
    asked = []

    def refused(*arguments):
        asked.append(arguments)
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refused)
    given = {**state(1), "large": torch.arange(5_000_000)}
    write(given, tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors", add_prefix="x", verify_bytes=True, drop=drop)
    found = load(tmp_path / "out.safetensors")
    assert all(same(value, given[key[2:]]) for key, value in found.items())
    assert len(found) == 9 - len(drop)
    assert len(asked) == (1 if sys.platform == "linux" else 0)
    # Much to be copied lies in blocks as it does in the input.
    starts = [min(info.storage.start for info in read(tmp_path / name).tensors.values())
              for name in ("in.safetensors", "out.safetensors")]  # fmt: skip
    assert starts[0] % copying.BLOCK == starts[1] % copying.BLOCK


def test_between_two_file_systems(tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system")
    write(state(1), tmp_path / "in.pth")
    target = other / f"ckptdiff-test-{os.getpid()}.pth"
    try:
        rewrite(tmp_path / "in.pth", target, verify_bytes=True)
        assert all(same(load(target)[key], value) for key, value in state(1).items())
    finally:
        target.unlink(missing_ok=True)


def test_an_error_of_the_caller_leaves_nothing(tmp_path):
    def fail():
        with staged(tmp_path / "out.pth") as stage:
            stage.path.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
