"""`--check-values`: what torch passes over without a word, counted. Every case is loaded by torch first."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import ckptdiff
from ckptdiff.contents import counting
from ckptdiff.errors import UsageError
from ckptdiff.judging.findings import Finding
from ckptdiff.judging.report import Report

INF, NAN = float("inf"), float("nan")


class Holder(nn.Module):
    """A module with one buffer, of any dtype."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(shape).to(dtype))  # older releases fill no 8-bit floats


class Tied(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3, dtype=dtype)
        self.head = nn.Linear(3, 4, bias=False, dtype=dtype)
        self.head.weight = self.embed.weight


def silent(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """torch loads it and says that all is well."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Casting complex")
        assert str(model.load_state_dict(state_dict, strict=True)) == "<All keys matched successfully>"


def checked(model: nn.Module, checkpoint: Any) -> Report:
    return ckptdiff.compare(model, checkpoint, check_values=True)


def of(report: Report, rule: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.rule == rule]


def written(state_dict: dict[str, torch.Tensor], path: Path) -> Path:
    """The state dict in a file of the format that the name says."""
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state_dict.items()}, path)
    else:
        torch.save(state_dict, path, _use_new_zipfile_serialization="legacy" not in path.name)
    if path.name == "deflated.pth":
        import zipfile

        stored = path.with_name("stored.pth")
        path.rename(stored)
        with zipfile.ZipFile(stored) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
    return path


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64, torch.complex128],
)
def test_nan_and_infinity_are_counted(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.0, 2.0, -INF], [NAN, INF, 0.0]]).to(dtype)
    silent(Holder(2, 3, dtype=dtype), {"value": values})
    report = checked(Holder(2, 3, dtype=dtype), {"value": values})
    (finding,) = report.findings
    assert (finding.rule, finding.level, finding.key) == ("non-finite-values", "warning", "value")
    assert finding.arguments == {"nan": 1, "infinite": 2, "total": 6, "first": (0, 2)}
    assert report.verdict == "pass"


def test_a_dtype_without_infinity_has_nan() -> None:
    values = torch.tensor([NAN, 1.0]).to(torch.float8_e4m3fn)
    (finding,) = checked(Holder(2, dtype=torch.float8_e4m3fn), {"value": values}).findings
    assert finding.arguments == {"nan": 1, "infinite": 0, "total": 2, "first": (0,)}


def test_finite_values_whose_sum_is_not_are_nothing_to_tell() -> None:
    values = torch.full((4,), torch.finfo(torch.float32).max)
    assert checked(Holder(4), {"value": values}).findings == ()


# (values, dtype of the checkpoint, dtype of the model, how many are lost, which is the first)
CASTS = [
    ([1.0, 65504.0, 70000.0, -1e9, INF, NAN], torch.float32, torch.float16, 2, 2),
    ([1.0, 1e-30, 1.0000001], torch.float32, torch.float16, 0, -1),
    ([1e300, 1.0], torch.float64, torch.float32, 1, 0),
    ([1e300, 1.0], torch.float64, torch.bfloat16, 1, 0),
    ([448.0, 500.0, 450.0, -1e9], torch.float32, torch.float8_e4m3fn, 2, 1),
    ([448.0, 5e5, 2.0], torch.float32, torch.float8_e5m2, 1, 1),
    ([57344.0, 2.0], torch.float8_e5m2, torch.float8_e4m3fn, 1, 0),
    ([1.0, 2.5, -3.0, NAN, INF, 3e9, -0.0], torch.float32, torch.int32, 4, 1),
    ([9.3e18, -9.2e18, 1.0], torch.float32, torch.int64, 1, 0),
    ([255.0, 256.0, -1.0], torch.float16, torch.uint8, 2, 1),
    ([0.0, 1.0, 2.0, 0.5, NAN], torch.float32, torch.bool, 3, 2),
    ([0, 1, 2], torch.int64, torch.bool, 1, 2),
    ([1, 300, -129, 127], torch.int64, torch.int8, 2, 1),
    ([1, -1, 2**40], torch.int64, torch.uint32, 2, 1),
    ([1, -1, 2**40], torch.int64, torch.uint64, 1, 1),
    ([1, 2**64 - 1], torch.uint64, torch.int64, 1, 1),
    ([1, 2**64 - 1, 2**40], torch.uint64, torch.uint32, 2, 1),
    ([1, 2**64 - 1, 2**40], torch.uint64, torch.float32, 1, 1),
    ([60000, 3, 256], torch.uint16, torch.uint8, 2, 0),
    ([2**24, 2**24 + 1, 2**63 - 1], torch.int64, torch.float32, 2, 1),
    ([65504, 70000, 2049], torch.int32, torch.float16, 2, 1),
    ([1, 2**24 + 1], torch.int32, torch.complex64, 1, 1),
    ([1 + 0j, 2 + 3j, 1e300 + 0j], torch.complex128, torch.float32, 2, 1),
    ([1 + 0j, 1e300 + 0j, 1e300j], torch.complex128, torch.complex64, 2, 1),
    ([1 + 0j, 2.5 + 0j, 1j], torch.complex64, torch.int32, 2, 1),
    ([1 + 0j, 0j, 1j], torch.complex64, torch.bool, 1, 2),
    ([70000.0, 1.0], torch.float32, torch.complex32, 1, 0),
]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize(("values", "given_dtype", "wanted", "lost", "first"), CASTS)
def test_values_that_a_cast_loses_are_counted(
    values: list[Any], given_dtype: torch.dtype, wanted: torch.dtype, lost: int, first: int
) -> None:
    state_dict = {"value": torch.tensor(values, dtype=given_dtype)}
    silent(Holder(len(values), dtype=wanted), state_dict)
    report = checked(Holder(len(values), dtype=wanted), state_dict)
    assert of(report, "uncertain") == []
    assert report.verdict == "pass"
    if not lost:
        assert of(report, "cast-overflow") == []
        return
    (finding,) = of(report, "cast-overflow")
    assert (finding.level, finding.key) == ("warning", "value")
    assert (finding.arguments["lost"], finding.arguments["first"]) == (lost, (first,))


FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
INTS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


@settings(max_examples=100)
@given(st.lists(st.floats(), max_size=20), st.sampled_from(FLOATS), st.sampled_from(FLOATS))
def test_what_copy_makes_infinite_or_nan_is_what_is_counted(
    values: list[float], given_dtype: torch.dtype, wanted: torch.dtype
) -> None:
    source = torch.tensor(values, dtype=torch.float64).to(given_dtype)
    model = Holder(len(values), dtype=wanted)
    findings = of(checked(model, {"value": source}), "cast-overflow")
    model.load_state_dict({"value": source})
    before, after = source.double(), model.value.double()
    lost = ~after.isfinite()
    if wanted.itemsize == 1:  # where torch takes the largest number instead
        lost |= before.abs() > {torch.float8_e4m3fn: 464, torch.float8_e5m2: 61440}[wanted]
    expected = int((before.isfinite() & lost).sum())
    assert sum(int(finding.arguments["lost"]) for finding in findings) == expected  # type: ignore[arg-type]


@settings(max_examples=100)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), st.sampled_from(INTS), st.sampled_from(INTS))
def test_what_copy_makes_another_integer_is_what_is_counted(
    values: list[int], given_dtype: torch.dtype, wanted: torch.dtype
) -> None:
    source = torch.tensor(values, dtype=torch.int64).to(given_dtype)
    model = Holder(len(values), dtype=wanted)
    findings = of(checked(model, {"value": source}), "cast-overflow")
    model.load_state_dict({"value": source})
    expected = int((source.long() != model.value.long()).sum())
    assert sum(int(finding.arguments["lost"]) for finding in findings) == expected  # type: ignore[arg-type]


FILES = ["file.safetensors", "file.pth", "deflated.pth", "legacy.pth"]


@pytest.mark.parametrize("name", [*FILES, "memory"])
def test_every_format_tells_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "CHUNK", 32)  # many pieces, and a last one that is not full
    weight = torch.arange(300.0).reshape(20, 15)
    weight[3, 7], weight[19, 14], weight[11, 0] = NAN, INF, 1e20
    state_dict = {"value": weight.clone()}
    silent(Holder(20, 15, dtype=torch.float16), state_dict)
    checkpoint = state_dict if name == "memory" else written(state_dict, tmp_path / name)
    report = checked(Holder(20, 15, dtype=torch.float16), checkpoint)
    (overflow,) = of(report, "cast-overflow")
    (odd,) = of(report, "non-finite-values")
    assert (overflow.arguments["lost"], overflow.arguments["first"]) == (1, (11, 0))
    assert (odd.arguments["nan"], odd.arguments["infinite"], odd.arguments["first"]) == (1, 1, (3, 7))


@pytest.mark.parametrize("name", ["file.pth", "deflated.pth", "legacy.pth", "memory"])
@pytest.mark.parametrize("view", ["transposed", "gaps", "expanded"])
def test_views_are_read_in_their_own_order(
    name: str, view: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "CHUNK", 32)
    whole = torch.arange(400.0).reshape(20, 20)
    whole[3, 8] = NAN
    value = {"transposed": whole.T, "gaps": whole[1:, 2:18:2], "expanded": whole[3].expand(20, 20)}[view]
    state_dict = {"value": value}
    silent(Holder(*value.shape), state_dict)
    checkpoint = state_dict if name == "memory" else written(state_dict, tmp_path / name)
    (finding,) = checked(Holder(*value.shape), checkpoint).findings
    places = [tuple(place) for place in value.isnan().nonzero().tolist()]
    assert (finding.arguments["nan"], finding.arguments["first"]) == (len(places), places[0])


@pytest.mark.parametrize("transposed", [False, True])
def test_big_endian_files_are_read_right(transposed: bool, tmp_path: Path) -> None:
    import zipfile

    weight = torch.tensor([[1.0, 2.0, 70000.0], [NAN, 3.0, 4.0]])
    value = weight.T if transposed else weight
    path = tmp_path / "big.pth"
    stored = tmp_path / "little.pth"
    torch.save({"value": value}, stored)
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name:
                data = b"".join(data[place : place + 4][::-1] for place in range(0, len(data), 4))
            new.writestr(name, data)
    silent(Holder(*value.shape, dtype=torch.float16), torch.load(path, weights_only=True))
    report = checked(Holder(*value.shape, dtype=torch.float16), path)
    assert of(report, "cast-overflow")[0].arguments["first"] == ((2, 0) if transposed else (0, 2))
    assert of(report, "non-finite-values")[0].arguments["first"] == ((0, 1) if transposed else (1, 0))


# Ties


@pytest.mark.parametrize("name", [*FILES, "memory"])
def test_tied_tensors_that_differ_are_told_with_how_many_elements(name: str, tmp_path: Path) -> None:
    one = torch.arange(12.0).reshape(4, 3)
    other = one.clone()
    other[1, 1], other[2, 0] = 5000.0, -1.0
    state_dict = {"embed.weight": one, "head.weight": other}
    silent(Tied(), state_dict)
    checkpoint = state_dict if name == "memory" else written(state_dict, tmp_path / name)
    report = checked(Tied(), checkpoint)
    (finding,) = report.findings
    assert (finding.rule, finding.level, finding.key) == ("tied-values-differ", "warning", "embed.weight")
    assert finding.arguments["differing"] == 2
    assert finding.arguments["stored"] == "2 of 12 values differ"
    assert report.verdict == "pass"


@pytest.mark.parametrize("name", [*FILES, "memory"])
def test_tied_tensors_that_are_equal_are_nothing_to_tell(name: str, tmp_path: Path) -> None:
    one = torch.arange(12.0).reshape(4, 3)
    one[0, 0] = -0.0
    other = one.clone()
    other[0, 0] = 0.0
    state_dict = {"embed.weight": one, "head.weight": other}
    checkpoint = state_dict if name == "memory" else written(state_dict, tmp_path / name)
    # Of tensors in memory it is not told without a look at their values.
    told = [] if name == "memory" else ["tied-values-differ"]
    assert [finding.rule for finding in ckptdiff.compare(Tied(), checkpoint).findings] == told
    assert checked(Tied(), checkpoint).findings == ()


def test_tied_tensors_are_compared_as_they_are_loaded() -> None:
    state_dict = {"embed.weight": torch.ones(4, 3) + 1e-6, "head.weight": torch.ones(4, 3, dtype=torch.float16)}
    assert of(checked(Tied(torch.float16), state_dict), "tied-values-differ") == []
    (finding,) = of(checked(Tied(torch.float32), state_dict), "tied-values-differ")
    assert finding.arguments["differing"] == 12


def test_nan_on_both_sides_of_a_tie_is_no_difference() -> None:
    state_dict = {"embed.weight": torch.full((4, 3), NAN), "head.weight": -torch.full((4, 3), NAN)}
    assert of(checked(Tied(), state_dict), "tied-values-differ") == []


# Where values are and are not


def test_values_are_not_read_unless_asked_for(tmp_path: Path) -> None:
    path = written({"value": torch.full((3,), NAN)}, tmp_path / "file.pth")
    assert ckptdiff.compare(Holder(3), path).findings == ()


def test_assign_casts_nothing() -> None:
    state_dict = {"value": torch.tensor([1e9, NAN])}
    report = ckptdiff.compare(Holder(2, dtype=torch.float16), state_dict, assign=True, check_values=True)
    assert of(report, "cast-overflow") == []
    assert len(of(report, "non-finite-values")) == 1


def test_renamed_keys_are_read(tmp_path: Path) -> None:
    path = written({"module.value": torch.tensor([NAN])}, tmp_path / "file.safetensors")
    (finding,) = ckptdiff.compare(Holder(1), path, strip_prefix="module.", check_values=True).findings
    assert (finding.rule, finding.key) == ("non-finite-values", "value")


class Old(Holder):
    """Takes a key of an older name, and doubles another one."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict[prefix + "value"] = state_dict.pop(prefix + "old") * self.factor
        super()._load_from_state_dict(state_dict, prefix, *rest)

    factor = 2


class Renaming(Holder):
    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        self._register_load_state_dict_pre_hook(_rename, with_module=True)  # public since torch 2.5


def _rename(module: Any, state_dict: Any, prefix: str, *rest: Any) -> None:
    state_dict[prefix + "value"] = state_dict.pop(prefix + "old")


def test_values_that_a_models_code_makes_are_said_to_be_unknown() -> None:
    state_dict = OrderedDict(old=torch.tensor([NAN, 1.0]))
    for model in (Old(2), Renaming(2)):
        report = checked(model, state_dict)
        assert report.loads()
        told = {finding.rule for finding in report.findings if finding.rule != "hook-rename"}
        assert told in ({"uncertain"}, {"non-finite-values"})


class Sub(torch.Tensor):
    """A subclass with nothing of its own."""


@pytest.mark.parametrize("kind", ["meta", "subclass"])
def test_values_that_are_not_there_are_said_to_be_unknown(kind: str) -> None:
    value = torch.zeros(2).as_subclass(Sub) if kind == "subclass" else torch.zeros(2, device="meta")
    report = checked(Holder(2).to(value.device), {"value": value})
    assert report.loads()
    texts = [str(finding.arguments["text"]) for finding in of(report, "uncertain")]
    assert any("The values of value were not checked" in text for text in texts)


@pytest.mark.parametrize("numel", [0, 1])
def test_empty_tensors_and_scalars(numel: int, tmp_path: Path) -> None:
    value = torch.full((0,), NAN) if not numel else torch.tensor(NAN)
    report = checked(Holder(*value.shape), written({"value": value}, tmp_path / "file.pth"))
    assert [finding.arguments["first"] for finding in report.findings] == [()] * numel


def test_a_snapshot_has_no_values(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(ckptdiff.snapshot(Holder(2)))
    with pytest.raises(UsageError, match=r"check_values=True: .* is a snapshot, which holds no values"):
        checked(Holder(2), path)


def test_a_distributed_checkpoint_is_refused(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"value": torch.zeros(2)}, checkpoint_id=tmp_path / "dcp")
    with pytest.raises(UsageError, match=r"check_values=True: .* is a distributed checkpoint"):
        checked(Holder(2), tmp_path / "dcp")


def test_a_remote_checkpoint_is_refused() -> None:
    from ckptdiff.checkpoint.checkpoint import Checkpoint
    from ckptdiff.tensors import Storage, TensorInfo

    url = "https://example.org/file.safetensors"
    entry = TensorInfo("float32", (2,), storage=Storage("value", url, None, 8))
    with pytest.raises(UsageError, match=r"check_values=True: .* is remote"):
        checked(Holder(2), Checkpoint(url, "safetensors", {"value": entry}))


def test_the_command_warns_and_passes_unless_told_to_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptdiff.cli import main

    monkeypatch.chdir(tmp_path)
    Path("half.py").write_text("from torch import nn\n\ndef net():\n    return nn.Linear(2, 2).half()\n")
    weight = torch.tensor([[1.0, 1e9], [NAN, 2.0]])
    written({"weight": weight, "bias": torch.zeros(2)}, tmp_path / "file.safetensors")
    command = ["compare", "half.py:net", "file.safetensors", "--check-values"]
    assert main([*command, "--format", "text"]) == 0
    text = capsys.readouterr().out
    assert "1 of 4 values beyond its range, first at [0, 1]" in text
    assert "1 NaN and 0 infinite of 4 values, first at [1, 0]" in text
    assert main([*command, "--fail-on", "warning", "--format", "json"]) == 1
    rules = [finding["rule"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert {"cast-overflow", "non-finite-values", "lossy-dtype"} == set(rules)


@pytest.mark.slow
def test_half_a_gigabyte_takes_no_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    numel = 500_000_000 // 4
    header = json.dumps({"value": {"dtype": "F32", "shape": [numel], "data_offsets": [0, numel * 4]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + numel * 4)  # a file of zeros that takes no room
        file.seek(-4, 2)
        file.write(b"\x00\x00\xc0\x7f")  # NaN
    code = f"""
        import resource, sys
        import torch
        import ckptdiff

        class Holder(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("value", torch.zeros({numel}, dtype=torch.float16, device="meta"))

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

        ckptdiff.compare(Holder(), {str(path)!r})
        before = peak()
        report = ckptdiff.compare(Holder(), {str(path)!r}, check_values=True)
        rules = {{finding.rule: finding.arguments for finding in report.findings}}
        assert rules["non-finite-values"]["first"] == ({numel - 1},), rules
        print(peak() - before)
    """
    grown = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True)
    assert int(grown.stdout) < 100_000_000
