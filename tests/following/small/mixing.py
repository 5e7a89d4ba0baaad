"""Loaders that put numbers of their own, which they made of what they had looked at, beside elements of a file:
`load(model, path)`. Which of the elements keep the code's own values cannot be known."""

from __future__ import annotations

import types

import numpy as np
import torch


def _weight(p):
    return torch.load(p)["second.weight"]


def _number(weight):
    return float(weight[0, 0]) * 2


def _half(weight):
    found = np.zeros((16, 16))
    found[:8] = weight[:8]
    found[8:] = _number(weight)
    return found


def _put(m, array):
    m.second.weight.data.copy_(torch.from_numpy(array))


def cast(m, p):
    _put(m, _half(_weight(p).numpy()).astype("f4"))


def made_contiguous(m, p):
    _put(m, np.ascontiguousarray(_half(_weight(p).numpy()), dtype="f4"))


def computed_with(m, p):
    _put(m, _half(_weight(p).numpy()) * 2 + 1)


def flipped(m, p):
    _put(m, np.flip(_half(_weight(p).numpy())).copy())


def chosen_by_indices(m, p):
    _put(m, _half(_weight(p).numpy())[[*range(15, -1, -1)]])


def concatenated(m, p):
    weight = _weight(p).numpy()
    _put(m, np.concatenate([weight[:8], np.full((8, 16), _number(weight), "f4")]))


def where_of_arrays(m, p):
    weight = _weight(p).numpy()
    _put(m, np.where(np.arange(16)[:, None] < 8, weight, np.float32(_number(weight))))


def put_into_the_model(m, p):
    m.second.weight.data.numpy()[:] = _half(_weight(p).numpy())


def concatenated_tensors(m, p):
    weight = _weight(p)
    m.second.weight.data.copy_(torch.cat([weight[:8], torch.full((8, 16), _number(weight))]))


def padded(m, p):
    weight = _weight(p)
    m.second.weight.data.copy_(torch.nn.functional.pad(weight[:8], (0, 0, 0, 8), value=_number(weight)))


def where_of_tensors(m, p):
    weight = _weight(p)
    m.second.weight.data.copy_(torch.where(torch.arange(16)[:, None] < 8, weight, _number(weight)))


def full_of_it_at_first(m, p):
    weight = _weight(p)
    found = torch.full_like(weight, _number(weight))
    found[:8] = weight[:8]
    m.second.weight.data = found.double().float()


def nothing_beside_them(m, p):
    """No number goes in, for all that was looked at: rows of the file, and rows of nothing."""
    weight = _weight(p)
    assert _number(weight) == _number(weight)
    m.second.weight.data.copy_(torch.cat([weight[:8], torch.zeros(8, 16)]))


def all_of_the_file(m, p):
    """A number goes in, and none of the code's own is left."""
    weight = _weight(p)
    m.second.weight.data.copy_(torch.cat([weight[:8], weight[:8] * _number(weight)]))


LOADERS = {
    name: function
    for name, function in list(globals().items())
    if isinstance(function, types.FunctionType) and function.__module__ == __name__ and not name.startswith("_")
}
