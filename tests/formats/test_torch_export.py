"""Programs of torch.export: their weights and constants, held against torch.export.load."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.checkpoint import read
from ckptdiff.claimed.here import devices_of
from ckptdiff.errors import CheckpointError
from ckptdiff.loaders.torch.restoring import refusal
from ckptdiff.tensors import SavedOn, TensorInfo
from tests.contents.reading import tensor_bytes

OF_A_GPU = Path(__file__).parent / "saved_on_gpu" / "exported.pt2"
NEW = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export warns of whatever it imports


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l, self.bn = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.register_buffer("np", torch.ones(2), persistent=False)
        self.c = torch.arange(4.0)
        self.w = nn.Parameter(torch.ones(3, 2).half().t())
        self.tied = self.l.weight
        self.register_buffer("v", torch.arange(10.0)[2:5])
        self.register_buffer("e", torch.zeros(0))
        self.register_buffer("s", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums = self.np.sum() + self.w.sum() + self.tied.sum() + self.v.sum() + self.e.sum() + self.s
        return self.bn(self.l(x)) + self.c + sums


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not NEW:
        pytest.skip("this torch saves programs in the older format")
    path: Path = tmp_path_factory.mktemp("export") / "net.pt2"
    torch.manual_seed(0)
    torch.export.save(torch.export.export(Net().eval(), (torch.ones(2, 3),)), path)
    return path


def test_a_program_of_a_gpu() -> None:
    checkpoint = read(OF_A_GPU)
    assert (checkpoint.format, checkpoint.state_dict_key) == ("torch-export", "weights")
    assert {key: (t.shape, t.dtype, t.device, t.type_name) for key, t in checkpoint.tensors.items()} == {
        "0.weight": ((4, 4), "float32", "cuda:0", "torch.nn.parameter.Parameter"),
        "0.bias": ((4,), "float32", "cuda:0", "torch.nn.parameter.Parameter"),
    }
    assert checkpoint.saved_on == (SavedOn("cuda:0", "export"),)
    assert bytes(tensor_bytes(checkpoint, "0.bias")) == b"0v\xcb=\x08\x83\xde\xbe\xcc'y>p!C\xbe"


@pytest.mark.skipif(devices_of("cuda") > 0 or not NEW, reason="it loads where there is a GPU")
def test_it_raises_where_there_is_none() -> None:
    with pytest.raises((AssertionError, RuntimeError)) as raised:
        torch.export.load(OF_A_GPU)
    assert refusal(read(OF_A_GPU)) == f"{type(raised.value).__name__}: {raised.value}"
    report = ckptdiff.compare(nn.Sequential(nn.Linear(4, 4)), OF_A_GPU)
    assert report.loads()
    assert [finding.arguments["call"] for finding in report.findings] == ["torch.export.load(path)"]


def test_weights_and_constants_are_those_of_torch(saved: Path, tmp_path: Path) -> None:
    program = torch.export.load(saved)
    for key, expected in (("weights", program.state_dict), ("constants", program.constants)):
        checkpoint = read(saved, key=key)
        assert list(checkpoint.entries) == list(expected)
        for name, value in expected.items():
            entry = checkpoint.entries[name]
            assert isinstance(entry, TensorInfo)
            assert (entry.shape, entry.strides, entry.offset) == (
                tuple(value.shape), tuple(value.stride()), value.storage_offset(),
            )  # fmt: skip
            assert f"torch.{entry.dtype}" == str(value.dtype)
        ckptdiff.rewrite(saved, tmp_path / "out.pth", key=key, force=True)
        written = torch.load(tmp_path / "out.pth")
        assert all(torch.equal(written[name], value) for name, value in expected.items())
    assert read(saved).state_dict_key == "weights"
    assert read(saved).saved_on == ()
    storages = {key: tensor.storage for key, tensor in read(saved).tensors.items()}
    assert storages["tied"] == storages["l.weight"]
    assert ckptdiff.compare(Net(), saved).loads()


@pytest.mark.parametrize("name", ["serialized_state_dict.pt", "program/data/weights/model.pt"])
def test_the_older_formats(name: str, tmp_path: Path) -> None:
    torch.save({"l.weight": torch.ones(2, 2)}, tmp_path / "w.pt")
    torch.save({"c": torch.ones(2)}, tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr(name, (tmp_path / "w.pt").read_bytes())
        archive.writestr("serialized_constants.pt", (tmp_path / "c.pt").read_bytes())
        archive.writestr("program/archive_format", "pt2")
    assert list(read(tmp_path / "old.pt2").tensors) == ["l.weight"]
    assert list(read(tmp_path / "old.pt2", key="serialized_constants.pt").tensors) == ["c"]


def changed(path: Path, config: Callable[[Any], Any] = lambda _: None, **records: bytes | None) -> Path:
    """The program of a GPU with another configuration of its weights, and other records by the end of their name."""
    with zipfile.ZipFile(OF_A_GPU) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data: bytes | None = source.read(name)
            assert data is not None
            if name.endswith("model_weights_config.json"):
                content = json.loads(data)
                config(content["config"])
                data = json.dumps(content).encode()
            data = records.get(name.rpartition("/")[2].partition(".")[0], data)
            if data is not None:
                target.writestr(name, data)
    return path


def tensor(config: Any) -> Any:
    return config["0.weight"]["tensor_meta"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: tensor(config).update(sizes=[{"as_int": 1 << 40}, {"as_int": 4}]),
            "needs .* bytes of a storage",
        ),
        (lambda config: tensor(config).update(sizes=[{"as_int": -1}, {"as_int": 4}]), "makes no sense"),
        (lambda config: tensor(config).update(sizes=[{"as_expr": {"expr_str": "s0"}}]), "makes no sense"),
        (lambda config: tensor(config).update(sizes=[{"as_int": True}, {"as_int": 4}]), "makes no sense"),
        (lambda config: tensor(config).update(sizes=[{"as_int": 1}] * 5000), "makes no sense"),
        (lambda config: tensor(config).update(strides=[{"as_int": 1}]), "another number of strides"),
        (lambda config: tensor(config).update(storage_offset={"as_int": 1 << 50}), "needs .* bytes of a storage"),
        (lambda config: tensor(config).update(dtype=99), "a dtype that is not known"),
        (lambda config: tensor(config).update(dtype="float"), "a dtype that is not known"),
        (lambda config: tensor(config).update(device={"type": "../x", "index": 0}), "makes no sense"),
        (lambda config: config["0.weight"].update(path_name="../../etc/passwd"), "is not in it"),
        (lambda config: config["0.weight"].update(path_name="weight_7"), "is not in it"),
        (lambda config: config["0.weight"].update(path_name=7), "makes no sense"),
        (lambda config: config.update({"0.weight": []}), "makes no sense"),
        (lambda config: config["0.weight"].pop("tensor_meta"), "makes no sense"),
    ],
)
def test_hostile_configurations(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as raised:
        read(changed(tmp_path / "bad.pt2", change))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"weight_0": b"\0" * 63}, "no multiple of an element"),
        ({"weight_0": b"\0" * 60}, "needs 64 bytes of a storage of 60"),
        ({"weight_0": b""}, "needs 64 bytes of a storage of 0"),
        ({"weight_0": None}, "is not in it"),
        ({"model_weights_config": b"[" * 100_000}, "makes no sense|more than any program"),
        ({"model_weights_config": b"\xff\xfe"}, "is no text"),
        ({"model_weights_config": b'{"config": {"a": null}}'}, "makes no sense"),
        ({"model_weights_config": None}, "is not in it"),
        ({"archive_format": b"pt3"}, "is not pt2"),
        ({"model": None}, "compiled code"),
    ],
)
def test_damaged_archives(records: dict[str, bytes | None], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(changed(tmp_path / "bad.pt2", **records))


def test_what_is_pickled_is_described_and_never_run(tmp_path: Path) -> None:
    """A subclass of Tensor lies there as a pickle, a custom object as whatever it is."""

    def config(entries: Any) -> None:
        entries["0.weight"]["use_pickle"] = True
        entries["0.bias"]["tensor_meta"] = None

    path = changed(tmp_path / "pickled.pt2", config, weight_0=b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    checkpoint = read(path)
    entry = checkpoint.entries["0.weight"]
    assert isinstance(entry, TensorInfo)
    assert (entry.shape, entry.storage) == ((4, 4), None)
    assert not isinstance(checkpoint.entries["0.bias"], TensorInfo)
    assert not Path("/tmp/never").exists()
