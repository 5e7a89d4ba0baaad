"""Loaders as people write them, one of each kind: `load(model, path)` on a .pth of `oracle.state`."""

# ruff: noqa: B905, F841, SIM105 - as people write them

from __future__ import annotations

import copy
import io
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from tests.following.oracle import Net

read = partial(torch.load, map_location="cpu")


def plain(m, p):
    return m.load_state_dict(torch.load(p))


def from_partial(m, p):
    return m.load_state_dict(read(p))


def default_argument(m, p, load=torch.load):
    return m.load_state_dict(load(p))


def not_strict(m, p):
    sd = torch.load(p)
    del sd["second.weight"]
    return m.load_state_dict(sd, strict=False)


def missing_raises(m, p):
    sd = torch.load(p)
    del sd["second.weight"]
    m.load_state_dict(sd)


def mismatch_raises(m, p):
    sd = torch.load(p)
    sd["second.weight"] = sd["second.weight"][:3]
    m.load_state_dict(sd)


def assigned(m, p):
    return m.load_state_dict(torch.load(p), assign=True)


def by_copy(m, p):
    sd = torch.load(p)
    with torch.no_grad():
        for k, v in m.state_dict().items():
            v.copy_(sd[k])


def by_data(m, p):
    sd = torch.load(p)
    for k, v in m.named_parameters():
        v.data = sd[k]


def by_data_copy(m, p):
    sd = torch.load(p)
    for k, v in m.named_parameters():
        v.data.copy_(sd[k])


def by_index(m, p):
    sd = torch.load(p)
    with torch.no_grad():
        for k, v in m.named_parameters():
            v[...] = sd[k]


def by_setattr(m, p):
    sd = torch.load(p)
    m.first.weight = nn.Parameter(sd["first.weight"])
    m.norm.running_mean = sd["norm.running_mean"]


def vocabulary_grown(m, p):
    sd = torch.load(p)
    w = sd["embed.weight"][:7]
    with torch.no_grad():
        m.embed.weight[:7] = w


def columns(m, p):
    sd = torch.load(p)
    with torch.no_grad():
        m.second.weight[:, ::3] = sd["second.weight"][:, ::3]


def columns_block(m, p):
    sd = torch.load(p)
    with torch.no_grad():
        m.second.weight.narrow(1, 4, 5).copy_(sd["second.weight"][:, :5])


def fused(m, p):
    sd = torch.load(p)
    q, k, v = sd["second.weight"].chunk(4)[:3]
    with torch.no_grad():
        m.second.weight[:12].copy_(torch.cat([q, k, v]))


def transposed(m, p):
    sd = torch.load(p)
    with torch.no_grad():
        m.second.weight.copy_(sd["second.weight"].t())


def cast(m, p):
    sd = {k: v.half() if v.is_floating_point() else v for k, v in torch.load(p).items()}
    m.load_state_dict(sd)


def renamed(m, p):
    sd = OrderedDict((k.replace("module.", ""), v) for k, v in torch.load(p).items())
    m.load_state_dict(sd)


def averaged(m, p):
    a, b = torch.load(p), torch.load(p)
    m.load_state_dict({k: (a[k] + b[k]) / 2 if a[k].is_floating_point() else a[k] for k in a})


def delta(m, p):
    sd = torch.load(p)
    with torch.no_grad():
        for k, v in m.named_parameters():
            v += sd[k]


def data_delta(m, p):
    m.load_state_dict(torch.load(p))
    for v in m.parameters():
        v.data += 1


def ema(m, p):
    m.load_state_dict(torch.load(p))
    other = copy.deepcopy(m)
    with torch.no_grad():
        for a, b in zip(m.parameters(), other.parameters()):
            a.mul_(0.9).add_(b, alpha=0.1)


def foreach(m, p):
    sd = torch.load(p)
    ps = list(m.parameters())
    names = [k for k, _ in m.named_parameters()]
    with torch.no_grad():
        torch._foreach_copy_(ps, [sd[k] for k in names])
        torch._foreach_mul_(ps, 2.0)


def lora(m, p):
    sd = torch.load(p)
    m.load_state_dict(sd)
    a, b = torch.full((2, 16), 0.5), torch.full((16, 2), 0.25)
    m.second.weight.data += (b @ a) * 2.0


def reinit_after(m, p):
    m.load_state_dict(torch.load(p))
    nn.init.normal_(m.second.weight)


def zero_after(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.zero_()
    m.first.weight.data[3:5] = 0


def head_after(m, p):
    m.load_state_dict(torch.load(p))
    m.head = nn.Linear(8, 3)


def swap(m, p):
    m.load_state_dict(torch.load(p))
    t = m.second.weight.data.clone()
    m.second.weight.data.copy_(t.flip(0))
    m.second.weight.data[0] = t[0]


def own_state(m, p):
    m.load_state_dict(torch.load(p))
    m.load_state_dict(m.state_dict())


def self_copy(m, p):
    m.load_state_dict(torch.load(p))
    w = m.second.weight.data
    w.copy_(w)
    w[:8].copy_(w[8:])


def write_into_file(m, p):
    sd = torch.load(p)
    sd["second.weight"][0] = 0
    sd["first.bias"].mul_(2)
    m.load_state_dict(sd)


def read_before_write(m, p):
    sd = torch.load(p)
    w = sd["second.weight"]
    twice = w * 2
    w.zero_()
    with torch.no_grad():
        m.second.weight.copy_(twice)


def chain(m, p):
    w = torch.load(p)["second.weight"]
    for _ in range(17):
        w = w / w.sum()
    m.second.weight.data.copy_(w)


def long_chain(m, p):
    w = torch.load(p)["second.weight"]
    for _ in range(300):
        w = w + 1
    m.second.weight.data.copy_(w)


def through_numpy(m, p):
    sd = {k: torch.from_numpy(v.numpy()) for k, v in torch.load(p).items()}
    m.load_state_dict(sd)


def numpy_computed(m, p):
    sd = torch.load(p)
    a = sd["second.weight"].numpy()
    m.second.weight.data.copy_(torch.from_numpy(np.ascontiguousarray(a.T) * 2))


def numpy_out(m, p):
    sd = torch.load(p)
    a = np.zeros((16, 16), np.float32)
    np.copyto(m.second.weight.data.numpy(), sd["second.weight"].numpy())


def numpy_part(m, p):
    sd = torch.load(p)
    m.second.weight.data.numpy()[:2] = sd["second.weight"].numpy()[:2]


def numpy_tensor(m, p):
    m.second.weight.data.copy_(torch.tensor(torch.load(p)["second.weight"].numpy()))


def as_tensor(m, p):
    m.second.weight.data = torch.as_tensor(torch.load(p)["second.weight"].numpy())


def stream(m, p):
    with open(p, "rb") as f:
        return m.load_state_dict(torch.load(f))


def bytes_io(m, p):
    with open(p, "rb") as f:
        return m.load_state_dict(torch.load(io.BytesIO(f.read())))


def mapped(m, p):
    return m.load_state_dict(torch.load(p, mmap=True))


def unsafe(m, p):
    return m.load_state_dict(torch.load(p, weights_only=False))


def map_function(m, p):
    return m.load_state_dict(torch.load(p, map_location=lambda s, loc: s))


def map_cuda(m, p):
    return m.load_state_dict(torch.load(p, map_location={"cuda:0": "cpu"}))


def thread(m, p):
    t = threading.Thread(target=lambda: m.load_state_dict(torch.load(p)))
    t.start()
    t.join()


def pool(m, p):
    sd = torch.load(p)

    def one(item):
        with torch.no_grad():
            item[1].copy_(sd[item[0]])

    with ThreadPoolExecutor(2) as ex:
        list(ex.map(one, m.named_parameters()))


def made_inside(m, p=None):
    m = Net()
    m.load_state_dict(torch.load(p))
    return m


def on_meta(m, p):
    with torch.device("meta"):
        m = Net()
    m.load_state_dict(torch.load(p), assign=True)
    return m


def to_empty(m, p):
    with torch.device("meta"):
        m = Net()
    m = m.to_empty(device="cpu")
    m.load_state_dict(torch.load(p))
    return m


def looked(m, p):
    sd = torch.load(p)
    if sd["norm.num_batches_tracked"] > 0:
        m.load_state_dict(sd)


def saved_again(m, p):
    m.load_state_dict(torch.load(p))
    b = io.BytesIO()
    torch.save(m.state_dict(), b)
    b.seek(0)
    other = Net()
    other.load_state_dict(torch.load(b))
    assert all(torch.equal(x, y) for x, y in zip(m.parameters(), other.parameters()))


def deep_copied(m, p):
    m.load_state_dict(torch.load(p))
    return copy.deepcopy(m)


def state_of_copy(m, p):
    n = copy.deepcopy(m)
    n.load_state_dict(torch.load(p))
    m.load_state_dict(n.state_dict())


def swapped(m, p):
    torch.utils.swap_tensors(m.second.weight, nn.Parameter(torch.load(p)["second.weight"]))


def parametrized(m, p):
    class Twice(nn.Module):
        def forward(self, x):
            return x * 2

        def right_inverse(self, x):
            return x / 2

    parametrize.register_parametrization(m.second, "weight", Twice())
    m.second.weight = torch.load(p)["second.weight"]


def set_storage(m, p):
    w = torch.load(p)["second.weight"]
    with torch.no_grad():
        m.second.weight.set_(w)


def untyped_copy(m, p):
    m.second.weight.untyped_storage().copy_(torch.load(p)["second.weight"].untyped_storage())


def zeros_like(m, p):
    m.second.weight.data.copy_(torch.zeros_like(torch.load(p)["second.weight"]))


def shape_only(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = torch.ones(w.shape) * w.dim()


def randn_like(m, p):
    m.second.weight.data.copy_(torch.randn_like(torch.load(p)["second.weight"]))


def index_select(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data[:8] = w[torch.arange(15, -1, -2)]


def gather(m, p):
    w = torch.load(p)["embed.weight"]
    m.embed.weight.data[2:5] = nn.functional.embedding(torch.tensor([1, 2, 3]), w)


def interpolate(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = nn.functional.interpolate(w[None, None, :8, :8], size=(16, 16), mode="bicubic")[0, 0]


def where(m, p):
    w = torch.load(p)["second.weight"]
    mask = torch.arange(16) < 4
    m.second.weight.data = torch.where(mask[:, None], w, m.second.weight.data)


def masked(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data[torch.arange(16) % 2 == 0] = w[:8]


def setitem_list(m, p):
    m.second.weight.data[[1, 3]] = torch.load(p)["second.weight"][[1, 3]]


def train_step(m, p):
    m.load_state_dict(torch.load(p))
    opt = torch.optim.SGD(m.parameters(), lr=0.1)
    m.second(m.norm(m.first(torch.ones(4, 8)))).sum().backward()
    opt.step()


def swallowed(m, p):
    try:
        m.load_state_dict({k: v for k, v in torch.load(p).items() if "first" not in k})
    except RuntimeError:
        pass


def out_of_range(m, p):
    m.second.weight.data[torch.tensor([99])] = torch.load(p)["second.weight"][:1]


def mixed_matmul(m, p):
    torch.load(p)["second.weight"] @ torch.ones(16, 16, dtype=torch.float64)


def singular(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = torch.linalg.inv(w - w)


def key_error(m, p):
    m.load_state_dict(torch.load(p)["state_dict"])


def as_strided(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.as_strided((4, 4), (32, 2), 1).copy_(w[:4, :4])


def expand(m, p):
    m.second.weight.data.copy_(torch.load(p)["norm.bias"].expand(16, 16))


def stacked(m, p):
    w = torch.load(p)["norm.bias"]
    m.second.weight.data = torch.stack([w] * 16)


def repeated(m, p):
    m.second.weight.data = torch.load(p)["norm.bias"].repeat(16, 1)


def tiled(m, p):
    m.second.weight.data[:4] = torch.load(p)["norm.bias"].tile(4, 1)


def half_rows_then_all(m, p):
    sd = torch.load(p)
    m.second.weight.data[:8] = sd["second.weight"][:8]
    m.second.weight.data[8:] = sd["second.weight"][8:]


def permuted(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = w.view(4, 2, 2, 16).transpose(1, 2).reshape(16, 16)


def functional(m, p):
    sd = torch.load(p)
    torch.func.functional_call(m.second, {"weight": sd["second.weight"]}, torch.ones(1, 16))


def orthogonal(m, p):
    m.load_state_dict(torch.load(p))
    nn.init.orthogonal_(m.second.weight)


def vector_params(m, p):
    sd = torch.load(p)
    v = torch.cat([sd[k].reshape(-1) for k, _ in m.named_parameters()])
    nn.utils.vector_to_parameters(v, m.parameters())


def scalar_fill(m, p):
    m.scale.fill_(torch.load(p)["norm.bias"][0])


def numbers_of_numpy_before_a_tensor(m, p):
    w = torch.load(p)["scale"]
    m.scale = np.float64(2.5) * torch.arange(3) + w  # float32, as torch has it
    assert (np.float64(2) < w).dtype == torch.bool
    assert np.multiply(np.float64(2), w).dtype == torch.float64


LOADERS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__
}
