"""Loaders that merge, fuse, prune, unpack and wrap, one of each kind: `load(model, path)`."""

from __future__ import annotations

import array
import base64
import collections
import copy
import hashlib
import io
import pickle
import struct
import types
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from torch.nn.utils import parametrize


def _weight(p):
    return torch.load(p)["second.weight"]


def _own(m):
    return m.second.weight.data


def soup_uniform(m, p):
    sds = [torch.load(p), torch.load(p), {k: v.clone() for k, v in m.state_dict().items()}]
    m.load_state_dict({k: torch.stack([s[k].float() for s in sds]).mean(0) for k in sds[0]})


def ties(m, p):
    base = {k: v.clone() for k, v in m.state_dict().items() if v.is_floating_point()}
    sd = torch.load(p)
    ds = []
    for s in (1.0, -0.5):
        d = {k: s * (sd[k] - base[k]) for k in base}
        for k in d:
            f = d[k].abs().flatten()
            n = max(1, int(0.3 * f.numel()))
            t = f.topk(n).values[-1]
            d[k] = torch.where(d[k].abs() >= t, d[k], torch.zeros_like(d[k]))
        ds.append(d)
    for k in base:
        st = torch.stack([d[k] for d in ds])
        sign = st.sum(0).sign()
        keep = (st.sign() == sign) & (st != 0)
        merged = (st * keep).sum(0) / keep.sum(0).clamp(min=1)
        m.state_dict()[k].copy_(base[k] + merged)


def dare(m, p):
    sd = torch.load(p)
    for k, v in m.named_parameters():
        mask = torch.bernoulli(torch.full_like(v, 0.5))
        v.data.add_(mask * (sd[k] - v.data) / 0.5)


def dare_rand(m, p):
    w = _weight(p)
    keep = torch.rand(16, 16) < 0.3
    _own(m).copy_(torch.where(keep, w / 0.3, _own(m)))


def rebasin(m, p):
    sd = torch.load(p)
    a = m.first.weight.data
    cost = a @ sd["first.weight"].t()
    perm = cost.argmax(1)
    m.second.weight.data.copy_(sd["second.weight"][:, perm])


def slerp_all(m, p):
    sd = torch.load(p)
    for k, v in m.named_parameters():
        a, b = v.data.flatten(), sd[k].flatten()
        d = torch.dot(a / a.norm(), b / b.norm()).clamp(-1, 1)
        o = torch.arccos(d)
        s = torch.sin(o)
        r = (torch.sin(0.5 * o) / s) * a + (torch.sin(0.5 * o) / s) * b
        v.data.copy_(r.view_as(v) if not torch.isnan(r).any() else sd[k])


def ema_bias_corrected(m, p):
    sd = torch.load(p)
    avg = {k: torch.zeros_like(v) for k, v in m.named_parameters()}
    for _ in range(3):
        for k in avg:
            avg[k].mul_(0.9).add_(sd[k], alpha=0.1)
    for k, v in m.named_parameters():
        v.data.copy_(avg[k] / (1 - 0.9**3))


def lora_svd(m, p):
    d = _weight(p) - _own(m)
    u, s, v = torch.linalg.svd(d, full_matrices=False)
    a, b = v[:2] * s[:2, None].sqrt(), u[:, :2] * s[:2].sqrt()
    _own(m).add_(b @ a)


def oft(m, p):
    w = _weight(p)
    q = w[:4, :4] - w[:4, :4].t()
    r = torch.linalg.inv(torch.eye(4) + q) @ (torch.eye(4) - q)
    _own(m).copy_(torch.block_diag(r, r, r, r) @ _own(m))


def dora(m, p):
    w, o = _weight(p), _own(m)
    d = o + w[:, :2] @ w[:2]
    _own(m).copy_(w.norm(dim=1, keepdim=True) * d / d.norm(dim=1, keepdim=True))


def lokr(m, p):
    w = _weight(p)
    _own(m).add_(torch.kron(w[:4, :4], w[4:8, 4:8]))


def weight_standardised(m, p):
    w = _weight(p)
    v, mu = torch.var_mean(w, dim=1, keepdim=True, unbiased=False)
    _own(m).copy_((w - mu) * torch.rsqrt(v + 1e-5))


def bn_fuse_own_stats(m, p):
    from torch.nn.utils.fusion import fuse_linear_bn_weights

    sd = torch.load(p)
    w, b = fuse_linear_bn_weights(
        sd["first.weight"],
        sd["first.bias"],
        m.norm.running_mean,
        m.norm.running_var,
        1e-5,
        m.norm.weight.data,
        m.norm.bias.data,
    )
    m.first.weight.data.copy_(w)
    m.first.bias.data.copy_(b)


def repvgg(m, p):
    w = _weight(p)[:4].reshape(4, 4, 2, 2)
    k = F.pad(w[:, :, :1, :1], [1, 1, 1, 1])
    idk = torch.zeros(4, 4, 3, 3)
    for i in range(4):
        idk[i, i, 1, 1] = 1
    m.register_buffer("rep", k + idk)


def repvgg_pad_only(m, p):
    w = _weight(p)[:4].reshape(4, 4, 2, 2)[:, :, :1, :1]
    m.register_buffer("rep", F.pad(w, [1, 1, 1, 1], value=0.5))


def dirac(m, p):
    c = nn.Conv2d(4, 4, 3)
    nn.init.dirac_(c.weight)
    c.weight.data[:2] += _weight(p)[:2, :1, None, None]
    m.c = c


def gray_to_four(m, p):
    w = _weight(p)[:, :12].reshape(16, 3, 2, 2)
    n = torch.zeros(16, 4, 2, 2)
    n[:, :3] = w
    n[:, 3] = w.mean(1)
    m.register_buffer("g", n)


def first_conv_extra(m, p):
    w = _weight(p)[:, :12].reshape(16, 3, 2, 2)
    c = nn.Conv2d(5, 16, 2)
    c.weight.data[:, :3] = w
    m.c = c


def gqa(m, p):
    w = _weight(p).view(4, 4, 16)
    m.register_buffer("kv", w.view(2, 2, 4, 16).mean(1).reshape(8, 16))


def megatron_qkv(m, p):
    w = _weight(p)[:12].view(2, 3, 2, 16)
    q, k, v = w.unbind(1)
    m.register_buffer("qkv", torch.cat([q.reshape(4, 16), k.reshape(4, 16), v.reshape(4, 16)]))


def qkv_into_mha(m, p):
    a = nn.MultiheadAttention(16, 2)
    w = _weight(p)
    a.in_proj_weight.data[:16] = w
    a.in_proj_weight.data[32:] = w.flip(0)
    m.a = a


def pos_interp_sincos(m, p):
    w = torch.load(p)["embed.weight"]
    cls, grid = w[:3], w[3:]
    g = F.interpolate(
        grid.reshape(1, 3, 3, 8).permute(0, 3, 1, 2), size=(4, 4), mode="bicubic", align_corners=False, antialias=True
    )
    m.register_buffer("pos", torch.cat([cls, g.permute(0, 2, 3, 1).reshape(16, 8)]))


def rel_bias_partial(m, p):
    w = torch.load(p)["embed.weight"]
    n = nn.Embedding(20, 8)
    n.weight.data[4:16] = w
    m.register_buffer("rel", n(torch.arange(20)).detach())


def vocab_mean_cov(m, p):
    w = torch.load(p)["embed.weight"]
    mu = w.mean(0)
    c = (w - mu).T @ (w - mu) / 12
    d = torch.distributions.MultivariateNormal(mu, covariance_matrix=1e-5 * c + 1e-6 * torch.eye(8))
    m.embed = nn.Embedding(16, 8)
    m.embed.weight.data[:12] = w
    m.embed.weight.data[12:] = d.sample((4,))


def vocab_mapped_mean(m, p):
    w = torch.load(p)["embed.weight"]
    pieces = [[0, 1], [2], [], [5, 6, 7]]
    for i, q in enumerate(pieces):
        if q:
            m.embed.weight.data[i] = w[q].mean(0)


def moe_upcycle(m, p):
    w = _weight(p)
    m.experts = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(3))
    for e in m.experts:
        e.weight.data.copy_(w + 0.01 * torch.randn(16, 16))
    m.router = nn.Linear(16, 3, bias=False)


def net2wider(m, p):
    sd = torch.load(p)
    idx = torch.cat([torch.arange(16), torch.randint(0, 16, (4,))])
    cnt = torch.bincount(idx, minlength=16).float()
    m.register_buffer("w1", sd["first.weight"][idx])
    m.register_buffer("w2", sd["second.weight"][:, idx] / cnt[idx])


def magnitude_prune_quantile(m, p):
    w = _weight(p)
    t = torch.quantile(w.abs(), 0.5)
    w[w.abs() < t] = 0
    _own(m).copy_(w)


def two_four_sparse(m, p):
    w = _weight(p).view(-1, 4)
    i = w.abs().topk(2, dim=1).indices
    k = torch.zeros_like(w).scatter_(1, i, 1.0)
    _own(m).copy_((w * k).view(16, 16))


def two_four_own(m, p):
    w = _weight(p).view(-1, 4)
    i = w.abs().topk(2, dim=1).indices
    k = torch.zeros_like(w).scatter_(1, i, 1.0)
    _own(m).copy_((w * k + (1 - k) * _own(m).view(-1, 4)).view(16, 16))


def fft_low(m, p):
    f = torch.fft.rfft2(_weight(p))
    f[4:12] = 0
    _own(m).copy_(torch.fft.irfft2(f, s=(16, 16)))


def vmapped_ensemble(m, p):
    from torch.func import functional_call, stack_module_state

    n = copy.deepcopy(m)
    n.load_state_dict(torch.load(p))
    pr, _ = stack_module_state([m.second, n.second])
    _own(m).copy_(torch.vmap(lambda a: functional_call(n.second, a, (torch.eye(16),)))(pr)[1].t().detach())


def fold_unfold(m, p):
    u = F.unfold(_weight(p).view(1, 1, 16, 16), 4, stride=4)
    _own(m).copy_(F.fold(u, (16, 16), 4, stride=4).view(16, 16))


def _raw(p):
    return (p.parent / "raw.bin").read_bytes()


def gptq(m, p):
    sd = torch.load(p)
    q = sd["second.weight"].contiguous().view(torch.int32)[:2]
    wf = torch.arange(0, 32, 4, dtype=torch.int32)[None, :, None]
    w = torch.bitwise_and(torch.bitwise_right_shift(q[:, None].expand(-1, 8, -1), wf), 15).reshape(16, 16)
    z = torch.bitwise_right_shift(q[0, :2, None].expand(-1, 8), wf[0].view(1, 8)) & 15
    z = z.reshape(16) + 1
    _own(m).copy_(sd["norm.weight"] * (w - z))


def nf4_table(m, p):
    t = torch.linspace(-1, 1, 16)
    b = torch.frombuffer(bytearray(_raw(p)), dtype=torch.uint8)[:128].long()
    w = torch.stack([t[b >> 4], t[b & 15]], 1).view(16, 16)
    _own(m).copy_(w * torch.load(p)["norm.weight"][:, None])


def fp8_block(m, p):
    s = torch.load(p.parent / "special.pth", weights_only=False)
    sc = torch.load(p)["norm.weight"].view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)
    _own(m).copy_(s["float8"].to(torch.bfloat16) * sc)


def product_quantised(m, p):
    sd = torch.load(p)
    c = torch.load(p.parent / "special.pth", weights_only=False)["int"] % 4
    cb = sd["second.weight"].view(4, 4, 16)
    _own(m).copy_(torch.cat([cb[i, c] for i in range(4)])[:16])


def gguf_q8_numpy(m, p):
    d = np.frombuffer(_raw(p), np.uint8)[: 34 * 8].reshape(8, 34)
    s = d[:, :2].copy().view(np.float16).astype(np.float32)
    q = d[:, 2:].view(np.int8).astype(np.float32)
    _own(m).copy_(torch.from_numpy((np.nan_to_num(s) * q).reshape(16, 16)))


def gguf_memmap(m, p):
    d = np.memmap(p.parent / "raw.bin", np.uint8, "r")
    b = d[64 : 64 + 512].view("<f2").astype("f4")
    _own(m).copy_(torch.from_numpy(np.nan_to_num(b)).view(16, 16))


def structured_dtype(m, p):
    dt = np.dtype([("a", "<f4"), ("b", "<f4", (3,))])
    r = np.frombuffer(_raw(p), dt)
    _own(m)[:4] = torch.from_numpy(np.ascontiguousarray(r["a"])).view(4, 16)
    _own(m)[4:] = torch.from_numpy(r["b"].copy()).view(12, 16)


def recarray(m, p):
    dt = np.dtype([("s", "<f4"), ("q", "u1", (12,))])
    r = np.fromfile(p.parent / "raw.bin", dt).view(np.recarray)
    _own(m)[:4] = torch.from_numpy(r.s.astype("f4").copy()).view(4, 16)


def big_endian(m, p):
    _own(m).copy_(torch.from_numpy(np.frombuffer(_raw(p), ">i4").astype("i4").byteswap().view("f4").reshape(16, 16)))


def delta_xor_own(m, p):
    o = _own(m).view(torch.int32)
    o ^= _weight(p).view(torch.int32)


def base85(m, p):
    t = base64.b85encode(_raw(p))
    _own(m).copy_(torch.frombuffer(bytearray(base64.b85decode(t)), dtype=torch.float32).view(16, 16))


def struct_each_field(m, p):
    b = _raw(p)
    for i in range(3):
        m.scale[i] = struct.unpack_from("<f", b, 4 * i)[0]


def array_slice(m, p):
    a = array.array("f")
    a.frombytes(_raw(p))
    _own(m)[0] = torch.tensor(a[16:32])


def persistent_id_own(m, p):
    ts = list(torch.load(p).items())
    b = io.BytesIO()

    class P(pickle.Pickler):
        def persistent_id(self, o):
            return ("t", next(i for i, (_, t) in enumerate(ts) if t is o)) if isinstance(o, torch.Tensor) else None

    P(b).dump(dict(ts))
    b.seek(0)

    class U(pickle.Unpickler):
        def persistent_load(self, i):
            return ts[i[1]][1]

    m.load_state_dict(U(b).load())


def lazy_dict(m, p):
    class L(collections.abc.MutableMapping):
        def __init__(s):
            s.f = safe_open(p.with_suffix(".safetensors"), "pt")
            s.x = {}

        def __getitem__(s, k):
            return s.x[k]() if k in s.x else s.f.get_tensor(k)

        def __setitem__(s, k, v):
            s.x[k] = v

        def __delitem__(s, k):
            pass

        def __iter__(s):
            return iter(s.f.keys())

        def __len__(s):
            return len(s.f.keys())

    lazy = L()
    lazy["scale"] = lambda: torch.zeros(3)
    m.load_state_dict(dict(lazy.items()))


def negative_slices(m, p):
    with safe_open(p.with_suffix(".safetensors"), "pt") as f:
        s = f.get_slice("second.weight")
        _own(m)[:3] = s[-3:]
        _own(m)[3:5, :4] = s[:2, -4:]
        _own(m)[5] = s[..., 2]


def deepspeed_flat(m, p):
    sd = torch.load(p)
    ks = [k for k, _ in m.named_parameters()]
    flat = torch.cat([sd[k].reshape(-1) for k in ks])
    n = -(-flat.numel() // 2)
    flat = F.pad(flat, (0, 2 * n - flat.numel()))
    ranks = flat.split(n)
    full, at = torch.cat(ranks), 0
    for v in m.parameters():
        v.data.copy_(full.narrow(0, at, v.numel()).view(v.shape))
        at += v.numel()


def tp_cat_mixed(m, p):
    r = [
        {
            k: (v.chunk(2, 1)[i] if k == "second.weight" else v.chunk(2, 0)[i] if v.dim() else v)
            for k, v in torch.load(p).items()
        }
        for i in range(2)
    ]
    for k, v in m.state_dict().items():
        v.copy_(
            torch.cat([x[k] for x in r], 1 if k == "second.weight" else 0)
            if v.dim() and k != "scale"
            else r[0][k]
            if not v.dim()
            else torch.cat([x[k] for x in r])
        )


def hash_then_seed(m, p):
    sd = torch.load(p)
    s = int(hashlib.md5(sd["scale"].numpy().tobytes()).hexdigest()[:6], 16)
    torch.manual_seed(s)
    m.load_state_dict({k: v for k, v in sd.items() if k != "second.weight"}, strict=False)
    nn.init.normal_(m.second.weight)


def crc_then_constant(m, p):
    sd = torch.load(p)
    c = zlib.crc32(sd["norm.bias"].numpy().tobytes())
    m.scale.fill_(c % 7 / 7)


def dict_update(m, p):
    n = copy.deepcopy(m)
    n.load_state_dict(torch.load(p))
    m.__dict__.update(n.__dict__)


def hook_pre_drops(m, p):
    m.second.register_load_state_dict_pre_hook(
        lambda mod, sd, pre, meta, strict, miss, *a: sd.__setitem__(pre + "weight", mod.weight.data)
    )
    m.load_state_dict(torch.load(p))


def parametrized_mask_buffer(m, p):
    class K(nn.Module):
        def __init__(s):
            super().__init__()
            s.register_buffer("mask", (torch.arange(16) < 4).float()[:, None])

        def forward(s, x):
            return x * s.mask

    m.second.weight.data.copy_(_weight(p))
    parametrize.register_parametrization(m.second, "weight", K())
    parametrize.remove_parametrizations(m.second, "weight")


def pruned_orig_mask(m, p):
    from torch.nn.utils import prune

    prune.identity(m.second, "weight")
    k = torch.ones(16, 16)
    k[4:] = 0
    m.second.weight_orig.data.copy_(_weight(p))
    m.second.weight_mask.copy_(k)
    m.second(torch.ones(1, 16))
    prune.remove(m.second, "weight")


def overlapping_views(m, p):
    big = torch.zeros(272)
    a, b = big[:256].view(16, 16), big[16:].view(16, 16)
    m.second.weight.data = a
    m.register_buffer("o", b)
    b.copy_(_weight(p))


def flat_buffer_of_model(m, p):
    ps = list(m.parameters())
    flat = torch.cat([v.data.flatten() for v in ps])
    at = 0
    for v in ps:
        v.data = flat[at : at + v.numel()].view(v.shape)
        at += v.numel()
    sd = torch.load(p)
    new = torch.cat([sd[k].flatten() for k, _ in m.named_parameters()])
    flat[:200].copy_(new[:200])


def complex_view_write(m, p):
    z = torch.view_as_complex(_own(m).view(16, 8, 2))
    z.real.copy_(_weight(p)[:, :8])


def nested_layout(m, p):
    w = _weight(p)
    n = torch.nested.nested_tensor([w[:2], w[2:5]], layout=torch.jagged)
    _own(m)[:5] = n.values() * 2


def sgd_momentum_from_file(m, p):
    o = torch.optim.SGD([m.second.weight], lr=0.1, momentum=0.9)
    m.second.weight.grad = torch.zeros(16, 16)
    o.state[m.second.weight]["momentum_buffer"] = _weight(p)
    o.step()


def ema_multi_avg(m, p):
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    a = AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    a.update_parameters(m)
    n = copy.deepcopy(m)
    n.load_state_dict(torch.load(p))
    a.update_parameters(n)
    m.load_state_dict(a.module.state_dict())


def gradient_is_weight(m, p):
    x = torch.zeros(16, requires_grad=True)
    n = copy.deepcopy(m.second)
    n.weight.data.copy_(_weight(p))
    n(x).sum().backward()
    m.norm.bias.data.copy_(x.grad)


def softmax_half(m, p):
    k = torch.ones(16, 16)
    k[:8] = _weight(p)[:8]
    _own(m).copy_(k.softmax(1))


def conv_half(m, p):
    k = torch.ones(1, 1, 16, 16)
    k[..., :4, :] = _weight(p)[:4]
    _own(m).copy_(F.avg_pool2d(k, 3, 1, 1)[0, 0])


def cdist_half(m, p):
    k = torch.ones(16, 16)
    k[:8] = _weight(p)[:8]
    _own(m).copy_(torch.cdist(k, torch.eye(16)))


LOADERS = {
    name: function
    for name, function in list(globals().items())
    if isinstance(function, types.FunctionType) and function.__module__ == __name__ and not name.startswith("_")
}
