"""What a pickle or an archive may say in a way of its own: it is read as torch reads it, or refused, or told."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptdiff import compare
from ckptdiff import filter as ckptdiff_filter
from ckptdiff.checkpoint import Checkpoint, read
from ckptdiff.errors import CheckpointError
from ckptdiff.loaders.torch.answer import loads
from ckptdiff.loaders.torch.witness import confirm
from tests.contents.reading import tensor_bytes

REFUSED = (RuntimeError, ValueError, IndexError, AssertionError, pickle.UnpicklingError)


def records(value: object, **options: Any) -> dict[str, bytes]:
    """The records of what torch.save writes, by their names without the folder."""
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    with zipfile.ZipFile(stream) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(contents: Mapping[str, bytes], folder: str = "archive/", comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            archive.writestr(folder + name, content)
        archive.comment = comment
    return stream.getvalue()


W = {"w": torch.arange(4.0)}


def both(path: Path, data: bytes) -> tuple[dict[str, Any], Checkpoint]:
    """What torch loads of these bytes, and what is read of them."""
    path.write_bytes(data)
    return torch.load(path, weights_only=True), read(path)


def refused_by_both(path: Path, data: bytes, sentence: str) -> None:
    path.write_bytes(data)
    with pytest.raises(REFUSED):
        torch.load(path, weights_only=True)
    with pytest.raises(CheckpointError, match=sentence):
        read(path)


def same_values(loaded: dict[str, Any], checkpoint: Checkpoint) -> None:
    assert list(checkpoint.entries) == list(loaded)
    for key, tensor in loaded.items():
        assert tensor_bytes(checkpoint, key) == tensor.contiguous().numpy().tobytes()


# The archive


@pytest.mark.parametrize("name", ["data/0", "data.pkl", "byteorder", "version"])
def test_names_of_records_are_found_whatever_their_case(name: str, tmp_path: Path) -> None:
    contents = {
        (key.upper() if key == name else key): b"big" if key == "byteorder" else content
        for key, content in records(W).items()
    }
    loaded, checkpoint = both(tmp_path / "w.pth", packed(contents))
    same_values(loaded, checkpoint)
    assert checkpoint.byteorder == "big"


def test_two_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(packed({**records(W), "DATA/0": bytes(16)}))
    with pytest.raises(CheckpointError, match="names that differ in nothing but case"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize("version", ["1", "10", " 3", "+3", "3abc", "3\n"])
def test_versions_that_torch_reads(version: str, tmp_path: Path) -> None:
    same_values(*both(tmp_path / "w.pth", packed({**records(W), "version": version.encode()})))


@pytest.mark.parametrize("version", ["0", "11", "999", "-1", "", "x", "\0003", "9" * 30])
def test_versions_that_torch_refuses(version: str, tmp_path: Path) -> None:
    data = packed({**records(W), "version": version.encode()})
    refused_by_both(tmp_path / "w.pth", data, "torch.load refuses its file format version .*, since it reads 1 to 10")


def test_an_archive_without_version_or_folder(tmp_path: Path) -> None:
    contents = records(W)
    refused_by_both(tmp_path / "w.pth", packed(contents, folder=""), "not one that torch.save wrote")
    del contents["version"]
    refused_by_both(tmp_path / "w.pth", packed(contents), "it has no record called 'version'")
    same_values(*both(tmp_path / "w.pth", packed({**contents, ".data/version": b"3"})))


@pytest.mark.parametrize("size", [8, 15, 17, 32])
def test_a_record_of_another_size_than_its_storage(size: int, tmp_path: Path) -> None:
    data = packed({**records(W), "data/0": bytes(size)})
    sentence = f"storage '0' has {size} bytes and should have 16"
    if torch.__version__ >= "2.6":  # before, torch gave such a tensor other bytes, or none of its own
        refused_by_both(tmp_path / "w.pth", data, sentence)
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=sentence):
        read(tmp_path / "w.pth")


def test_an_encrypted_record(tmp_path: Path) -> None:
    data = bytearray(packed(records(W)))
    for match in re.finditer(rb"PK\x01\x02", bytes(data)):
        data[match.start() + 8] |= 1
    refused_by_both(tmp_path / "w.pth", bytes(data), "a record in it is encrypted")


@pytest.mark.parametrize("comment", [b"PK\5\6", b"x" * 9 + b"PK\5\6" + b"y" * 17, b"PK\5\6PK\6\7" + b"z" * 9])
def test_a_comment_that_holds_part_of_an_end_record(comment: bytes, tmp_path: Path) -> None:
    same_values(*both(tmp_path / "w.pth", packed(records(W), comment=comment)))


def test_a_zip64_record_counts_before_a_complete_end_record(tmp_path: Path) -> None:
    """Two archives in one file: the 32-bit record names the one, the zip64 record the other."""
    first = packed(records(W))
    end = first.rindex(b"PK\5\6")
    second = packed(records({"other": torch.arange(4.0) + 9}))
    directory = second.index(b"PK\1\2")
    size, count = second.rindex(b"PK\5\6") - directory, second.count(b"PK\1\2")
    central = bytearray(second[directory : directory + size])
    for match in re.finditer(rb"PK\x01\x02", bytes(central)):
        at = match.start() + 42
        central[at : at + 4] = (int.from_bytes(central[at : at + 4], "little") + end).to_bytes(4, "little")
    body = first[:end] + second[:directory]
    record = b"PK\6\6" + (44).to_bytes(8, "little") + bytes(4) + bytes(8) + count.to_bytes(8, "little") * 2
    record += size.to_bytes(8, "little") + len(body).to_bytes(8, "little")
    locator = b"PK\6\7" + bytes(4) + (len(body) + size).to_bytes(8, "little") + (1).to_bytes(4, "little")
    loaded, checkpoint = both(tmp_path / "w.pth", body + bytes(central) + record + locator + first[end:])
    assert list(loaded) == ["other"]
    same_values(loaded, checkpoint)


def test_a_locator_that_points_at_no_record_is_passed_over(tmp_path: Path) -> None:
    data = packed(records(W))
    end = data.rindex(b"PK\5\6")
    locator = b"PK\6\7" + bytes(12) + (1).to_bytes(4, "little")
    same_values(*both(tmp_path / "w.pth", data[:end] + bytes(60) + locator + data[end:]))


# The pickle


def program(change: Callable[[bytes], bytes], value: object = W) -> bytes:
    contents = records(value)
    changed = change(contents["data.pkl"])
    assert changed != contents["data.pkl"]
    return packed({**contents, "data.pkl": changed})


def test_integers_as_the_names_of_storages(tmp_path: Path) -> None:
    data = program(lambda pickled: pickled.replace(b"X\1\0\0\0000q", b"K\0q"))
    same_values(*both(tmp_path / "w.pth", data))


def test_a_shape_and_strides_as_lists(tmp_path: Path) -> None:
    data = program(lambda pickled: pickled.replace(b"K\4\x85q", b"]K\4aq").replace(b"K\1\x85q", b"]K\1aq"))
    same_values(*both(tmp_path / "w.pth", data))


def test_a_storage_by_two_names_is_refused(tmp_path: Path) -> None:
    two = {"a": torch.arange(4.0), "b": torch.arange(4.0)}
    contents = records(two)
    pickled = contents["data.pkl"].replace(b"X\1\0\0\0001q", b"K\0q")
    (tmp_path / "w.pth").write_bytes(packed({**contents, "data.pkl": pickled}))
    with pytest.raises(CheckpointError, match="two names for the storage '0'"):
        read(tmp_path / "w.pth")


class Built:
    """Pickles as a call, and then a BUILD with the state."""

    def __init__(self, call: tuple[Any, ...], state: object) -> None:
        self.call = (*call, state)

    def __reduce__(self) -> Any:
        return self.call


def tensor_of(values: torch.Tensor) -> tuple[Any, ...]:
    return torch._utils._rebuild_tensor_v2, (
        values.storage(), 0, tuple(values.shape), values.stride(), False, OrderedDict()
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tensor_set_to_another_storage_after_it_was_built(tmp_path: Path) -> None:
    state = (torch.arange(6.0).storage(), 2, (2, 2), (2, 1))
    path = tmp_path / "w.pth"
    torch.save({"w": Built(tensor_of(torch.zeros(3)), state)}, path)
    loaded, checkpoint = both(path, path.read_bytes())
    assert loaded["w"].tolist() == [[2, 3], [4, 5]]
    assert checkpoint.tensors["w"].shape == (2, 2)
    same_values(loaded, checkpoint)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_parameter_of_the_first_torch(tmp_path: Path) -> None:
    """A Variable's state was data, gradient, hooks, requires_grad, volatile."""
    call = (torch._utils._rebuild_parameter, (torch.zeros(3), True, OrderedDict()))
    path = tmp_path / "w.pth"
    torch.save({"w": Built(call, (torch.arange(6.0), None, OrderedDict(), True, False))}, path)
    loaded, checkpoint = both(path, path.read_bytes())
    assert loaded["w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert checkpoint.tensors["w"].shape == (6,)
    assert tensor_bytes(checkpoint, "w") == loaded["w"].detach().numpy().tobytes()


@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("how", ["parameter", "type"])
def test_a_state_that_sets_the_data_is_refused(slots: bool, how: str, tmp_path: Path) -> None:
    attributes = {"data": torch.arange(6.0)}
    state = ({}, attributes) if slots else attributes

    class Call:
        def __reduce__(self) -> Any:
            if how == "parameter":
                return torch._utils._rebuild_parameter_with_state, (torch.zeros(3), True, OrderedDict(), state)
            arguments = (torch.zeros(3), True, OrderedDict())
            kind = torch.nn.Parameter
            return torch._tensor._rebuild_from_type_v2, (torch._utils._rebuild_parameter, kind, arguments, state)

    torch.save({"w": Call()}, tmp_path / "w.pth")
    assert torch.load(tmp_path / "w.pth", weights_only=True)["w"].shape == (6,)
    with pytest.raises(CheckpointError, match="cannot be read as torch would: a tensor's state sets 'data'"):
        read(tmp_path / "w.pth")


def with_attributes(**attributes: object) -> OrderedDict[str, torch.Tensor]:
    state = OrderedDict(w=torch.ones(2))
    state.__dict__.update(attributes)
    return state


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"_metadata": [1]}, "_metadata is list, and load_state_dict needs a dict"),
        ({"_metadata": 5}, "_metadata is int, and load_state_dict needs a dict"),
        ({"_metadata": {"": 5}}, "_metadata of '' is int, and load_state_dict needs a dict"),
        ({"_metadata": {"": None}}, "_metadata of '' is NoneType, and load_state_dict needs a dict"),
        ({"keys": 5}, "the state dict has an attribute that hides its own keys"),
        ({"_metadata": with_attributes(get=5)}, "_metadata has an attribute that hides its own get"),
    ],
)
def test_metadata_that_load_state_dict_cannot_use(attributes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    torch.save(with_attributes(**attributes), tmp_path / "w.pth")
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises((AttributeError, TypeError)):
        model.load_state_dict(torch.load(tmp_path / "w.pth"))
    with pytest.raises(CheckpointError, match=sentence):
        read(tmp_path / "w.pth")


def test_attributes_are_those_of_every_build(tmp_path: Path) -> None:
    def change(pickled: bytes) -> bytes:
        return pickled[:-1] + b"}X\1\0\0\0aK\1sb."

    value = with_attributes(_metadata=OrderedDict({"": {"version": 2, "nested": {"a": (1, [None])}}}))
    loaded, checkpoint = both(tmp_path / "w.pth", program(change, value))
    assert vars(loaded) == {**vars(value), "a": 1}
    assert checkpoint.metadata == loaded._metadata  # type: ignore[attr-defined]


def test_nested_values_of_metadata_are_values(tmp_path: Path) -> None:
    module = torch.nn.utils.spectral_norm(torch.nn.Linear(2, 2))
    torch.save(module.state_dict(), tmp_path / "w.pth")
    assert read(tmp_path / "w.pth").metadata == module.state_dict()._metadata


# What torch.load refuses by default, for another reason than a global


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_protocols_that_weights_only_refuses(protocol: int, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(W, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    checkpoint = read(path)
    if protocol < 4:
        assert checkpoint.weights_only == ""
        return
    assert checkpoint.weights_only == "Unsupported operand 149"
    warned = pytest.warns(UserWarning, match="Detected pickle protocol")
    with pytest.raises(pickle.UnpicklingError, match=checkpoint.weights_only), warned:
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("pushed", "reason"),
    [
        (b"I1\n", "Unsupported operand 73"),
        (b"S'a'\n", "Unsupported operand 83"),
        (b"T\1\0\0\0a", "Unsupported operand 84"),
        (b"U\1a", ""),
        (b"\x8f", ""),
        (b"C\1a", "Unsupported operand 67"),
    ],
)
def test_opcodes_of_old_pickles(pushed: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(program(lambda pickled: pickled[:-1] + b"X\1\0\0\0x" + pushed + b"s."))
    assert read(path).weights_only == reason
    if reason:
        with pytest.raises(pickle.UnpicklingError, match=reason):
            torch.load(path, weights_only=True)
    else:
        torch.load(path, weights_only=True)


NO_STATE = "Can only build Tensor, Parameter, OrderedDict or types allowlisted"
ORDERED = b"ccollections\nOrderedDict\n)R"


@pytest.mark.parametrize(
    ("pushed", "reason"),
    [
        (b"X\1\0\0\0vNb", NO_STATE),
        (b"K\1Nb", NO_STATE),
        (b"]Nb", NO_STATE),
        (b"}Nb", NO_STATE),
        (b")Nb", NO_STATE),
        (b"NNb", NO_STATE),
        (ORDERED + b"Nb", "'NoneType' object is not iterable"),
        (ORDERED + b"}b", ""),
    ],
)
def test_states_that_set_nothing(pushed: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(program(lambda pickled: pickled[:-1] + b"X\1\0\0\0x" + pushed + b"s."))
    assert read(path).weights_only == reason
    torch.load(path, weights_only=False)
    if reason:
        # torch 2.4 has fewer words for it.
        told = reason if torch.__version__ >= "2.6" else reason[: len("Can only build Tensor")]
        with pytest.raises((pickle.UnpicklingError, TypeError), match=told):
            torch.load(path, weights_only=True)
    else:
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("pushed", [b"X\1\0\0\0v}b", b"K\1}b", b"]}b", b"}}b", b")}b", b"N}b", b"}}K\1K\1sb"])
def test_states_of_what_takes_none(pushed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(program(lambda pickled: pickled[:-1] + b"X\1\0\0\0x" + pushed + b"s."))
    for weights_only in (False, True):
        with pytest.raises((pickle.UnpicklingError, AttributeError)):
            torch.load(path, weights_only=weights_only)
    with pytest.raises(CheckpointError, match="makes no sense"):
        read(path)


@pytest.mark.parametrize("indices", [(1, 2), (0, 2), (2,), (1, 0), (2, 3)])
@pytest.mark.parametrize("values", [(2,), (2, 3), (), (0,), (3,)])
@pytest.mark.parametrize("size", [(2,), (2, 2), (2, 3), ()])
def test_the_shapes_of_a_sparse_tensors_parts(
    indices: tuple[int, ...], values: tuple[int, ...], size: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    given = (torch.sparse_coo, (torch.zeros(indices, dtype=torch.int64), torch.zeros(values), size))
    torch.save({"w": torch.ones(2), "x": _Rebuilt(given)}, path)
    try:
        shape = tuple(torch.load(path, weights_only=True)["x"].shape)
    except (RuntimeError, IndexError, pickle.UnpicklingError):
        with pytest.raises(CheckpointError, match="makes no sense"):
            read(path)
    else:
        assert read(path).tensors["x"].shape == shape


class _Rebuilt:
    def __init__(self, arguments: tuple[object, ...]) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, ...]:
        return torch._utils._rebuild_sparse_tensor, self.arguments


def test_a_plain_pickle_is_refused_by_both(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"w": torch.empty(2, device="meta")}, protocol=2))
    with pytest.raises(RuntimeError, match="Invalid magic number"):
        torch.load(path, weights_only=False)
    with pytest.raises(CheckpointError, match=r"written by pickle\.dump, and torch\.load cannot read it"):
        read(path)


# The legacy format


def test_legacy_storages_are_little_endian_whatever_the_system_info_says(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(W, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    at = data.index(b"little_endian")
    value = data.index(b"\x88", at)
    loaded, checkpoint = both(path, data[:value] + b"\x89" + data[value + 1 :])
    same_values(loaded, checkpoint)


@pytest.mark.parametrize("numel", [3, 5])
def test_a_legacy_storage_of_another_size(numel: int, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(W, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()[:-24] + numel.to_bytes(8, "little") + bytes(4 * numel)
    refused_by_both(path, data, f"storage .* has {numel} elements and should have 4")


def test_a_model_with_spectral_norm_loads_its_own_file(tmp_path: Path) -> None:
    """Its hooks look into the nested dicts of its metadata."""
    module = torch.nn.utils.spectral_norm(torch.nn.Linear(2, 2))
    torch.save(module.state_dict(), tmp_path / "w.pth")
    outcome = compare(module, tmp_path / "w.pth").outcome
    assert loads(outcome)
    assert not outcome.doubts
    confirm(outcome)
    ckptdiff_filter(module, tmp_path / "w.pth", tmp_path / "out.pth")
    assert torch.load(tmp_path / "out.pth")._metadata == module.state_dict()._metadata


@pytest.mark.parametrize("key", [None, ""])
def test_a_tensor_beside_the_state_dict_that_lies_outside_its_storage(key: str | None, tmp_path: Path) -> None:
    """torch.load builds all tensors, or none."""
    contents = records({"state_dict": {"a": torch.ones(2), "b": torch.ones(2)}, "optimizer": {"m": torch.arange(4.0)}})
    contents["data.pkl"] = contents["data.pkl"].replace(b"K\4\x85q", b"K\5\x85q")
    (tmp_path / "w.pth").write_bytes(packed(contents))
    with pytest.raises((RuntimeError, pickle.UnpicklingError), match="resiz"):
        torch.load(tmp_path / "w.pth", weights_only=True)
    with pytest.raises(CheckpointError, match="needs 20 bytes of a storage of 16"):
        read(tmp_path / "w.pth", key=key)
