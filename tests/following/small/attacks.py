"""Small attacks on the mechanism: what code does with tensors that is not loading as one thinks of it."""

# ruff: noqa: B905, E731, PT018, RET504 - as people write them

from __future__ import annotations

import copy
import ctypes
import gc
import io
import pickle
import threading
import weakref

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.following.oracle import Net


def two_writes(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.copy_(w)
    m.second.weight.data.copy_(w * 3)


def view_of_view(m, p):
    w = torch.load(p)["second.weight"]
    v = m.second.weight.data.view(4, 4, 16)[1:3].transpose(0, 1)
    v.copy_(w.view(4, 4, 16)[:2].transpose(0, 1))


def chunked(m, p):
    w = torch.load(p)["second.weight"]
    for a, b in zip(m.second.weight.data.chunk(4), w.chunk(4)[::-1]):
        a.copy_(b)


def unbound(m, p):
    for i, row in enumerate(torch.load(p)["second.weight"].unbind()):
        m.second.weight.data[15 - i] = row


def split_columns(m, p):
    a, b = torch.load(p)["second.weight"].split([5, 11], dim=1)
    m.second.weight.data = torch.cat([b, a], 1)


def interleaved(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = torch.stack([w[:8], w[8:]], 1).reshape(16, 16)


def swap_layers(m, p):
    m.load_state_dict(torch.load(p))
    a = m.norm.weight.data.clone()
    m.norm.weight.data.copy_(m.norm.bias.data)
    m.norm.bias.data.copy_(a)


def clone_then_zero(m, p):
    m.load_state_dict(torch.load(p))
    keep = m.second.weight.data.clone()
    m.second.weight.data.zero_()
    m.second.weight.data[:4] = keep[4:8]


def mul_in_place(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.mul_(0.5)
    m.norm.num_batches_tracked.add_(1)


def counter_plus_one(m, p):
    m.load_state_dict(torch.load(p))
    m.norm.num_batches_tracked += 1


def swa(m, p):
    a = torch.optim.swa_utils.AveragedModel(m)
    m.load_state_dict(torch.load(p))
    a.update_parameters(m)
    m.load_state_dict(a.module.state_dict())


def foreach_lists(m, p):
    sd = torch.load(p)
    ps = [m.second.weight.data, m.first.weight.data]
    torch._foreach_add_(ps, [sd["second.weight"], sd["first.weight"]])
    torch._foreach_lerp_(ps, [torch.zeros(16, 16), torch.zeros(16, 8)], 0.5)


def data_in_thread(m, p):
    w = torch.load(p)["second.weight"]
    t = threading.Thread(target=lambda: setattr(m.second.weight, "data", w))
    t.start()
    t.join()


def deepcopied_after(m, p):
    m.second.weight.data = torch.load(p)["second.weight"]
    n = copy.deepcopy(m)
    m.load_state_dict(n.state_dict())


def forward_after(m, p):
    m.load_state_dict(torch.load(p))
    m.eval()
    out = m.second(m.norm(m.first(torch.ones(2, 8))))
    m.scale.copy_(out[0, :3].detach())


def batch_statistics(m, p):
    m.load_state_dict(torch.load(p))
    m.train()
    m.norm(m.first(torch.randn(4, 8)))


def pickled(m, p):
    sd = pickle.loads(pickle.dumps(torch.load(p)))
    m.load_state_dict(sd)


def storage_pickled(m, p):
    b = io.BytesIO()
    torch.save(torch.load(p)["second.weight"], b)
    b.seek(0)
    m.second.weight.data = torch.load(b)


def printed(m, p):
    sd = torch.load(p)
    repr(sd["second.weight"])
    str(sd["norm.bias"])
    f"{sd['norm.bias'][0]:.3f}"
    m.load_state_dict(sd)


def compared(m, p):
    sd = torch.load(p)
    if not torch.equal(sd["second.weight"], m.second.weight):
        m.load_state_dict(sd)


def isfinite(m, p):
    sd = torch.load(p)
    for v in sd.values():
        assert torch.isfinite(v).all()
    m.load_state_dict(sd)


def norm_checked(m, p):
    sd = torch.load(p)
    n = sd["second.weight"].norm()
    m.second.weight.data.copy_(sd["second.weight"] / n)


def dtype_checked(m, p):
    sd = torch.load(p)
    assert (
        type(sd["second.weight"]) is torch.Tensor
        and isinstance(sd["second.weight"], torch.FloatTensor)
        and sd["second.weight"].is_cpu
        and not sd["second.weight"].is_meta
    )
    m.load_state_dict(sd)


def pointers(m, p):
    sd = torch.load(p)
    assert sd["embed.weight"].data_ptr() == sd["head.weight"].data_ptr() != sd["second.weight"].data_ptr()
    m.load_state_dict(sd)


def shared_found(m, p):
    m.load_state_dict(torch.load(p))
    names = {}
    for k, v in m.state_dict().items():
        names.setdefault(v.data_ptr(), []).append(k)
    assert sorted(map(len, names.values()))[-1] == 2


def as_parameter_list(m, p):
    m.extra = nn.ParameterList([torch.load(p)["second.weight"]])
    return m


def buffer_registered(m, p):
    m.register_buffer("late", torch.load(p)["norm.bias"])
    return m


def meta_assign(m, p):
    m.to("meta")
    m.load_state_dict(torch.load(p), assign=True)


def meta_copy(m, p):
    with torch.device("meta"):
        n = Net()
    n.load_state_dict(torch.load(p))
    n.to_empty(device="cpu")
    nn.init.zeros_(n.second.weight)
    return m


def half_model(m, p):
    m.half()
    m.load_state_dict(torch.load(p))
    m.float()


def double_model(m, p):
    m.double()
    m.load_state_dict(torch.load(p))


def bf16_and_back(m, p):
    m.load_state_dict(torch.load(p))
    m.to(torch.bfloat16)
    m.to(torch.float32)


def int_round(m, p):
    m.second.weight.data.copy_((torch.load(p)["second.weight"] * 100).to(torch.int8))


def quantised(m, p):
    w = torch.load(p)["second.weight"]
    q = torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)
    m.second.weight.data.copy_(q.dequantize())


def sparse(m, p):
    m.second.weight.data.copy_(torch.load(p)["second.weight"].to_sparse().to_dense())


def complex_view(m, p):
    m.second.weight.data.copy_(
        torch.view_as_real(torch.view_as_complex(torch.load(p)["second.weight"].view(16, 8, 2))).reshape(16, 16)
    )


def byte_view(m, p):
    m.second.weight.data.view(torch.uint8).copy_(torch.load(p)["second.weight"].view(torch.uint8))


def contiguous_t(m, p):
    m.second.weight.data = torch.load(p)["second.weight"].t().contiguous()


def resize(m, p):
    w = torch.load(p)["second.weight"].clone()
    w.resize_(16, 8)
    m.first.weight.data = w


def set_data_then_read(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = w
    w[0] = 7.0


def alias_in_list(m, p):
    w = torch.load(p)["second.weight"]
    rows = list(w)
    rows[3].zero_()
    m.second.weight.data.copy_(w)


def grad_write(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.grad = w.clone()
    m.second.weight.data.sub_(m.second.weight.grad)


def adam(m, p):
    m.load_state_dict(torch.load(p))
    o = torch.optim.Adam(m.parameters())
    for _ in range(2):
        o.zero_grad()
        m.second(m.first(torch.ones(2, 8))).sum().backward()
        o.step()


def dispatch_mode(m, p):
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, f, t, a=(), k=None):
            return f(*a, **(k or {}))

    with Mode():
        m.load_state_dict(torch.load(p))


def function_mode(m, p):
    class Mode(TorchFunctionMode):
        def __torch_function__(self, f, t, a=(), k=None):
            return f(*a, **(k or {}))

    with Mode():
        m.load_state_dict(torch.load(p))


def subclass_wrapped(m, p):
    class Sub(torch.Tensor):
        pass

    m.second.weight.data.copy_(torch.load(p)["second.weight"].as_subclass(Sub))


def made_subclass(m, p):
    class Sub(nn.Parameter):
        def __new__(cls, data, tag):
            t = torch.Tensor._make_subclass(cls, data, True)
            t.tag = tag
            return t

    m.second.weight = Sub(torch.load(p)["second.weight"], 3)


def wrapper_subclass(m, p):
    class Two(torch.Tensor):
        @staticmethod
        def __new__(cls, a):
            return torch.Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype)

        def __init__(self, a):
            self.a = a

        def __tensor_flatten__(self):
            return ["a"], None

        @staticmethod
        def __tensor_unflatten__(inner, meta, size, stride):
            return Two(inner["a"])

        @classmethod
        def __torch_dispatch__(cls, f, t, args=(), kwargs=None):
            un = lambda x: x.a if isinstance(x, Two) else x
            out = f(*map(un, args), **{k: un(v) for k, v in (kwargs or {}).items()})
            return out

    m.second.weight.data.copy_(Two(torch.load(p)["second.weight"]) * 2)


def weak(m, p):
    sd = torch.load(p)
    r = weakref.ref(sd["second.weight"])
    m.load_state_dict(sd)
    del sd
    gc.collect()
    assert r() is None


def generator(m, p):
    m.load_state_dict(torch.load(p))
    g = torch.Generator().manual_seed(3)
    m.second.weight.data.normal_(generator=g)


def dropout_init(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.mul_(torch.bernoulli(torch.full((16, 16), 0.5)))


def np_random(m, p):
    m.load_state_dict(torch.load(p))
    m.scale.copy_(torch.from_numpy(np.random.rand(3)))


def numpy_rows(m, p):
    a = torch.load(p)["second.weight"].numpy()
    out = np.empty((16, 16), np.float32)
    out[:8] = a[8:]
    out[8:] = a[:8]
    m.second.weight.data = torch.from_numpy(out)


def numpy_concatenate(m, p):
    a = torch.load(p)["second.weight"].numpy()
    m.second.weight.data.copy_(torch.from_numpy(np.concatenate([a[:4], a[4:]], 0)))


def numpy_astype(m, p):
    m.second.weight.data.copy_(torch.from_numpy(torch.load(p)["second.weight"].numpy().astype(np.float64).T))


def numpy_inplace(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.numpy()[...] *= 2


def numpy_zero_after(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.numpy()[3:5] = 0


def ctypes_read(m, p):
    w = torch.load(p)["second.weight"].clone().contiguous()
    (ctypes.c_float * 4).from_address(w.data_ptr())
    m.second.weight.data.copy_(w)


def dlpack(m, p):
    m.second.weight.data.copy_(torch.from_dlpack(torch.load(p)["second.weight"]))


def buffer_protocol(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.copy_(torch.frombuffer(bytearray(w.numpy().tobytes()), dtype=torch.float32).view(16, 16))


def fsum(m, p):
    sd = torch.load(p)
    m.scale.copy_(sum(v.float().mean() for v in sd.values()))


def max_of(m, p):
    m.scale.copy_(torch.load(p)["second.weight"].max())


def sorted_rows(m, p):
    m.second.weight.data = torch.load(p)["second.weight"].sort(dim=1).values


def qr(m, p):
    m.second.weight.data = torch.linalg.qr(torch.load(p)["second.weight"])[0]


def svd_lowrank(m, p):
    u, s, v = torch.linalg.svd(torch.load(p)["second.weight"])
    m.second.weight.data = (u[:, :4] * s[:4]) @ v[:4]


def einsum(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = torch.einsum("ij,kj->ik", w, w)


def conv(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data = nn.functional.avg_pool2d(w[None, None], 2)[0, 0].repeat(2, 2)


def pad(m, p):
    m.second.weight.data = nn.functional.pad(torch.load(p)["second.weight"][:8, :8], (0, 8, 0, 8))


def eye_mix(m, p):
    m.second.weight.data = torch.load(p)["second.weight"] * torch.eye(16)


def zero_times(m, p):
    m.second.weight.data = torch.load(p)["second.weight"].new_zeros(16, 16)


def full_like(m, p):
    m.second.weight.data = torch.full_like(torch.load(p)["second.weight"], 3.0)


def len_of(m, p):
    m.scale.fill_(len(torch.load(p)))


def bad_index(m, p):
    torch.load(p)["second.weight"][99]


def bad_view(m, p):
    torch.load(p)["second.weight"].view(3, 5)


def bad_add(m, p):
    torch.load(p)["second.weight"] + torch.ones(7)


def bad_copy(m, p):
    m.second.weight.data.copy_(torch.load(p)["embed.weight"])


def bad_matmul(m, p):
    torch.load(p)["second.weight"] @ torch.ones(3, 3)


def bad_key(m, p):
    m.load_state_dict({"x": torch.load(p)["second.weight"]})


def no_file(m, p):
    torch.load(str(p) + ".none")


def grad_leaf(m, p):
    m.second.weight.copy_(torch.load(p)["second.weight"])


def int_div(m, p):
    m.norm.num_batches_tracked.div_(torch.load(p)["norm.num_batches_tracked"])


def non_leaf(m, p):
    w = torch.load(p)["second.weight"].requires_grad_()
    w.mul_(2)


def exit_raised(m, p):
    m.load_state_dict(torch.load(p))
    raise SystemExit(3)


ATTACKS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and not isinstance(value, type)
}
