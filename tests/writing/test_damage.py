"""No damage is copied: the input stays the file whose header was read, and its own checksums hold."""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import replace

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError
from ckptdiff.model.extract import extract
from ckptdiff.writing.execute import execute, output_of, prepare
from ckptdiff.writing.planning import plan_filter, plan_rewrite

from .support import everything, load, rewrite, same, write

OUTPUTS = ["out.safetensors", "out.pth", "out/"]
FORMATS = ["in.safetensors", "in.pth", "in.tar", "in.index.json"]


def state(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {f"layer.{i}.weight": torch.randn(300, 400, generator=generator) for i in range(4)}


# The file that was read


def by_another(path):
    """Another file takes the place, of the same size and even of the same age."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def in_place(path):
    with path.open("r+b") as file:
        file.seek(-3000, 2)
        file.write(b"\xff" * 400)
    os.utime(path, (1, 1))


def shorter(path):
    os.truncate(path, path.stat().st_size // 2)


CHANGES = [by_another, in_place, shorter]


def bytes_of(path):
    """The file that holds tensors."""
    return next(path.parent.glob("pytorch_model-00002*")) if path.suffix == ".json" else path


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize(
    ("change", "out", "dtype"),
    [(by_another, "out.safetensors", ""), (in_place, "out.pth", "float16"), (shorter, "out/", "")],
)
def test_a_file_that_is_no_longer_the_one_that_was_read(tmp_path, source, change, out, dtype):
    checkpoint = read(write(state(), tmp_path / source))
    output = output_of(f"{tmp_path}/{out}")
    job = prepare(plan_rewrite(checkpoint, format=output.format, dtype=dtype), output)
    change(bytes_of(tmp_path / source))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        execute(job, verify_bytes=True, fsync=False)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("change", CHANGES)
def test_nor_is_it_filtered_loaded_or_looked_into(tmp_path, change):
    model = nn.Sequential(nn.Linear(400, 300), nn.BatchNorm1d(300))
    path = write(model.state_dict(), tmp_path / "in.pth")
    checkpoint = read(path)
    model[0].weight.data.zero_()
    change(path)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        ckptdiff.filter(model, checkpoint, tmp_path / "out.pth")
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        ckptdiff.load(model, checkpoint)
    assert not model[0].weight.any()
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        ckptdiff.compare(model, checkpoint, check_values=True)
    assert os.listdir(tmp_path) == ["in.pth"]


def test_values_that_code_of_the_model_asks_for_are_of_the_file_that_was_read(tmp_path):
    class Looks(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            float(state_dict[f"{prefix}weight"].sum())
            super()._load_from_state_dict(state_dict, prefix, *rest)

    path = write(nn.Linear(3, 3).state_dict(), tmp_path / "in.pth")
    checkpoint = read(path)
    assert ckptdiff.compare(Looks(3, 3), checkpoint).loads()
    by_another(path)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        ckptdiff.compare(Looks(3, 3), checkpoint)


def test_a_file_that_changes_while_it_is_loaded_is_said(tmp_path):
    class Slow(nn.Linear):
        def _load_from_state_dict(self, *arguments):
            super()._load_from_state_dict(*arguments)
            if self is model and os.getpid() == here:  # neither a shadow of it nor in a process that is asked before
                in_place(tmp_path / "in.pth")

    here = os.getpid()
    model = Slow(300, 300)
    checkpoint = read(write(model.state_dict(), tmp_path / "in.pth"))
    with pytest.raises(CheckpointError, match="changed while it was being read") as caught:
        ckptdiff.load(model, checkpoint)
    assert "load again" in caught.value.hint


def test_what_was_not_read_from_a_file_is_watched_from_the_beginning_of_the_copy(tmp_path):
    checkpoint = replace(read(write(state(), tmp_path / "in.pth")), identities={})
    job = prepare(plan_rewrite(checkpoint), output_of(str(tmp_path / "out.safetensors")))

    def change(done, total):
        in_place(tmp_path / "in.pth")

    with pytest.raises(CheckpointError, match=r"changed while|is damaged"):
        execute(job, progress=change)


def test_a_touched_name_is_the_same_file(tmp_path):
    """A link more, other rights, another name for its directory: the bytes are what they were."""
    path = write(state(), tmp_path / "in.pth")
    checkpoint = read(path)
    path.chmod(0o400)
    os.link(path, tmp_path / "more.pth")
    os.utime(path, ns=(1, path.stat().st_mtime_ns))
    output = output_of(str(tmp_path / "out.pth"))
    execute(prepare(plan_rewrite(checkpoint, format="torch"), output), fsync=False)
    assert len(load(tmp_path / "out.pth")) == 4


# The checksums it has


def damage(path, record, at=0.5):
    """Flip one bit of a record's bytes."""
    with zipfile.ZipFile(path) as archive:
        (info,) = [info for info in archive.infolist() if info.filename.endswith(record)]
    with path.open("r+b") as file:
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
        start = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        place = start + min(int(info.compress_size * at), info.compress_size - 1)
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("dtype", ["", "bfloat16"])
@pytest.mark.parametrize(("record", "at"), [("data/0", 0), ("data/3", 1)])
def test_a_flipped_bit_is_not_copied(tmp_path, out, at, dtype, record):
    write(state(), tmp_path / "in.pth")
    damage(tmp_path / "in.pth", record, at)
    with pytest.raises(CheckpointError, match=rf"in\.pth is damaged: the bytes of 'layer\.{record[-1]}\.weight'"):
        rewrite(tmp_path / "in.pth", f"{tmp_path}/{out}", dtype=dtype)
    assert os.listdir(tmp_path) == ["in.pth"]


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_flipped_bit_in_a_shard_is_not_copied(tmp_path, out):
    index = write(state(), tmp_path / "in.index.json")
    damage(bytes_of(index), "data/0")
    with pytest.raises(CheckpointError, match=r"00002\.bin is damaged: the bytes of 'layer\.2\.weight'"):
        rewrite(index, f"{tmp_path}/{out}")


def test_nor_one_in_the_names(tmp_path):
    write(state(), tmp_path / "in.pth")
    data = (tmp_path / "in.pth").read_bytes()
    (tmp_path / "in.pth").write_bytes(data.replace(b"layer.2.weight", b"layer.7.weight", 1))
    assert "layer.7.weight" in read(tmp_path / "in.pth").entries
    with pytest.raises(CheckpointError, match=r"is damaged: the bytes in its record 'in/data\.pkl'"):
        rewrite(tmp_path / "in.pth", tmp_path / "out.safetensors")


@pytest.mark.parametrize("out", OUTPUTS)
def test_nor_one_of_before_its_file_was_put_into_an_archive(tmp_path, out):
    """The archive's checksum is of the damaged file, and right; that of the record in it is not."""
    write(state(), tmp_path / "sound.pth")
    (tmp_path / "spoilt.pth").write_bytes((tmp_path / "sound.pth").read_bytes())
    damage(tmp_path / "spoilt.pth", "data/2")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("sound.pth", "spoilt.pth"):
            archive.write(tmp_path / name, name)
    ckptdiff.rewrite(tmp_path / "in.zip", f"{tmp_path}/{out}", key="sound.pth")
    with pytest.raises(CheckpointError, match=r"is damaged: the bytes of 'layer\.2\.weight' in its record"):
        ckptdiff.rewrite(tmp_path / "in.zip", f"{tmp_path}/{out}", key="spoilt.pth", force=True)


PARTS = {
    "a slice": lambda x: x[100:200],
    "columns": lambda x: x[:, 10:20],
    "turned": lambda x: x.t(),
    "a row": lambda x: x[0],
}


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("at", [0, 0.99])
def test_nor_one_in_a_record_of_which_a_part_is_used(tmp_path, out, part, at):
    """The checksum is of the whole record: where it fails, nobody knows which part of it is wrong."""
    whole = torch.randn(300, 400)
    write({"a": PARTS[part](whole), "b": torch.ones(3)}, tmp_path / "in.pth")
    rewrite(tmp_path / "in.pth", f"{tmp_path}/{out}")
    assert same(load(tmp_path / out)["a"], PARTS[part](whole))
    damage(tmp_path / "in.pth", "data/0", at)
    with pytest.raises(CheckpointError, match="is damaged"):
        rewrite(tmp_path / "in.pth", f"{tmp_path}/{out}", force=True)
    assert same(load(tmp_path / out)["a"], PARTS[part](whole))
    # Nothing of the record is used: it may be as it is.
    rewrite(tmp_path / "in.pth", f"{tmp_path}/{out}", force=True, drop=["a"])


def test_nor_one_in_two_tensors_of_one_record(tmp_path):
    flat = torch.randn(300_000)
    write({"b": flat[200_000:], "a": flat[:200_000]}, tmp_path / "in.pth")
    rewrite(tmp_path / "in.pth", tmp_path / "out.safetensors")
    for at in (0.1, 0.9):
        damage(tmp_path / "in.pth", "data/0", at)
        with pytest.raises(CheckpointError, match="is damaged"):
            rewrite(tmp_path / "in.pth", tmp_path / "more.safetensors")
        damage(tmp_path / "in.pth", "data/0", at)


def test_nor_one_in_what_is_around_the_state_dict(tmp_path):
    model = nn.Linear(200, 200)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, lr=0.1)
    model(torch.ones(200)).sum().backward()
    optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "in.pth")

    def keep_container(out):
        plan = plan_rewrite(read(tmp_path / "in.pth", key="state_dict"), format="torch")
        execute(prepare(plan, output_of(str(out)), keep_container=True), fsync=False)

    keep_container(tmp_path / "good.pth")
    damage(tmp_path / "in.pth", "data/2")
    with pytest.raises(CheckpointError, match="is damaged: the bytes in its record 'in/data/2'"):
        keep_container(tmp_path / "out.pth")


def test_nor_one_in_a_compressed_record(tmp_path):
    write({"a": torch.arange(100_000, dtype=torch.int32), "b": torch.ones(10)}, tmp_path / "stored.pth")
    wrong = tmp_path / "in.pth"
    with zipfile.ZipFile(tmp_path / "stored.pth") as given, zipfile.ZipFile(wrong, "w", zipfile.ZIP_DEFLATED) as made:
        for info in given.infolist():
            made.writestr(info.filename, given.read(info))
    rewrite(wrong, tmp_path / "out.safetensors")
    data = bytearray(wrong.read_bytes())
    crc = zlib.crc32(torch.arange(100_000, dtype=torch.int32).numpy().tobytes()).to_bytes(4, "little")
    data[data.index(crc)] ^= 1
    wrong.write_bytes(data)
    with pytest.raises(CheckpointError, match="compressed storage in it cannot be inflated"):
        rewrite(wrong, tmp_path / "more.safetensors")


def test_a_filter_that_drops_what_is_damaged_is_whole(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    torch.save({**model.state_dict(), "junk": torch.ones(100)}, tmp_path / "in.pth")
    damage(tmp_path / "in.pth", "data/2")
    plan = plan_filter(plan_rewrite(read(tmp_path / "in.pth"), format="torch"), extract(model))
    execute(prepare(plan, output_of(str(tmp_path / "out.pth"))), fsync=False)
    assert set(load(tmp_path / "out.pth")) == {"0.weight", "0.bias"}


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="a later torch has the option")
@pytest.mark.parametrize("out", OUTPUTS)
def test_a_file_without_checksums_is_copied_as_it_is(tmp_path, out):
    torch.serialization.set_crc32_options(False)
    try:
        write(everything(), tmp_path / "in.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    rewrite(tmp_path / "in.pth", f"{tmp_path}/{out}", verify_bytes=True, shared="copy")
    found = load(tmp_path / out)
    assert all(same(found[key], value) for key, value in everything().items() if key.startswith("dtypes"))


@pytest.mark.skipif(not hasattr(torch.serialization, "skip_data"), reason="a later torch has it")
def test_a_file_whose_bytes_somebody_else_wrote(tmp_path):
    with torch.serialization.skip_data():
        torch.save({"a": torch.zeros(1000)}, tmp_path / "in.pth")
    start = read(tmp_path / "in.pth").tensors["a"].storage.start
    with (tmp_path / "in.pth").open("r+b") as file:
        file.seek(start)
        file.write(torch.arange(1000.0).numpy().tobytes())
    rewrite(tmp_path / "in.pth", tmp_path / "out.pth")
    assert torch.equal(load(tmp_path / "out.pth")["a"], torch.arange(1000.0))


# Holes


def on_disk(path):
    return sum(entry.stat().st_blocks for entry in (path.iterdir() if path.is_dir() else [path])) * 512


@pytest.mark.skipif(not hasattr(os, "SEEK_HOLE"), reason="the system tells no holes")
@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("source", ["in.safetensors", "in.pth"])
@pytest.mark.parametrize("dtype", ["", "float16"])
def test_holes_stay_holes(tmp_path, out, source, dtype):
    """A file of 40 MB that takes a few pages of its disk, with data before, within and behind the holes."""
    large = torch.zeros(5_000_000)
    write({"x.small": torch.randn(10), "y.large": large, "z.last": torch.zeros(5_000_000)}, tmp_path / source)
    where = {key: info.storage.start + info.offset * 4 for key, info in read(tmp_path / source).tensors.items()}
    data = (tmp_path / source).read_bytes()
    with (tmp_path / source).open("r+b") as file:
        file.truncate(0)
        file.truncate(len(data))
        for place in range(0, len(data), 4096):
            if data[place : place + 4096].strip(b"\0"):
                file.seek(place)
                file.write(data[place : place + 4096])
        if source.endswith("safetensors"):  # it has no checksum
            large[2_000_000:2_000_100] = 1.0
            file.seek(where["y.large"] + 8_000_000)
            file.write(large[2_000_000:2_000_100].numpy().tobytes())
    if on_disk(tmp_path / source) > 1_000_000:
        pytest.skip("this file system has no holes")
    rewrite(tmp_path / source, f"{tmp_path}/{out}", dtype=dtype, verify_bytes=True, fsync=True)
    found = load(tmp_path / out)
    assert torch.equal(found["y.large"].float(), large)
    assert not found["z.last"].any()
    assert on_disk(tmp_path / out) < 3_000_000
    if out == "out.pth":
        with zipfile.ZipFile(tmp_path / out) as archive:
            assert archive.testzip() is None
