"""Loaders that take some elements from a file and leave others, by masks of every kind: `load(model, path)`."""

from __future__ import annotations

import types

import numpy as np
import torch


def _weight(p):
    return torch.load(p)["second.weight"]


def _own(m):
    return m.second.weight.data


def maximum_of_own(m, p):
    _own(m).copy_(torch.maximum(_weight(p), _own(m)))


def maximum_half_large(m, p):
    big = torch.zeros(16, 16)
    big[:8] = 100
    _own(m).copy_(torch.maximum(_weight(p), big))


def minimum_mask(m, p):
    low = torch.full((16, 16), 1e9)
    low[3] = -5
    _own(m).copy_(torch.minimum(_weight(p), low))


def clamp_tensor_bounds(m, p):
    lo = torch.full((16,), -1e9)
    hi = torch.full((16,), 1e9)
    lo[2] = hi[2] = 0.5
    _own(m).copy_(_weight(p).clamp(lo, hi))


def where_by_ints(m, p):
    k = torch.arange(256).view(16, 16) // 16 % 3
    _own(m).copy_(torch.where((k - 1).clamp(min=0).bool(), _weight(p), _own(m)))


def mask_by_integer_arithmetic(m, p):
    k = torch.arange(16)[:, None] % 2
    _own(m).copy_(k * _weight(p) + (1 - k) * _own(m))


def mask_bool_mul(m, p):
    k = torch.arange(16)[:, None] < 5
    _own(m).copy_(k * _weight(p) + ~k * _own(m))


def mask_divided(m, p):
    k = torch.ones(16, 16)
    k[4:] = float("inf")
    _own(m).copy_(_weight(p) / k + _own(m) * (k == float("inf")))


def mask_matmul(m, p):
    k = torch.diag((torch.arange(16) < 6).float())
    _own(m).copy_(k @ _weight(p) + (torch.eye(16) - k) @ _own(m))


def mask_einsum(m, p):
    k = (torch.arange(16) < 6).float()
    _own(m).copy_(torch.einsum("i,ij->ij", k, _weight(p)) + torch.einsum("i,ij->ij", 1 - k, _own(m)))


def mask_foreach(m, p):
    k = (torch.arange(16) < 6).float()[:, None].expand(16, 16).contiguous()
    a = torch._foreach_mul([_weight(p)], [k])
    b = torch._foreach_mul([_own(m)], [1 - k])
    _own(m).copy_(torch._foreach_add(a, b)[0])


def mask_foreach_lerp(m, p):
    k = (torch.arange(16) < 6).float()[:, None].expand(16, 16).contiguous()
    torch._foreach_lerp_([_own(m)], [_weight(p)], [k])


def mask_foreach_max(m, p):
    big = torch.zeros(16, 16)
    big[:8] = 100
    _own(m).copy_(torch._foreach_maximum([_weight(p)], [big])[0])


def mask_sub_from(m, p):
    k = (torch.arange(16) < 6).float()[:, None]
    _own(m).add_(k * (_weight(p) - _own(m)))


def mask_addcmul_delta(m, p):
    k = (torch.arange(16) < 6).float()[:, None]
    _own(m).copy_(torch.addcmul(_own(m), k, _weight(p) - _own(m)))


def mask_in_place(m, p):
    k = (torch.arange(16) < 6).float()[:, None]
    w = _weight(p)
    w.mul_(k)
    w.add_(_own(m) * (1 - k))
    _own(m).copy_(w)


def mask_cast(m, p):
    k = (torch.arange(16) < 6).float()[:, None]
    _own(m).copy_((k * _weight(p)).half().float() + (1 - k) * _own(m))


def mask_then_reshape(m, p):
    k = (torch.arange(16) < 6).float()[:, None]
    a = (k * _weight(p)).t().contiguous().t().reshape(4, 4, 16)
    b = ((1 - k) * _own(m)).reshape(4, 4, 16)
    _own(m).copy_((a + b).reshape(16, 16))


def mask_stacked_sum(m, p):
    k = (torch.arange(16) < 6).float()[:, None]
    _own(m).copy_(torch.stack([k * _weight(p), (1 - k) * _own(m)]).sum(0))


def mask_python_sum(m, p):
    k = (torch.arange(16) < 6).float()[:, None]
    _own(m).copy_(sum([k * _weight(p), (1 - k) * _own(m)]))


def mask_baddbmm(m, p):
    k = torch.diag((torch.arange(16) < 6).float())
    _own(m).copy_(torch.addmm(_own(m) * (1 - k.diag())[:, None], k, _weight(p)))


def mask_pow(m, p):
    e = (torch.arange(16) < 6).float()[:, None]
    _own(m).copy_(_weight(p) ** e)


def mask_xlogy(m, p):
    e = (torch.arange(16) < 6).float()[:, None]
    _own(m).copy_(torch.xlogy(e, _weight(p)) + _own(m))


def mask_numpy_where_int(m, p):
    k = np.arange(16)[:, None] % 2
    _own(m).copy_(torch.from_numpy(np.where(k, _weight(p).numpy(), _own(m).numpy())))


def mask_numpy_maximum(m, p):
    big = np.zeros((16, 16), "f4")
    big[:8] = 100
    _own(m).copy_(torch.from_numpy(np.maximum(_weight(p).numpy(), big)))


def mask_numpy_clip(m, p):
    lo, hi = np.full(16, -1e9, "f4"), np.full(16, 1e9, "f4")
    lo[2] = hi[2] = 0.5
    _own(m).copy_(torch.from_numpy(np.clip(_weight(p).numpy(), lo, hi)))


def mask_numpy_choose(m, p):
    k = np.arange(16)[:, None] % 2 * np.ones((16, 16), int)
    _own(m).copy_(torch.from_numpy(np.choose(k, [_own(m).numpy(), _weight(p).numpy()])))


def mask_numpy_select(m, p):
    k = np.arange(16)[:, None] % 2 * np.ones((16, 16), int)
    _own(m).copy_(torch.from_numpy(np.select([k == 1], [_weight(p).numpy()], _own(m).numpy())))


def mask_numpy_putmask(m, p):
    np.putmask(_own(m).numpy(), np.eye(16, dtype=bool), _weight(p).numpy())


def mask_numpy_dot(m, p):
    k = np.diag((np.arange(16) < 6).astype("f4"))
    _own(m).copy_(torch.from_numpy(k @ _weight(p).numpy() + (np.eye(16, dtype="f4") - k) @ _own(m).numpy()))


def mask_numpy_inplace(m, p):
    k = (np.arange(16) < 6).astype("f4")[:, None]
    o = _own(m).numpy()
    o *= 1 - k
    o += k * _weight(p).numpy()


def mask_numpy_ma(m, p):
    a = np.ma.masked_array(_weight(p).numpy(), np.eye(16, dtype=bool))
    _own(m).copy_(torch.from_numpy(a.filled(3)))


def numpy_nan_mask(m, p):
    a = _weight(p).numpy().copy()
    a[2] = np.nan
    _own(m).copy_(torch.from_numpy(np.where(np.isnan(a), _own(m).numpy(), a)))


def nan_to_num_after_set(m, p):
    w = _weight(p)
    w[3] = float("nan")
    _own(m).copy_(torch.nan_to_num(w, 0.25))


def fmax_nan(m, p):
    w = _weight(p)
    w[3] = float("nan")
    _own(m).copy_(torch.fmax(w, torch.full_like(w, -1e9)))


def masked_fill_tensor(m, p):
    k = torch.eye(16, dtype=torch.bool)
    _own(m).copy_(_weight(p).masked_fill(k, torch.tensor(2.5)))


def masked_fill_by_file(m, p):
    w = _weight(p)
    _own(m).masked_fill_(w > 0, 0.5)


def index_put_accumulate(m, p):
    w = _weight(p)
    _own(m).index_put_((torch.tensor([0, 0, 3]),), w[:3], accumulate=True)


def scatter_reduce(m, p):
    _own(m).scatter_reduce_(0, torch.tensor([[1] * 16, [1] * 16, [5] * 16]), _weight(p)[:3], "amax", include_self=False)


def scatter_src(m, p):
    _own(m).scatter_(1, torch.tensor([[0, 2], [3, 1]]), _weight(p))


def masked_scatter_partly(m, p):
    k = torch.zeros(16, 16, dtype=torch.bool)
    k[2, 3:9] = True
    _own(m).masked_scatter_(k, _weight(p)[:, 1].contiguous())


def tril_plus_triu(m, p):
    _own(m).copy_(_weight(p).tril() + _own(m).triu(1))


def eye_add(m, p):
    _own(m).copy_(torch.eye(16) + _weight(p).diag().diag())


def kron_plus(m, p):
    _own(m).copy_(torch.kron(torch.eye(4), _weight(p)[:4, :4]) + 1)


def heaviside(m, p):
    _own(m).copy_(torch.heaviside(_weight(p) - 2.5, torch.tensor(0.5)))


def sign_of(m, p):
    _own(m).copy_(torch.sign(_weight(p) - 2.5))


def greater_cast(m, p):
    _own(m).copy_((_weight(p) > 2.5).float())


def bitwise_mask_halves(m, p):
    w = _weight(p).view(torch.int32)
    keep = torch.zeros(16, 16, dtype=torch.int32)
    keep[:8] = -1
    _own(m).copy_(((w & keep) | (_own(m).view(torch.int32) & ~keep)).view(torch.float32))


def where_file_condition(m, p):
    w = _weight(p)
    _own(m).copy_(torch.where(w > 2, w, _own(m)))


def where_constants(m, p):
    w = _weight(p)
    _own(m).copy_(torch.where(w > 2, torch.tensor(0.5), torch.tensor(-0.5)))


def where_scalars_own_condition(m, p):
    _own(m).copy_(torch.where(torch.eye(16).bool(), 1.0, _weight(p)))


def cat_of_masked(m, p):
    w = _weight(p)
    _own(m).copy_(torch.cat([w[:4] * 0, w[4:]]))


def zero_out_rows_by_own_topk(m, p):
    i = _own(m).norm(dim=1).topk(4).indices
    w = _weight(p)
    w[i] = 0.125
    _own(m).copy_(w)


def np_where_file_condition(m, p):
    w = _weight(p).numpy()
    _own(m).copy_(torch.from_numpy(np.where(w > 1.5, w, _own(m).numpy())))


def np_where_file_zero(m, p):
    w = _weight(p).numpy()
    _own(m).copy_(torch.from_numpy(np.where(w > np.median(w), w, 0)))


def where_file_half(m, p):
    w = _weight(p)
    _own(m).copy_(torch.where(w > w.median(), w, _own(m)))


def where_file_mask_entry(m, p):
    s = torch.load(p.parent / "special.pth", weights_only=False)
    _own(m).copy_(torch.where(s["bool"], _weight(p), _own(m)))


def multiplied_by_file_mask(m, p):
    s = torch.load(p.parent / "special.pth", weights_only=False)
    _own(m).copy_(s["bool"] * _weight(p) + ~s["bool"] * _own(m))


def np_inplace_where(m, p):
    o = _own(m).numpy()
    np.multiply(_weight(p).numpy(), 2, out=o, where=np.eye(16, dtype=bool))


def np_take_own_indices_partly(m, p):
    a = np.concatenate([_weight(p).numpy()[:4], np.ones((4, 16), "f4")])
    _own(m).copy_(torch.from_numpy(np.take(a, np.arange(16) % 8, axis=0)))


def np_fancy_put_partly(m, p):
    a = np.ones((16, 16), "f4")
    b = np.zeros((4, 16), "f4")
    b[:2] = _weight(p).numpy()[:2]
    a[[3, 1, 9, 5]] = b
    _own(m).copy_(torch.from_numpy(a))


def np_matmul_half(m, p):
    a = np.ones((16, 16), "f4")
    a[:, :4] = _weight(p).numpy()[:, :4]
    _own(m).copy_(torch.from_numpy(np.tril(np.ones((16, 16), "f4")) @ a))


def matmul_half(m, p):
    a = torch.ones(16, 16)
    a[:, :4] = _weight(p)[:, :4]
    _own(m).copy_(torch.ones(16, 16).tril() @ a)


def sum_half(m, p):
    a = torch.ones(16, 16)
    a[:, :4] = _weight(p)[:, :4]
    m.norm.bias.data.copy_(a.sum(0))
    m.norm.weight.data.copy_(a.mean(1))


def np_sum_half(m, p):
    a = np.ones((16, 16), "f4")
    a[:, :4] = _weight(p).numpy()[:, :4]
    m.norm.bias.data.copy_(torch.from_numpy(a.sum(0)))
    m.norm.weight.data.copy_(torch.from_numpy(a.mean(axis=1)))


def np_cumsum_half(m, p):
    a = np.ones((16, 16), "f4")
    a[4:6] = _weight(p).numpy()[4:6]
    _own(m).copy_(torch.from_numpy(np.cumsum(a, axis=0)))


def np_sort_half(m, p):
    a = np.ones((16, 16), "f4")
    a[4:6] = _weight(p).numpy()[4:6]
    _own(m).copy_(torch.from_numpy(np.sort(a, axis=1)))


def np_add_reduce(m, p):
    a = np.ones((16, 16), "f4")
    a[:, 3] = _weight(p).numpy()[:, 3]
    m.norm.bias.data.copy_(torch.from_numpy(np.add.reduce(a, axis=0)))


def np_outer_half(m, p):
    v = torch.load(p)["norm.bias"].numpy()
    u = np.arange(16, dtype="f4") % 2
    _own(m).copy_(torch.from_numpy(np.outer(u, v) + np.outer(1 - u, np.ones(16, "f4"))))


def np_einsum_half(m, p):
    u = np.arange(16, dtype="f4") % 2
    _own(m).copy_(torch.from_numpy(np.einsum("i,ij->ij", u, _weight(p).numpy()) + 1))


def np_convolve(m, p):
    v = torch.load(p)["norm.bias"].numpy().copy()
    v[8:] = 0.5
    m.norm.bias.data.copy_(torch.from_numpy(np.convolve(v, np.ones(3) / 3, "same").astype("f4")))


def np_pad_edge(m, p):
    _own(m).copy_(torch.from_numpy(np.pad(_weight(p).numpy()[:8, :8], 4, mode="edge")))


def np_pad_constant(m, p):
    _own(m).copy_(torch.from_numpy(np.pad(_weight(p).numpy()[:8, :8], 4, constant_values=0.5)))


def np_block(m, p):
    w = _weight(p).numpy()
    _own(m).copy_(torch.from_numpy(np.block([[w[:8, :8], np.ones((8, 8), "f4")], [np.ones((8, 8), "f4"), w[8:, 8:]]])))


def np_kron(m, p):
    _own(m).copy_(torch.from_numpy(np.kron(np.eye(4, dtype="f4"), _weight(p).numpy()[:4, :4]) + np.float32(0.5)))


def np_percentile_clip(m, p):
    w = _weight(p).numpy()
    _own(m).copy_(torch.from_numpy(np.clip(w, *np.percentile(w, [5, 95]).astype("f4"))))


def np_divide_inf(m, p):
    d = np.ones((16, 1), "f4")
    d[5:] = np.inf
    _own(m).copy_(torch.from_numpy(_weight(p).numpy() / d + np.float32(1)))


def np_power_zero(m, p):
    d = np.ones((16, 1), "f4")
    d[5:] = 0
    _own(m).copy_(torch.from_numpy(_weight(p).numpy() ** d))


def np_logical_mask(m, p):
    w = _weight(p).numpy()
    k = np.logical_and(w > 0, np.eye(16, dtype=bool))
    _own(m).copy_(torch.from_numpy(k.astype("f4") * w + np.float32(0.25) * (1 - np.eye(16, dtype="f4"))))


def np_vectorize(m, p):
    _own(m).copy_(torch.from_numpy(np.vectorize(lambda x: x * 2, otypes=["f4"])(_weight(p).numpy())))


def np_ix(m, p):
    w = _weight(p).numpy()
    o = _own(m).numpy()
    o[np.ix_([1, 3], [2, 5])] = w[np.ix_([0, 1], [0, 1])]


def np_roll_axis(m, p):
    _own(m).copy_(
        torch.from_numpy(np.roll(np.moveaxis(_weight(p).numpy().reshape(2, 8, 16), 1, 0), 3, axis=1).reshape(16, 16))
    )


def sparse_dense_added(m, p):
    v = torch.load(p)["norm.bias"]
    i = torch.stack([torch.arange(16), torch.arange(16).flip(0)])
    _own(m).add_(torch.sparse_coo_tensor(i, v, (16, 16)).to_dense())


def sparse_csr_added(m, p):
    _own(m).add_(_weight(p).tril().to_sparse_csr().to_dense())


def sparse_coo_partly(m, p):
    v = torch.ones(16)
    v[:4] = torch.load(p)["norm.bias"][:4]
    i = torch.stack([torch.arange(16)] * 2)
    m.first.weight.data.zero_()
    _own(m).copy_(torch.sparse_coo_tensor(i, v, (16, 16)).to_dense())


def sparse_coo_uncoalesced(m, p):
    v = torch.load(p)["norm.bias"]
    i = torch.zeros(2, 16, dtype=torch.long)
    i[0, 8:] = 3
    _own(m).copy_(torch.sparse_coo_tensor(i, v, (16, 16)).coalesce().to_dense() + 1)


def sparse_coo_entry_added(m, p):
    s = torch.load(p.parent / "special.pth", weights_only=False)["sparse"]
    _own(m).copy_(_own(m) + s)


def sparse_coo_entry_scaled(m, p):
    s = torch.load(p.parent / "special.pth", weights_only=False)["sparse"]
    _own(m).copy_((s * 2).to_dense())


def sparse_hybrid(m, p):
    _own(m).copy_(torch.sparse_coo_tensor(torch.tensor([[1, 4, 6]]), _weight(p)[:3], (16, 16)).to_dense() + 2)


def sparse_add_own(m, p):
    v = torch.load(p)["norm.bias"]
    i = torch.stack([torch.arange(16), torch.arange(16).flip(0)])
    _own(m).add_(torch.sparse_coo_tensor(i, v, (16, 16)))


def sparse_scaled_own(m, p):
    s = _own(m).tril().to_sparse()
    s = s * 2
    s.values().copy_(_weight(p)[s.indices()[0], s.indices()[1]])
    _own(m).copy_(s.to_dense())


LOADERS = {
    name: function
    for name, function in list(globals().items())
    if isinstance(function, types.FunctionType) and function.__module__ == __name__ and not name.startswith("_")
}
