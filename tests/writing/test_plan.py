"""What is kept, dropped and renamed, and why, said before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from ckptdiff.checkpoint import read
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.renaming.tensor_rules import parse_tensor_rule, plan_operations
from ckptdiff.writing.execute import execute, output_of, prepare
from ckptdiff.writing.layout import parse_size
from ckptdiff.writing.planning import plan_rewrite
from ckptdiff.writing.steps import is_contiguous

from .support import computed, load, same, write


@pytest.fixture
def checkpoint(tmp_path):
    names = ["module.conv.weight", "module.conv.bias", "module.fc.weight", "modulelist.0", "optim.x"]
    return read(write({name: torch.randn(3, 2) for name in names}, tmp_path / "in.pth"))


def kept(plan):
    return [item.key for item in plan.kept]


def test_globs_and_prefixes_select_by_either_name(checkpoint):
    assert kept(plan_rewrite(checkpoint, keep=["module.*"])) == [
        "module.conv.weight",
        "module.conv.bias",
        "module.fc.weight",
    ]
    names = {"module.conv.weight": "conv.weight", "module.conv.bias": "conv.bias", "module.fc.weight": "fc.weight"}
    plan = plan_rewrite(checkpoint, names=names, drop=["fc.*", "*.bias"], drop_prefix=["optim"])
    assert kept(plan) == ["conv.weight", "modulelist.0"]
    assert {drop.key: drop.why for drop in plan.dropped} == {
        "module.conv.bias": "drop='*.bias'",
        "module.fc.weight": "drop='fc.*'",
        "optim.x": "drop_prefix='optim'",
    }
    assert plan.renamed == (("module.conv.weight", "conv.weight"),)


def test_two_keys_with_one_name_are_an_error(checkpoint):
    with pytest.raises(UsageError, match="would both be written as 'x'"):
        plan_rewrite(checkpoint, names=dict.fromkeys(checkpoint.entries, "x"))


def test_an_option_that_matches_nothing_is_noted(checkpoint):
    plan = plan_rewrite(checkpoint, drop=["nothing.*"], drop_prefix=["modul"])
    assert plan.notes == ("drop='nothing.*' matches no key", "drop_prefix='modul' matches no key")


def test_nothing_left_is_an_error(checkpoint):
    with pytest.raises(CheckpointError, match="none of its 5 keys is left"):
        plan_rewrite(checkpoint, drop=["*"])


def test_options_that_make_no_sense(checkpoint):
    with pytest.raises(UsageError, match="float99"):
        plan_rewrite(checkpoint, dtype="float99")


def test_keys_that_are_no_text_are_dropped(tmp_path):
    torch.save({1: torch.ones(1), "a": torch.ones(1)}, tmp_path / "in.pth")
    plan = plan_rewrite(read(tmp_path / "in.pth"))
    assert [(drop.key, drop.why) for drop in plan.dropped] == [("1", "its key is no text")]


@dataclass(frozen=True)
class Op:
    operation: str
    dims: tuple[int, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...] = ()


def op(operation, dims, sources, targets, *shapes, sizes=()):
    return Op(operation, dims, tuple(sources.split()), tuple(targets.split()), shapes, sizes)


# name → (operation, what torch makes of the state dict, whether values must be gathered)
OPERATIONS = {
    "concat": (op("concat", (0,), "a b", "ab", (10, 6)), lambda s: [torch.cat([s["a"], s["b"]])], False),
    "concat of columns": (
        op("concat", (-1,), "a a2", "ab", (4, 12)), lambda s: [torch.cat([s["a"], s["a2"]], 1)], True),
    "split": (
        op("split", (0,), "b", "x y", (2, 6), (4, 6), sizes=(2, 4)), lambda s: [s["b"][:2], s["b"][2:]], False),
    "split of columns": (
        op("split", (1,), "b", "x y", (6, 2), (6, 4), sizes=(2, 4)), lambda s: [s["b"][:, :2], s["b"][:, 2:]], True),
    "stack": (op("stack", (0,), "a a2", "aa", (2, 4, 6)), lambda s: [torch.stack([s["a"], s["a2"]])], False),
    "unstack": (op("unstack", (0,), "b", "0 1 2 3 4 5", *[(6,)] * 6), lambda s: list(s["b"]), False),
    "transpose": (op("transpose", (0, 1), "a", "t", (6, 4)), lambda s: [s["a"].t()], True),
    "reshape": (op("reshape", (24,), "a", "r", (24,)), lambda s: [s["a"].reshape(24)], False),
    "reshape of a view": (op("reshape", (24,), "v", "r", (24,)), lambda s: [s["v"].reshape(24)], True),
    "unsqueeze": (op("unsqueeze", (0,), "a", "u", (1, 4, 6)), lambda s: [s["a"][None]], False),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("out", ["out.pth", "out.safetensors"])
@pytest.mark.parametrize("dtype", ["", "float16"])
def test_operations_make_tensors_of_tensors(tmp_path, name, out, dtype):
    operation, wanted, needs_torch = OPERATIONS[name]
    state = {"a": torch.randn(4, 6), "a2": torch.randn(4, 6), "b": torch.randn(6, 6), "v": torch.randn(6, 4).t()}
    state["z"] = torch.ones(1)
    write(state, tmp_path / "in.pth")
    output = output_of(str(tmp_path / out))
    used = set(operation.sources)
    plan = plan_rewrite(
        read(tmp_path / "in.pth"),
        format=output.format,
        keep=[*used, "z"],
        operations=lambda shapes: [operation],
        dtype=dtype,
    )
    job = prepare(plan, output)
    assert computed(job.layout) == (needs_torch or bool(dtype))
    execute(job, verify_bytes=True, fsync=False)
    found = load(tmp_path / out)
    expected = {**dict(zip(operation.targets, wanted(state), strict=True)), "z": state["z"]}
    assert set(found) == set(expected)
    assert all(same(found[key], value.to(torch.float16) if dtype else value) for key, value in expected.items())


CHAINS = {
    "experts stacked and joined": (
        ["stack(0): {n}.up -> up", "stack(0): {n}.gate -> gate", "concat(1): gate, up -> gate_up"],
        lambda s: {"gate_up": torch.cat([torch.stack([s[f"{n}.{name}"] for n in range(3)]) for name in ("gate", "up")],
                                        1)}),
    "joined and cut elsewhere": (
        ["concat(0): 0.up, 1.up, 2.up -> all", "split(0; 5, 7): all -> x, y"],
        lambda s: dict(zip("xy", torch.cat([s[f"{n}.up"] for n in range(3)]).split([5, 7]), strict=True))),
    "turned, then joined with one that is not": (
        ["transpose(0, 1): 0.up -> t", "reshape(6, 4): 1.up -> r", "concat(-1): t, r, square -> all",
         "unsqueeze(0): all -> all1"],
        lambda s: {"all1": torch.cat([s["0.up"].t(), s["1.up"].reshape(6, 4), s["square"]], 1)[None]}),
    "three deep": (
        ["concat(0): 0.up, 1.up -> a", "concat(0): 2.up, 2.gate -> b",
         "transpose(0, 1): a -> at", "transpose(0, 1): b -> bt", "concat(0): at, bt -> ab", "stack(0): {n}.q -> q",
         "split(0): ab -> 0.r, 1.r", "stack(1): {n}.r -> r"],
        lambda s: {"r": torch.stack(torch.cat([torch.cat([s["0.up"], s["1.up"]]).t(),
                                               torch.cat([s["2.up"], s["2.gate"]]).t()]).chunk(2), 1)}),
    "a name that becomes free": (
        ["transpose(0, 1): square -> turned", "transpose(0, 1): 0.up -> square"],
        lambda s: {"turned": s["square"].t(), "square": s["0.up"].t()}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_operations_take_what_earlier_ones_made(tmp_path, name, dtype):
    texts, wanted = CHAINS[name]
    rules = [parse_tensor_rule(text) for text in texts]
    state = {f"{n}.{which}": torch.randn(4, 6) for n in range(3) for which in ("up", "gate")}
    state["square"] = torch.randn(6, 6)
    write(state, tmp_path / "in.safetensors")
    plan = plan_rewrite(
        read(tmp_path / "in.safetensors"), operations=lambda shapes: plan_operations(rules, shapes), dtype=dtype
    )
    execute(prepare(plan, output_of(f"{tmp_path}/out.safetensors")), verify_bytes=True, fsync=False)
    found = load(tmp_path / "out.safetensors")
    made = wanted(state)
    assert all(same(found[key], value.to(torch.bfloat16) if dtype else value) for key, value in made.items())
    for key, value in found.items():
        assert key in made or same(value, state[key].to(value.dtype))


def test_tensors_of_two_dtypes_are_not_joined(tmp_path):
    write({"a": torch.ones(2), "b": torch.ones(2).half()}, tmp_path / "in.pth")
    operation = Op("concat", (0,), ("a", "b"), ("ab",), ((4,),))
    with pytest.raises(UsageError, match="different dtypes: float16, float32"):
        plan_rewrite(read(tmp_path / "in.pth"), operations=lambda shapes: [operation])


def test_a_dry_run_knows_everything(tmp_path, checkpoint):
    plan = plan_rewrite(checkpoint, dtype="bfloat16", drop=["optim.*"])
    job = prepare(plan, output_of(f"{tmp_path}/out", sharded=True), shard_size=parse_size("24B"))
    assert [file.name for file in job.layout.files] == [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert job.layout.nbytes == 4 * 6 * 2
    assert plan.converted[0] == ("module.conv.weight", "float32", "bfloat16")
    plain = prepare(plan_rewrite(checkpoint), output_of(f"{tmp_path}/out.pth"))
    assert {one.file for block in plain.layout.blocks for one in block.ranges} == {checkpoint.path}
    assert plain.layout.copied == plain.layout.nbytes
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.pth"]


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("2GiB", 2 << 30), ("1.5 MB", 1_500_000), ("77", 77), ("3k", 3000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5 parsecs", "-1", "0", "1e3"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 1), (0, 2), (), (4,)])
def test_contiguity_is_torchs(shape):
    value = torch.empty(shape)
    assert is_contiguous(shape, value.stride())
    if len(shape) > 1:
        assert is_contiguous(tuple(value.mT.shape), value.mT.stride()) == value.mT.is_contiguous()


@pytest.mark.filterwarnings("ignore")  # torch's own, about writing without a process group
def test_a_distributed_checkpoint_is_to_be_joined_first(tmp_path):
    import torch.distributed.checkpoint as dcp

    dcp.save({"a": torch.ones(3)}, checkpoint_id=tmp_path / "dcp")
    with pytest.raises(CheckpointError, match="tensors lie in pieces") as caught:
        prepare(plan_rewrite(read(tmp_path / "dcp")), output_of(f"{tmp_path}/out.safetensors"))
    assert "dcp_to_torch" in caught.value.hint


def test_a_remote_file_is_to_be_downloaded_first(checkpoint):
    storages = {key: info.storage._replace(file="https://host/in.pth") for key, info in checkpoint.tensors.items()}
    entries = {key: info._replace(storage=storages[key]) for key, info in checkpoint.tensors.items()}
    with pytest.raises(CheckpointError, match=r"https://host/in\.pth is no local file"):
        prepare(plan_rewrite(replace(checkpoint, entries=entries)), output_of("out.safetensors"))
