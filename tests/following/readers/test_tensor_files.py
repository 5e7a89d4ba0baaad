"""Files of other kinds, and tensors taken out of them in other ways, are followed as well."""

from __future__ import annotations

import importlib.machinery
import math
import pickle
import sys
import types
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file
from torch.distributed.checkpoint.utils import _create_file_view as view_of

from ckptdiff.following.followed import ask, following
from ckptdiff.torch_private import tables_of_functions
from tests.following.oracle import Net, elements_from_file, followed, really, same_bits, state


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = []
    for seed in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"seed{seed}")
        tensors = state(seed)
        arrays = {key: value.numpy() for key, value in tensors.items()}
        np.savez(folder / "w.npz", **arrays)
        np.save(folder / "w.npy", arrays["second.weight"])
        (folder / "w.pkl").write_bytes(pickle.dumps({"a": arrays, "t": tensors["norm.bias"]}))
        save_file({key: value.clone() for key, value in tensors.items()}, folder / "w.safetensors")
        model = Net()
        model.load_state_dict(tensors)
        torch.save({"model": tensors, "ema": {"shadow": [tensors["second.weight"]]}}, folder / "w.pth")
        with warnings.catch_warnings():  # whichever test asks for them first
            warnings.simplefilter("ignore")
            torch.jit.trace(model.first, torch.ones(1, 8)).save(folder / "w.pt")
            dcp.save({"model": tensors, "epoch": 3}, checkpoint_id=folder / "dcp")
        made.append(folder)
    return made


def npz(model, folder):
    file = np.load(folder / "w.npz")
    model.load_state_dict({key: torch.from_numpy(np.asarray(file[key])) for key in file.files})


def npy(model, folder):
    model.second.weight.data.copy_(torch.from_numpy(np.load(folder / "w.npy")).t())


def npy_mapped(model, folder):
    model.second.weight.data[:3] = torch.from_numpy(np.load(folder / "w.npy", mmap_mode="r")[:3].copy())


def pickled(model, folder):
    with open(folder / "w.pkl", "rb") as file:
        content = pickle.load(file)
    model.load_state_dict({key: torch.as_tensor(value) for key, value in content["a"].items()})
    model.norm.bias.data.copy_(content["t"] * 2)


def torchscript(model, folder):
    model.first.load_state_dict(torch.jit.load(folder / "w.pt").state_dict())


def safe_opened(model, folder):
    with safe_open(filename=folder / "w.safetensors", framework="pt", device="cpu") as file:
        model.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118


def safe_sliced(model, folder):
    with safe_open(folder / "w.safetensors", "pt") as file:
        part = file.get_slice("second.weight")
        assert part.get_shape() == [16, 16]
        model.second.weight.data[:4] = part[4:8]
        model.second.weight.data[8:, :2] = part[:8, 3:5]


def safe_numpy(model, folder):
    with safe_open(folder / "w.safetensors", framework="np") as file:
        model.second.weight.data.copy_(torch.from_numpy(file.get_tensor("second.weight")))


def loaded_file(model, folder):
    model.load_state_dict(load_file(folder / "w.safetensors"))


def loaded_bytes(model, folder):
    model.load_state_dict(load((folder / "w.safetensors").read_bytes()))


def closed_handle(model, folder):
    with safe_open(folder / "w.safetensors", "pt") as file:
        pass
    file.get_tensor("second.weight")


def no_such_key(model, folder):
    with safe_open(folder / "w.safetensors", "pt") as file:
        file.get_tensor("third.weight")


def nested(model, folder):
    content = torch.load(folder / "w.pth", weights_only=True)
    model.load_state_dict(content["model"])
    model.second.weight.data.copy_(content["ema"]["shadow"][0])


def distributed(model, folder):
    wanted = {"model": model.state_dict(), "epoch": 0}
    dcp.load(wanted, checkpoint_id=folder / "dcp")
    assert wanted["epoch"] == 3


@pytest.mark.one_in(3)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "load",
    [
        npz, npy, npy_mapped, pickled, torchscript, safe_opened, safe_sliced, safe_numpy, loaded_file, loaded_bytes,
        closed_handle, no_such_key, nested, distributed,
    ],
)  # fmt: skip
def test_it_is_followed(load, folders):
    model = Net()
    truth = really(load, model, *folders)
    found, left = followed(load, model, folders[0])
    assert found.raised == truth.raised
    masks = elements_from_file(found, left)
    assert {key for key, mask in masks.items() if not torch.equal(mask, truth.from_file[key])} == set()
    for key, value in left.state_dict().items():
        assert same_bits(found.engine.value(value), truth.values[key]).all(), key


def test_a_source_is_the_file_and_the_path_in_it(folders):
    model = Net()
    fills = ask(nested, model, folders[0]).fills(model)
    assert fills["first.bias"].sources == (("w.pth", "model/first.bias"),)
    assert fills["second.weight"].sources == (("w.pth", "model/second.weight"),)  # the same memory, named first


@pytest.mark.filterwarnings("ignore")
def test_a_tensor_of_a_distributed_checkpoint_is_called_by_its_key_and_mapped(folders):
    model = Net()
    found = ask(distributed, model, folders[0])
    assert found.fills(model)["first.bias"].sources == (("__0_0.distcp", "model.first.bias"),)
    with following() as followed, open(folders[0] / "dcp" / ".metadata", "rb") as file:
        metadata = pickle.load(file)
        place = next(place for index, place in metadata.storage_data.items() if index.fqn == "model.second.weight")
        with open(folders[0] / "dcp" / place.relative_path, "rb") as file:
            loaded = torch.load(view_of(file, place.offset, place.length))
    assert followed.engine.sources(loaded) == {("__0_0.distcp", "model.second.weight")}
    assert torch.equal(loaded, state(1)["second.weight"])
    loaded.zero_()  # nor is the file written to
    distributed(model, folders[0])
    assert torch.equal(model.second.weight, state(1)["second.weight"])


def test_what_the_file_names_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"w": torch.ones(2), "config": Evil()}, tmp_path / "w.pth")
    model = torch.nn.Linear(2, 1, bias=False)

    def load(module, path):
        module.weight.data.copy_(torch.load(path, weights_only=False)["w"][None])

    assert ask(load, model, tmp_path / "w.pth").raised is None
    assert not (tmp_path / "written").exists()


def test_torch_is_as_before(folders):
    before = (
        torch.load,
        torch.load.__code__,
        torch.Tensor.numpy,
        safe_open,
        np.load.__code__,
        torch._C.PyTorchFileReader,
    )
    ask(nested, Net(), folders[0])
    after = torch.load, torch.load.__code__, torch.Tensor.numpy, safe_open, np.load.__code__, torch._C.PyTorchFileReader
    assert before == after
    assert "__signature__" not in vars(torch.load)
    assert not [name for name in vars(torch.serialization) if name.startswith("__ckptdiff")]


IMPORTED = """
import functools
from math import sqrt
from numpy import array, fromfile, zeros
from safetensors import safe_open
from torch import from_dlpack, from_numpy, frombuffer, tensor

partial = functools.partial(zeros, 3)
table = {"read": fromfile, "all": [array, from_numpy]}


class Reader:
    of_file = fromfile
    make = staticmethod(tensor)


def load(model, path, make=zeros):
    with safe_open(path / "w.safetensors", "pt") as file:
        model.second.weight.data = file.get_tensor("second.weight")
    made = make((16, 8), "f4")
    made[:] = array(model.second.weight.data)[:, :8]
    model.first.weight.data = from_numpy(made)
"""


@pytest.fixture
def imported():
    """A module that code imports while it is followed."""
    module = types.ModuleType("imported_meanwhile")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def test_what_code_imports_meanwhile_has_the_libraries_own_afterwards(imported, folders):
    exec_in = partial(exec, IMPORTED, vars(imported))
    assert ask(lambda _: exec_in(), folders[0]).raised is None
    assert (imported.tensor, imported.from_numpy, imported.frombuffer) == (
        torch.tensor,
        torch.from_numpy,
        torch.frombuffer,
    )
    assert (imported.array, imported.zeros, imported.fromfile) == (np.array, np.zeros, np.fromfile)
    assert (imported.sqrt, imported.safe_open, imported.from_dlpack) == (math.sqrt, safe_open, torch.from_dlpack)
    assert imported.partial.func is np.zeros
    assert imported.load.__defaults__ == (np.zeros,)
    assert imported.table == {"read": np.fromfile, "all": [np.array, torch.from_numpy]}
    assert imported.Reader.of_file is np.fromfile
    assert imported.Reader.make is torch.tensor or imported.Reader.make == torch.tensor
    for _ in range(2):  # imported before this run, and the one before
        found, left = followed(imported.load, Net(), folders[0])
        fills = found.fills(left)
        assert (fills["second.weight"].by, fills["first.weight"].by) == ("file", "file")


def test_a_device_as_a_context_is_as_before_inside_and_after(folders):
    torch.utils._device._device_constructors.cache_clear()

    def load(path):
        with torch.device("meta"):
            return torch.tensor([1.0]), torch.asarray([1.0])

    assert [made.device.type for made in ask(load, folders[0]).result] == ["meta", "meta"]
    assert [made.device.type for made in load(folders[0])] == ["meta", "meta"]


def test_torchs_tables_of_its_functions_hold_its_functions(folders):
    for table in tables_of_functions():
        table.cache_clear()
    ask(lambda path: [table() for table in tables_of_functions()], folders[0])
    assert torch.overrides.get_testing_overrides()[torch.tensordot]
    assert torch.tensor in torch.overrides.get_ignored_functions()


def read_by_hand(model, folder):
    header = (folder / "w.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    model.second.weight.data.copy_(
        torch.frombuffer(bytearray(header[8 + size :][:1024]), dtype=torch.float32).view(16, 16)
    )


def from_file_of_numbers(model, folder):
    numbers = np.fromfile(folder / "w.npy", dtype=np.float32)[-256:]
    model.second.weight.data.copy_(torch.from_numpy(numbers).view(16, 16))


@pytest.mark.parametrize(("load", "name"), [(read_by_hand, "w.safetensors"), (from_file_of_numbers, "w.npy")])
def test_bytes_of_a_file_are_known_for_what_they_are(load, name, folders):
    found, left = followed(load, Net(), folders[0])
    assert found.raised is None
    fills = found.fills(left)
    assert fills["second.weight"].sources[0][0] == name
    assert not [doubt for doubt in found.doubts(fills) if "second.weight" in doubt]


def test_a_look_into_a_file_that_a_reader_reads_too_is_none(folders):
    def looking(model, folder):
        with open(folder / "w.pth", "rb") as file:
            assert file.read(2) == b"PK"
        nested(model, folder)

    found, left = followed(looking, Net(), folders[0])
    assert found.raised is None
    assert not list(found.doubts(found.fills(left)))


def test_a_file_that_is_read_in_another_way_is_a_doubt(folders):
    def by_hand(model, folder):
        content = (folder / "w.npy").read_bytes()[-1024:]
        model.second.weight.data.copy_(torch.tensor(memoryview(content).cast("f").tolist()).view(16, 16))

    found, left = followed(by_hand, Net(), folders[0])
    fills = found.fills(left)
    assert fills["second.weight"].by == "initial"
    assert any("w.npy was opened by the code itself" in doubt for doubt in found.doubts(fills))


def then_by_hand(model, folder):
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it says of such a file
        torch.load(folder / "w.npy")
    from_file_of_numbers(model, folder)


@pytest.mark.filterwarnings("ignore")
def test_what_a_reader_opened_and_could_not_read_is_no_doubt(folders, tmp_path):
    data = (folders[0] / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data[: len(data) // 2])
    for read in (torch.load, torch.jit.load):
        found, _ = followed(lambda model, path, read=read: read(path), Net(), tmp_path / "w.pth")
        assert found.raised is not None
        assert not list(found.unread())
    found, left = followed(then_by_hand, Net(), folders[0])
    assert found.raised is None
    assert found.fills(left)["second.weight"].sources == (("w.npy", ""),)


def records(model, folder, of=torch, as_storage=False):
    """As Lightning and litgpt read lazily."""
    reader = of.PyTorchFileReader(str(folder / "w.pth"))
    keys = [key for key in reader.get_all_records() if key.startswith("data/")]
    key = max(keys, key=lambda key: len(reader.get_record(key)))  # that of second.weight
    if as_storage:
        made = reader.get_storage_from_record(key, 1024, torch.UntypedStorage).untyped_storage()
        values = torch.empty(0).set_(made, 0, (16, 16), (16, 1))
    else:
        values = torch.empty(0).set_(
            reader.get_storage_from_record(key, 256, torch.float32).untyped_storage(), 0, (16, 16)
        )
    model.second.weight.data.copy_(values)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("as_storage", [False, True])
@pytest.mark.parametrize("of", [torch, torch._C], ids=["torch", "torch._C"])
def test_single_records_of_a_file_are_followed_under_every_name(of, as_storage, folders):
    def load(model, folder):
        records(model, folder, of, as_storage)

    truth = really(load, Net(), *folders)
    found, left = followed(load, Net(), folders[0])
    assert found.raised is truth.raised is None
    masks = elements_from_file(found, left)
    assert truth.from_file["second.weight"].all()
    assert torch.equal(masks["second.weight"], truth.from_file["second.weight"])
