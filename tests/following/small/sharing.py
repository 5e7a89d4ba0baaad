"""Loaders that let other code at the memory of tensors, by DLPack or as a buffer: `load(model, path)`."""

from __future__ import annotations

import types

import numpy as np
import torch
from torch.utils import dlpack


def _weight(p):
    return torch.load(p)["second.weight"]


def _own(m):
    return m.second.weight.data


class _Exchanged:
    def __init__(self, tensor, *, by_capsule=False):
        self.tensor = tensor
        self.by_capsule = by_capsule

    def __dlpack__(self, **_):
        return dlpack.to_dlpack(self.tensor) if self.by_capsule else self.tensor.__dlpack__()

    def __dlpack_device__(self):
        return 1, 0


class _Interface:
    def __init__(self, tensor):
        self.__array_interface__ = tensor.numpy().__array_interface__


def array_of_the_file(m, p):
    _own(m).copy_(torch.from_numpy(np.from_dlpack(_weight(p))))


def array_computed_with(m, p):
    _own(m).copy_(torch.from_numpy(np.from_dlpack(_weight(p)) * 2 + 1))


def array_of_its_own(m, p):
    np.from_dlpack(_own(m))[:] = _weight(p).numpy()


def array_of_its_own_then_a_constant(m, p):
    m.load_state_dict(torch.load(p))
    np.from_dlpack(_own(m))[0] = 3


def constant_by_an_array_from_before(m, p):
    taken = np.from_dlpack(_own(m))
    m.load_state_dict(torch.load(p))
    taken[0] = 3


def in_place_by_an_array(m, p):
    m.load_state_dict(torch.load(p))
    taken = np.from_dlpack(_own(m))
    taken *= 2


def tensor_of_its_own(m, p):
    torch.from_dlpack(_own(m)).copy_(_weight(p))


def tensor_over_an_array(m, p):
    taken = torch.from_dlpack(np.from_dlpack(_own(m)))
    taken.copy_(_weight(p))
    taken[0] = 0


def tensor_by_a_capsule(m, p):
    m.load_state_dict(torch.load(p))
    dlpack.from_dlpack(dlpack.to_dlpack(_own(m)))[0] = 3


def object_by_a_capsule(m, p):
    _own(m).copy_(torch.from_numpy(np.from_dlpack(_Exchanged(_weight(p), by_capsule=True))))


def object_that_passes_on(m, p):
    m.load_state_dict(torch.load(p))
    np.from_dlpack(_Exchanged(_own(m)))[0] = 3


def refused_with_a_gradient(m, p):
    try:
        np.from_dlpack(m.second.weight)
    except (RuntimeError, BufferError) as error:
        m.note = str(error)
    m.load_state_dict(torch.load(p))


def array_of_the_codes_own(m, p):
    own = np.from_dlpack(np.ones((16, 16), "f4"))
    m.load_state_dict(torch.load(p))
    _own(m).copy_(torch.from_numpy(own))


def asked_for_an_array_again(m, p):
    _own(m).copy_(torch.from_numpy(np.asarray(np.from_dlpack(_weight(p)))))


def a_number_of_an_array(m, p):
    m.scale.fill_(float(np.from_dlpack(_weight(p))[0, 0]))


def buffer_over_its_own(m, p):
    m.load_state_dict(torch.load(p))
    np.frombuffer(memoryview(_own(m).numpy()), "f4")[:4] = 2


def interface_over_its_own(m, p):
    np.asarray(_Interface(_own(m)))[:] = _weight(p).numpy()


def interface_then_a_constant(m, p):
    m.load_state_dict(torch.load(p))
    np.asarray(_Interface(_own(m)))[:2] = 1


def buffer_then_a_constant(m, p):
    m.load_state_dict(torch.load(p))
    memoryview(_own(m).numpy())[0, 0] = 5.0


def buffer_of_the_files_copied(m, p):
    state_dict = torch.load(p)
    memoryview(state_dict["second.weight"].numpy())[0, 0] = 5.0
    m.load_state_dict(state_dict)


def buffer_of_the_files_assigned(m, p):
    state_dict = torch.load(p)
    memoryview(state_dict["second.weight"].numpy())[0, 0] = 5.0
    m.load_state_dict(state_dict, assign=True)


def read_into_and_added_to(m, p):
    with open(p.parent / "raw.bin", "rb") as f:
        f.readinto(memoryview(_own(m).numpy()).cast("B"))
    _own(m).add_(1)


def read_into_half(m, p):
    with open(p.parent / "raw.bin", "rb") as f:
        f.readinto(memoryview(_own(m).numpy()).cast("B")[:512])


def read_into_and_written(m, p):
    with open(p.parent / "raw.bin", "rb") as f:
        f.readinto(memoryview(_own(m).numpy()).cast("B"))
    _own(m)[0] = 7


def merely_looked_at(m, p):
    state_dict = torch.load(p)
    m.note = float(state_dict["second.weight"].numpy().sum())
    m.load_state_dict(state_dict)
    m.note += _own(m).numpy().mean()


def by_turns(m, p):
    m.load_state_dict(torch.load(p))
    taken = _own(m).numpy()
    _own(m).mul_(2)
    taken[0] *= 3
    _own(m)[1] = _own(m)[0]


def row_by_row_by_turns(m, p):
    taken, weight = _own(m).numpy(), _weight(p).numpy()
    for at in range(16):
        taken[at] = weight[at]
        _own(m)[at] += 1


def storage_as_bytes_in_a_list(m, p):
    content = bytearray(_weight(p).untyped_storage().tolist())
    _own(m).copy_(torch.frombuffer(content, dtype=torch.float32).view(16, 16))


def storage_of_its_own_as_a_list(m, p):
    numbers = _own(m).storage().tolist()
    m.load_state_dict(torch.load(p))
    _own(m).copy_(torch.tensor(numbers).view(16, 16))


def storage_as_a_list_computed_with(m, p):
    _own(m).copy_(torch.tensor([number * 2 for number in _weight(p).storage().tolist()]).view(16, 16))


LOADERS = {
    name: function
    for name, function in list(globals().items())
    if isinstance(function, types.FunctionType) and function.__module__ == __name__ and not name.startswith("_")
}
