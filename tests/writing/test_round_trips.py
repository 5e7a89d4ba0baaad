"""Whatever is written is what was there, to the bit, for the loader it is for."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import OrderedDict
from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ckptdiff.checkpoint import read
from ckptdiff.contents.files import Files
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.writing.byte_copying import Sink
from ckptdiff.writing.execute import output_of
from ckptdiff.writing.planning import DTYPE_CHOICES
from ckptdiff.writing.zipping import ZipWriter

from .support import OLD, SAFE, everything, for_format, load, of_bytes, rewrite, same, write

SOURCES = ["in.safetensors", "in.pth", "in.tar", "in.index.json"]
OUTPUTS = ["out.safetensors", "out.pth", "out/"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("out", OUTPUTS)
def test_every_pair_of_formats_keeps_every_bit(tmp_path, source, out):
    state = for_format(everything(), source)
    write(state, tmp_path / source)
    options = {"shard_size": 500_000} if out == "out/" else {}
    # `with_suffix` and its like drop the slash, so the name is joined as text.
    written = rewrite(tmp_path / source, f"{tmp_path}/{out}", shared="copy", verify_bytes=True, **options)
    found = load(tmp_path / out)
    assert set(found) == set(state)
    for key, value in state.items():
        assert same(found[key], value), key
    assert written.checkpoint.tensors.keys() == state.keys()
    if out == "out/":
        assert len(written.files) > 2


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_what_only_a_pth_can_hold(tmp_path, mmap):
    state = everything(safe=False)
    write(state, tmp_path / "in.pth")
    rewrite(tmp_path / "in.pth", tmp_path / "out.pth")
    found = torch.load(tmp_path / "out.pth", weights_only=True, mmap=mmap)
    assert list(found) == list(state)
    assert all(same(found[key], value) for key, value in state.items())


def test_ties_views_and_strides_survive_in_a_pth(tmp_path):
    state = everything()
    write(state, tmp_path / "in.pth")
    rewrite(tmp_path / "in.pth", tmp_path / "out.pth")
    found = load(tmp_path / "out.pth")
    assert found["embed.weight"].data_ptr() == found["head.weight"].data_ptr()
    found["rows.all"][3, 0] = 42
    assert found["rows.some"][1, 0] == 42
    # What shared a storage without overlapping does not need the other's bytes.
    assert found["rnn.a"].untyped_storage().nbytes() == 16 * 4
    assert found["part"].untyped_storage().nbytes() == 12 * 4


def test_zip_records_are_aligned_and_their_checksums_right(tmp_path):
    write(everything(), tmp_path / "in.pth")
    rewrite(tmp_path / "in.pth", tmp_path / "out.pth")
    rewrite(tmp_path / "out.pth", tmp_path / "again.pth")
    for name in ("out.pth", "again.pth"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert archive.testzip() is None
        starts = [t.storage.start for t in read(tmp_path / name).tensors.values()]
        assert all(start % 64 == 0 for start in starts)
    assert (tmp_path / "out.pth").read_bytes() == (tmp_path / "again.pth").read_bytes()


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="a later torch has the option")
def test_a_file_whose_writer_left_the_checksums_out(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        write({"a": torch.randn(100)}, tmp_path / "in.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    rewrite(tmp_path / "in.pth", tmp_path / "out.pth")
    with zipfile.ZipFile(tmp_path / "out.pth") as archive:
        assert archive.testzip() is None


def test_metadata_parameters_and_plain_data_survive(tmp_path):
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU())
    state = model.state_dict()
    state["weight"] = torch.nn.Parameter(torch.randn(3))
    state["codes"] = torch.nn.Parameter(torch.arange(3), requires_grad=False)
    state["config"] = {
        "name": "n",
        "sizes": [1, -2, 1 << 40, -(1 << 70)],
        "pair": (1.5, None, "" if OLD else b"\x00\xff"),
        "on": True,
    }
    state["order"] = OrderedDict(z=1, a=2)
    state["steps"] = 70_000
    torch.save(state, tmp_path / "in.pth")
    written = rewrite(tmp_path / "in.pth", tmp_path / "out.pth")
    found = load(tmp_path / "out.pth")
    assert list(found) == list(state)
    assert found._metadata == state._metadata
    assert type(found["weight"]) is torch.nn.Parameter
    assert found["weight"].requires_grad
    assert (type(found["codes"]), found["codes"].requires_grad) == (torch.nn.Parameter, False)
    for key in ("config", "order", "steps"):
        assert found[key] == state[key]
        assert type(found[key]) is type(state[key])
    assert not written.job.plan.dropped


def test_metadata_moves_with_its_modules(tmp_path):
    model = torch.nn.Sequential(
        OrderedDict(conv=torch.nn.Conv1d(1, 1, 1), act=torch.nn.ReLU(), bn=torch.nn.BatchNorm1d(1))
    )
    wrapped = torch.nn.Sequential(OrderedDict(module=model))
    torch.save(wrapped.state_dict(), tmp_path / "wrapped.pth")
    rewrite(tmp_path / "wrapped.pth", tmp_path / "plain.pth", strip_prefix="module")
    assert load(tmp_path / "plain.pth")._metadata == model.state_dict()._metadata
    rewrite(tmp_path / "plain.pth", tmp_path / "back.pth", add_prefix="module")
    moved = load(tmp_path / "back.pth")._metadata
    expected = wrapped.state_dict()._metadata
    assert moved == {key: value for key, value in expected.items() if key}


def test_what_is_no_plain_data_is_left_out_with_its_reason(tmp_path):
    state = {"w": torch.ones(1), "device": torch.device("cpu"), "cfg": {"d": torch.float32}}
    torch.save(state, tmp_path / "in.pth")
    written = rewrite(tmp_path / "in.pth", tmp_path / "out.pth")
    assert {drop.key for drop in written.job.plan.dropped} == {"device", "cfg"}
    assert all("not plain data" in drop.why for drop in written.job.plan.dropped)
    assert list(load(tmp_path / "out.pth")) == ["w"]
    written = rewrite(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert [drop.why for drop in written.job.plan.dropped] == [
        "no tensor but torch.device, which safetensors cannot hold",
        "no tensor but dict, which safetensors cannot hold",
    ]


def test_a_list_that_contains_itself_is_no_plain_data(tmp_path):
    loop: list[object] = []
    loop.append(loop)
    torch.save({"w": torch.ones(1), "loop": loop}, tmp_path / "in.pth")
    written = rewrite(tmp_path / "in.pth", tmp_path / "out.pth")
    assert [drop.key for drop in written.job.plan.dropped] == ["loop"]


def test_tied_tensors_in_safetensors(tmp_path):
    embed = torch.randn(6, 4)
    write({"b.embed": embed, "a.head": embed, "other": torch.ones(2)}, tmp_path / "in.pth")
    written = rewrite(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert written.job.layout.aliases == (("b.embed", "a.head"),)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"b.embed": "a.head", "format": "pt"}
        assert set(file.keys()) == {"a.head", "other"}
    rewrite(tmp_path / "in.pth", tmp_path / "copied.safetensors", shared="copy")
    assert set(load(tmp_path / "copied.safetensors")) == {"b.embed", "a.head", "other"}
    rewrite(tmp_path / "in.pth", tmp_path / "shards", shard_size=10)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 6 * 4 * 4 + 8, "b.embed": "a.head"}


def test_the_record_of_a_tie_is_what_safetensors_itself_writes(tmp_path):
    from safetensors.torch import save_model

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(5, 3)
            self.out = torch.nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

    model = Tied()
    torch.save(model.state_dict(), tmp_path / "in.pth")
    rewrite(tmp_path / "in.pth", tmp_path / "ours.safetensors")
    save_model(model, tmp_path / "theirs.safetensors", {"format": "pt"})
    for name in ("ours", "theirs"):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            assert file.metadata() == {"out.weight": "embed.weight", "format": "pt"}
            assert list(file.keys()) == ["embed.weight"]


def test_file_metadata_is_kept(tmp_path):
    write({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors", drop=["a"])
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "x"}


@pytest.mark.parametrize(
    ("source", "out", "dtype"),
    [
        (source, out, dtype)
        for number, (source, out) in enumerate(product(SOURCES, OUTPUTS))
        for dtype in (DTYPE_CHOICES[number % len(DTYPE_CHOICES)], "bfloat16")
    ],
)
def test_conversion_is_torchs_own(tmp_path, source, out, dtype):
    state = for_format(everything(), source)
    write(state, tmp_path / source)
    rewrite(tmp_path / source, f"{tmp_path}/{out}", dtype=dtype, shared="copy", verify_bytes=True)
    found = load(tmp_path / out)
    for key, value in state.items():
        wanted = value.to(getattr(torch, dtype)) if value.is_floating_point() else value
        assert same(found[key], wanted), key


def test_values_a_dtype_cannot_hold_are_counted(tmp_path):
    write({"a": torch.tensor([1e6, 2.0, float("inf"), -1e9]), "b": torch.ones(3)}, tmp_path / "in.pth")
    written = rewrite(tmp_path / "in.pth", tmp_path / "out.safetensors", dtype="float16")
    assert written.overflowed == {"a": 2}


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_values_that_torch_clamps_are_counted_too(tmp_path, dtype):
    small = torch.tensor([5e4]).to(torch.float8_e5m2)  # 49152
    write({"a": torch.tensor([1e9, 2.0, -1e6, float("inf"), 460.0]), "b": small}, tmp_path / "in.pth")
    written = rewrite(tmp_path / "in.pth", tmp_path / "out.pth", dtype=dtype)
    assert written.overflowed == ({"a": 2, "b": 1} if dtype == "float8_e4m3fn" else {"a": 2})


def test_big_endian_files_come_out_little_endian(tmp_path):
    state = {
        "f": torch.randn(5, 3),
        "c": torch.randn(4, dtype=torch.complex64),
        "v": torch.randn(4, 6).t(),
        "i": torch.arange(9),
    }
    torch.save(state, tmp_path / "in.pth")
    with zipfile.ZipFile(tmp_path / "in.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "big.pth", "w") as archive:
        for name, data in records.items():
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name:
                width = {"0": 4, "1": 4, "2": 4, "3": 8}[name.rpartition("/")[2]]
                data = b"".join(data[at : at + width][::-1] for at in range(0, len(data), width))
            archive.writestr(name, data)
    for out in ("out.pth", "out.safetensors"):
        rewrite(tmp_path / "big.pth", tmp_path / out, verify_bytes=True)
        found = load(tmp_path / out)
        assert all(same(found[key], value) for key, value in state.items())


def test_compressed_records_are_unpacked(tmp_path):
    state = {"a": torch.arange(10_000), "b": torch.zeros(5, 7).t()}
    torch.save(state, tmp_path / "in.pth")
    with zipfile.ZipFile(tmp_path / "in.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    for out in ("out.pth", "out.safetensors"):
        rewrite(tmp_path / "packed.pth", tmp_path / out, verify_bytes=True)
        found = load(tmp_path / out)
        assert all(same(found[key], value) for key, value in state.items())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("make", "out", "what"),
    [
        (lambda: torch.eye(2).to_sparse(), "out.pth", "layout sparse_coo"),
        (lambda: torch.ones(2, dtype=torch.complex128), "out.safetensors", "complex128"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "out.pth", "quantized"),
    ],
)
def test_tensors_that_cannot_be_copied_are_an_error_and_no_file(tmp_path, make, out, what):
    torch.save({"x": make(), "y": torch.ones(1)}, tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match=what):
        rewrite(tmp_path / "in.pth", tmp_path / out)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.pth"]


_SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_state_dict_survives_any_pair(tmp_path, data):
    keys = data.draw(
        st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=8, unique=True)
    )
    state = {}
    for seed, key in enumerate(keys):
        dtype, shape = data.draw(st.sampled_from(SAFE)), data.draw(_SHAPES)
        value = of_bytes(dtype, shape, seed)
        if state and data.draw(st.booleans()):
            value = data.draw(st.sampled_from(list(state.values())))
        if value.dim() and data.draw(st.booleans()):
            dim = data.draw(st.integers(0, value.dim() - 1))
            start = data.draw(st.integers(0, value.shape[dim]))
            value = value.narrow(dim, start, data.draw(st.integers(0, value.shape[dim] - start)))
        if value.dim() > 1 and data.draw(st.booleans()):
            value = value.transpose(0, 1)
        state[key] = value
    source = tmp_path / data.draw(st.sampled_from(SOURCES[:3]))
    state = for_format(state, source.name)
    if not state or "__metadata__" in state:
        return
    out = tmp_path / data.draw(st.sampled_from(["out.safetensors", "out.pth"]))
    write(state, source)
    rewrite(source, out, force=True, shared="copy", verify_bytes=True)
    found = load(out)
    assert set(found) == set(state)
    assert all(same(found[key], value) for key, value in state.items())


def test_more_records_than_a_plain_zip_can_count(tmp_path):
    (tmp_path / "many.zip").touch()
    with Files() as files, Sink(str(tmp_path / "many.zip"), files, lambda _: None) as sink:
        archive = ZipWriter(sink)
        for number in range(65_600):
            archive.add(f"{number}", b"")
        archive.finish()
    with zipfile.ZipFile(tmp_path / "many.zip") as found:
        assert found.namelist() == [str(number) for number in range(65_600)]


@pytest.mark.long
def test_a_record_and_an_offset_over_4_gib(tmp_path):
    state = {"a": torch.zeros((1 << 32) + 8, dtype=torch.uint8), "b": torch.arange(7)}
    state["a"][-1] = 9
    torch.save(state, tmp_path / "in.pth")
    state["a"] = None
    rewrite(tmp_path / "in.pth", tmp_path / "out.pth")
    found = torch.load(tmp_path / "out.pth", weights_only=True, mmap=True)
    assert (found["a"].numel(), int(found["a"][-1])) == ((1 << 32) + 8, 9)
    assert found["b"].tolist() == list(range(7))
    with zipfile.ZipFile(tmp_path / "out.pth") as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("out", ["out.safetensors", "out.pth", "out/"])
def test_nothing_is_imported_where_bytes_are_copied(tmp_path, out):
    write({"a": torch.randn(4, 4), "b": torch.randn(9)[2:5]}, tmp_path / "in.pth")
    code = (
        "import sys\n"
        "from ckptdiff.checkpoint import read\n"
        "from ckptdiff.writing.execute import execute, output_of, prepare\n"
        "from ckptdiff.writing.planning import plan_rewrite\n"
        "output = output_of(sys.argv[2])\n"
        "execute(prepare(plan_rewrite(read(sys.argv[1]), format=output.format), output))\n"
        "assert not {'torch', 'numpy', 'rich', 'typer'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "in.pth"), f"{tmp_path}/{out}"], check=True)
    assert set(load(tmp_path / out)) == {"a", "b"}


def test_progress_goes_from_the_first_byte_to_the_last(tmp_path):
    write({"a": torch.randn(1000), "b": torch.randn(10)}, tmp_path / "in.pth")
    told: list[tuple[int, int]] = []
    rewrite(tmp_path / "in.pth", tmp_path / "out.safetensors", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4040, 4040)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.safetensors", ("safetensors", False)), ("a.PTH", ("torch", False)), ("m.bin", ("torch", False)),
     ("dir", ("safetensors", True)), ("Qwen2.5-7B/", ("safetensors", True))],
)  # fmt: skip
def test_the_output_is_known_by_its_name(path, expected):
    output = output_of(path)
    assert (output.format, output.directory) == expected


def test_a_path_with_a_null_character_is_refused():
    with pytest.raises(UsageError, match="null character"):
        output_of("out\0.pth")


def test_names_that_say_no_format_are_refused():
    with pytest.raises(UsageError, match=r"\.h5"):
        output_of("a.h5")
    with pytest.raises(UsageError, match="no shards"):
        output_of("a.safetensors", sharded=True)
