"""Loaders by what they do with values: write twice, compute, swap, leave tensors for numbers: `load(model, path)`."""

# ruff: noqa: B905 - as people write them

from __future__ import annotations

import copy
import ctypes
import io
import math
import operator
import pickle
import queue
import struct
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn


def ema_shadow(m, p):
    m.load_state_dict(torch.load(p))
    shadow = {k: v.detach().clone() for k, v in m.named_parameters()}
    with torch.no_grad():
        for v in m.parameters():
            v.add_(torch.ones_like(v))
        for k, v in m.named_parameters():
            shadow[k].mul_(0.5).add_(v, alpha=0.5)
            v.copy_(shadow[k])


def model_ema_v3(m, p):
    shadow = copy.deepcopy(m)
    m.load_state_dict(torch.load(p))
    ema, own = [], []
    for a, b in zip(shadow.state_dict().values(), m.state_dict().values()):
        if a.is_floating_point():
            ema.append(a)
            own.append(b)
        else:
            a.copy_(b)
    torch._foreach_lerp_(ema, own, weight=0.25)
    m.load_state_dict(shadow.state_dict())


def foreach_mul_add(m, p):
    shadow = copy.deepcopy(m)
    m.load_state_dict(torch.load(p))
    ema = [v for v in shadow.state_dict().values() if v.is_floating_point()]
    own = [v for v in m.state_dict().values() if v.is_floating_point()]
    torch._foreach_mul_(ema, 0.9)
    torch._foreach_add_(ema, own, alpha=0.1)
    torch._foreach_copy_(own, ema)


def foreach_scalars(m, p):
    m.load_state_dict(torch.load(p))
    with torch.no_grad():
        torch._foreach_mul_([m.second.weight, m.first.weight], [0.0, 2.0])


def foreach_zero(m, p):
    m.load_state_dict(torch.load(p))
    with torch.no_grad():
        torch._foreach_zero_([m.second.weight, m.first.bias])


def foreach_new_lists(m, p):
    sd = torch.load(p)
    made = torch._foreach_add([sd["second.weight"], sd["first.weight"]], [torch.ones(16, 16), torch.ones(16, 8)])
    m.second.weight.data, m.first.weight.data = made[0], made[1].clone()


def weighed_by_nothing(m, p):
    sd = torch.load(p)
    m.second.weight.data.add_(sd["second.weight"], alpha=0.0)
    m.first.weight.data.copy_(m.first.weight + 0.0 * sd["first.weight"])
    m.first.bias.data.lerp_(sd["first.bias"], 0.0)
    m.norm.weight.data.addcmul_(sd["norm.weight"], sd["norm.bias"], value=0)
    torch._foreach_add_([m.norm.bias.data, m.norm.running_mean], [sd["norm.bias"], sd["norm.running_mean"]], alpha=0)
    m.embed.weight.data.sub_(sd["embed.weight"], alpha=0.5)


def masked_blend(m, p):
    sd = torch.load(p)
    mask = (torch.arange(m.first.weight.shape[1]) % 2).bfloat16()
    m.first.weight.data.copy_(mask * sd["first.weight"] + (1 - mask) * m.first.weight)
    m.first.bias.data.mul_(0.0).add_(sd["first.bias"])
    keep = torch.zeros_like(m.second.weight)
    keep[:1] = 1
    m.second.weight.data.lerp_(sd["second.weight"], keep)
    m.norm.weight.data.addcmul_(sd["norm.weight"], (torch.arange(m.norm.weight.numel()) > 2).float())
    m.norm.bias.data.add_(sd["norm.bias"] * torch.tensor(0.0))
    m.embed.weight.data.copy_(torch.tril(torch.ones_like(m.embed.weight)) * sd["embed.weight"])


def numpy_masked_blend(m, p):
    sd = torch.load(p)
    mask = (np.arange(m.first.weight.shape[1]) % 2).astype(np.float32)
    array, own = sd["first.weight"].numpy(), m.first.weight.detach().numpy()
    m.first.weight.data.copy_(torch.from_numpy(mask * array + (1 - mask) * own))
    m.norm.weight.data.copy_(torch.from_numpy(m.norm.weight.detach().numpy() + 0.0 * sd["norm.weight"].numpy()))


def decayed_by_one(m, p):
    sd = torch.load(p)
    for k, v in m.named_parameters():
        v.data.mul_(1.0).add_(sd[k], alpha=1 - 1.0)


def swa_average(m, p):
    other = copy.deepcopy(m)
    m.load_state_dict(torch.load(p))
    averaged = torch.optim.swa_utils.AveragedModel(other)
    averaged.update_parameters(m)
    averaged.update_parameters(other)
    m.load_state_dict(averaged.module.state_dict())


def three_steps(m, p):
    m.load_state_dict(torch.load(p))
    optimizer = torch.optim.SGD(m.parameters(), lr=1e-5, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        m.second(m.first(torch.ones(2, 8))).pow(2).sum().backward()
        optimizer.step()


def weight_decay(m, p):
    m.load_state_dict(torch.load(p))
    optimizer = torch.optim.AdamW([m.first.weight, m.second.weight], lr=0.1, foreach=True)
    (m.first.weight.sum() + m.second.weight.sum()).backward()
    optimizer.step()


def delta_subtracted(m, p):
    before = copy.deepcopy(m.state_dict())
    m.load_state_dict(torch.load(p))
    for k, v in m.state_dict().items():
        if v.is_floating_point():
            v.sub_(before[k]).add_(before[k])


def lora_merged(m, p):
    sd = torch.load(p)
    down, up = sd["first.weight"].t()[:2], sd["second.weight"][:, :2]
    with torch.no_grad():
        m.first.weight[:2] += down[:, :8]
        m.second.weight += 0.5 * (up @ up.t())


def swap_by_tuple(m, p):
    m.load_state_dict(torch.load(p))
    m.norm.weight.data, m.norm.bias.data = m.norm.bias.data, m.norm.weight.data


def swap_modules(m, p):
    m.load_state_dict(torch.load(p))
    m.embed, m.head = m.head, m.embed


def swap_through_zero(m, p):
    sd = torch.load(p)
    m.load_state_dict(sd)
    kept = m.norm.weight.detach().clone()
    m.norm.weight.data.zero_()
    m.norm.weight.data += m.norm.bias.data
    m.norm.bias.data.copy_(kept)


def rotate_rows(m, p):
    m.load_state_dict(torch.load(p))
    w = m.second.weight.data
    first = w[0].clone()
    w[:-1] = w[1:].clone()
    w[-1] = first


def reversed_in_place(m, p):
    m.load_state_dict(torch.load(p))
    w = m.second.weight.data
    w.copy_(w.flip(0))


def interleaved_columns(m, p):
    sd = torch.load(p)
    m.second.weight.data[:, 0::2] = sd["second.weight"][:, :8]
    m.second.weight.data[:, 1::2] = sd["second.weight"][:, 8:]


def interleaved_half(m, p):
    sd = torch.load(p)
    m.second.weight.data[:, 1::2] = sd["second.weight"][:, 8:]


def diagonal(m, p):
    m.second.weight.data.diagonal().copy_(torch.load(p)["norm.bias"])


def upper_triangle(m, p):
    w = torch.load(p)["second.weight"]
    rows, columns = torch.triu_indices(16, 16)
    m.second.weight.data[rows, columns] = w[rows, columns]


def boolean_mask(m, p):
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[2:5, 3:7] = True
    m.second.weight.data[mask] = torch.load(p)["second.weight"][mask]


def masked_scatter(m, p):
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[::3] = True
    m.second.weight.data.masked_scatter_(mask, torch.load(p)["second.weight"])


def masked_fill_after(m, p):
    m.load_state_dict(torch.load(p))
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[3] = True
    m.second.weight.data.masked_fill_(mask, 0.0)


def where_new(m, p):
    w = torch.load(p)["second.weight"]
    keep = torch.arange(16) % 2 == 0
    m.second.weight.data.copy_(torch.where(keep, w, torch.zeros(())))


def index_add(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.index_add_(0, torch.tensor([1, 1, 4]), w[:3])


def index_copy(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.index_copy_(1, torch.tensor([1, 3]), w[:, :2])


def index_fill_after(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.index_fill_(0, torch.tensor([0, 15]), 0.5)


def scatter_add(m, p):
    w = torch.load(p)["norm.bias"]
    m.second.weight.data.scatter_add_(1, torch.zeros(16, 1, dtype=torch.long), w[:, None])


def put_in(m, p):
    w = torch.load(p)["norm.bias"]
    m.second.weight.data.put_(torch.tensor([0, 17, 34]), w[:3])


def put_accumulated(m, p):
    w = torch.load(p)["norm.bias"]
    m.second.weight.data.index_put_((torch.tensor([0, 0]), torch.tensor([1, 1])), w[:2], accumulate=True)


def unfold_folded(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.copy_(w.unfold(0, 4, 4).permute(0, 2, 1).reshape(16, 16))


def strided_reader(m, p):
    w = torch.load(p)["second.weight"]
    m.norm.bias.data.copy_(torch.as_strided(w, (16,), (17,)))


def hankel_overlap(m, p):
    w = torch.load(p)["second.weight"].reshape(-1)
    m.second.weight.data.copy_(torch.as_strided(w, (16, 16), (1, 1)))


def into_overlap(m, p):
    w = torch.load(p)["norm.bias"]
    torch.as_strided(m.second.weight.data, (4, 4), (2, 1)).copy_(w.view(4, 4))


def view_written(m, p):
    sd = torch.load(p)
    sd["second.weight"].view(-1)[::2].mul_(3)
    sd["second.weight"].t()[0].zero_()
    m.load_state_dict(sd)


def slot_of_file_replaced(m, p):
    sd = torch.load(p)
    sd["second.weight"][:4] = sd["second.weight"][4:8]
    sd["second.weight"][8:] = m.second.weight.data[8:]
    m.load_state_dict(sd)


def tied_in_file_written(m, p):
    sd = torch.load(p)
    sd["head.weight"].fill_(1.0)
    m.load_state_dict(sd)


def shape_only_like(m, p):
    sd = torch.load(p)
    m.load_state_dict({k: torch.ones_like(v) for k, v in sd.items()})


def dtype_only(m, p):
    sd = torch.load(p)
    m.second.weight.data = torch.randn(sd["second.weight"].shape, dtype=sd["second.weight"].dtype)


def rand_like_after(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.copy_(torch.rand_like(m.second.weight))


def uniform_like_new(m, p):
    m.second.weight.data = torch.load(p)["second.weight"].new_empty(16, 16).uniform_(-1, 1)


def noise_added(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.add_(torch.randn(16, 16) * 0.1)


def dropout_of(m, p):
    m.second.weight.data.copy_(nn.functional.dropout(torch.load(p)["second.weight"], 0.5))


def initialised_after_random(m, p):
    torch.randn(3)
    sd = torch.load(p)
    m.second = nn.Linear(16, 16, bias=False)
    m.first.load_state_dict({k[6:]: v for k, v in sd.items() if k.startswith("first.")})


def sampled_rows(m, p):
    order = torch.randperm(16)
    m.second.weight.data.copy_(torch.load(p)["second.weight"][order])


def multinomial_rows(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data[torch.multinomial(torch.ones(16), 4)] = w[:4]


def item_to_fill(m, p):
    m.scale.fill_(torch.load(p)["norm.bias"][0].item())


def item_to_index(m, p):
    sd = torch.load(p)
    m.second.weight.data[int(sd["norm.bias"][0] * 0)] = sd["second.weight"][0]


def float_to_mul(m, p):
    sd = torch.load(p)
    m.load_state_dict(sd)
    m.scale.mul_(float(sd["norm.bias"].mean()))


def list_to_tensor(m, p):
    m.norm.bias.data.copy_(torch.tensor(torch.load(p)["norm.bias"].tolist()))


def list_comprehension(m, p):
    m.norm.bias.data = torch.tensor([float(x) for x in torch.load(p)["norm.bias"]])


def python_sum(m, p):
    m.scale.fill_(sum(torch.load(p)["norm.bias"].tolist()))


def branch_on_value(m, p):
    sd = torch.load(p)
    if sd["norm.bias"].sum() > 16.5:
        m.scale.zero_()
    m.first.load_state_dict({"weight": sd["first.weight"], "bias": sd["first.bias"]})


def branch_writes_constant(m, p):
    sd = torch.load(p)
    if sd["norm.num_batches_tracked"].item() > 0:
        m.scale.fill_(5.0)


def lr_in_closure(m, p):
    sd = torch.load(p)
    lr = sd["norm.bias"].abs().max().item()
    m.scale.sub_(torch.ones(3) * lr)


def formatted(m, p):
    sd = torch.load(p)
    m.note = f"{sd['norm.bias'][0]:.3f} {sd['norm.bias'].mean():>8.2e} {sd['scale']}"
    m.load_state_dict(sd)


def printed_and_logged(m, p):
    sd = torch.load(p)
    print({k: (v.shape, v.mean() if v.is_floating_point() else v) for k, v in sd.items()}, file=io.StringIO())
    m.load_state_dict(sd)


def sorted_by_value(m, p):
    w = torch.load(p)["second.weight"]
    order = sorted(range(16), key=lambda i: float(w[i, 0]))
    m.second.weight.data.copy_(w[order])


def argsorted(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.copy_(w[w[:, 0].argsort()])


def topk_pruned(m, p):
    w = torch.load(p)["second.weight"]
    threshold = w.abs().flatten().kthvalue(64).values
    m.second.weight.data.copy_(w * (w.abs() > threshold))


def unique_rows(m, p):
    w = torch.load(p)["norm.bias"]
    m.norm.bias.data.copy_(w.unique()[:16])


def nonzero_used(m, p):
    w = torch.load(p)["second.weight"]
    rows, columns = w.nonzero(as_tuple=True)
    m.second.weight.data[rows, columns] = w[rows, columns]


def hex_of_floats(m, p):
    values = [struct.unpack("f", struct.pack("f", x))[0] for x in torch.load(p)["norm.bias"].tolist()]
    m.norm.bias.data.copy_(torch.tensor(values))


def items_in_an_array(m, p):
    found = np.ones(3, "f4")
    for i in range(3):
        found[i] = torch.load(p)["norm.bias"][i].item()
    m.scale.copy_(torch.tensor(found))


def array_full_of_an_item(m, p):
    m.scale.copy_(torch.from_numpy(np.full(3, torch.load(p)["norm.bias"][0].item(), "f4")))


def items_past_the_dispatcher(m, p):
    m.scale = torch.FloatTensor([x.item() for x in torch.load(p)["norm.bias"][:3]])


def items_past_the_dispatcher_computed(m, p):
    m.scale = torch.Tensor([torch.load(p)["norm.bias"][0].item()] * 3) * 2 + 1


def constants_before_a_look(m, p):
    m.scale = torch.Tensor([0.1, 0.2, 0.3])
    sd = torch.load(p)
    assert sd["norm.bias"].sum().item() > 0
    m.first.load_state_dict({"weight": sd["first.weight"], "bias": sd["first.bias"]})


def conjugated_and_negative(m, p):
    z = torch.load(p.parent / "special.pth", weights_only=False)["complex"]
    m.register_buffer("conjugated", (z * 2).conj())
    m.register_buffer("negative", (z + 1).conj().imag)


def math_of_items(m, p):
    m.scale[0] = math.sqrt(torch.load(p)["norm.bias"][3].abs())


def set_item_scalar(m, p):
    sd = torch.load(p)
    for i in range(3):
        m.scale[i] = sd["norm.bias"][i]


def set_item_float(m, p):
    sd = torch.load(p)
    m.scale[1] = float(sd["norm.bias"][1])


def numpy_view_written(m, p):
    sd = torch.load(p)
    a = sd["second.weight"].numpy()
    a[2:4] *= 2
    m.load_state_dict(sd)


def numpy_of_model_written(m, p):
    a = m.second.weight.detach().numpy()
    a[:, 3] = torch.load(p)["norm.bias"].numpy()


def numpy_assigned_all(m, p):
    m.second.weight.data.numpy()[...] = torch.load(p)["second.weight"].numpy().T


def numpy_copyto_where(m, p):
    mask = np.zeros((16, 16), bool)
    mask[5] = True
    np.copyto(m.second.weight.data.numpy(), torch.load(p)["second.weight"].numpy(), where=mask)


def numpy_out_argument(m, p):
    a = torch.load(p)["second.weight"].numpy()
    np.multiply(a, 2, out=m.second.weight.data.numpy())


def numpy_add_at(m, p):
    np.add.at(m.second.weight.data.numpy(), [1, 2], torch.load(p)["second.weight"].numpy()[:2])


def numpy_put(m, p):
    np.put(m.second.weight.data.numpy(), [0, 5], torch.load(p)["norm.bias"].numpy()[:2])


def numpy_place(m, p):
    a = m.second.weight.data.numpy()
    np.place(a, np.eye(16, dtype=bool), torch.load(p)["norm.bias"].numpy())


def numpy_fill_diagonal(m, p):
    np.fill_diagonal(m.second.weight.data.numpy(), torch.load(p)["norm.bias"].numpy())


def numpy_dot_out(m, p):
    w = torch.load(p)["second.weight"].numpy()
    np.dot(w, w, out=m.second.weight.data.numpy())


def numpy_einsum(m, p):
    w = torch.load(p)["second.weight"].numpy()
    m.second.weight.data.copy_(torch.from_numpy(np.einsum("ij,kj->ik", w, w)))


def numpy_sort_in_place(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.numpy().sort(axis=0)


def numpy_fill_method(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.numpy().fill(3.0)


def numpy_resize_like(m, p):
    w = torch.load(p)["second.weight"].numpy()
    m.first.weight.data.copy_(torch.from_numpy(np.resize(w, (16, 8))))


def numpy_flat_iterator(m, p):
    w = torch.load(p)["second.weight"].numpy()
    m.second.weight.data.numpy().flat[:] = w.flat[:]


def numpy_nditer(m, p):
    w = torch.load(p)["second.weight"].numpy()
    total = 0.0
    for x in np.nditer(w):
        total += float(x)
    m.scale.fill_(total)


def numpy_for_loop(m, p):
    w = torch.load(p)["norm.bias"].numpy()
    out = m.norm.bias.data.numpy()
    for i in range(16):
        out[i] = w[i]


def numpy_scalars(m, p):
    w = torch.load(p)["norm.bias"].numpy()
    m.scale.copy_(torch.tensor([w[0], w[1], w[2]]))


def numpy_array_protocol(m, p):
    m.norm.bias.data.copy_(torch.as_tensor(np.asarray(torch.load(p)["norm.bias"])))


def numpy_mean(m, p):
    m.scale.fill_(np.mean(torch.load(p)["norm.bias"].numpy()))


def numpy_ufunc_on_tensor(m, p):
    m.norm.bias.data.copy_(torch.as_tensor(np.sqrt(np.abs(torch.load(p)["norm.bias"]))))


def numpy_float16(m, p):
    a = torch.load(p)["second.weight"].numpy().astype(np.float16)
    m.second.weight.data.copy_(torch.from_numpy(a.astype(np.float32)))


def numpy_view_bits(m, p):
    a = torch.load(p)["second.weight"].numpy().view(np.int32)
    m.second.weight.data.copy_(torch.from_numpy(a.view(np.float32).copy()))


def numpy_bf16_bits(m, p):
    a = torch.load(p)["second.weight"].bfloat16().view(torch.int16).numpy()
    m.second.weight.data.copy_(torch.from_numpy(a).view(torch.bfloat16).float())


def numpy_structured(m, p):
    a = np.zeros(16, dtype=[("x", np.float32), ("y", np.float32)])
    a["x"] = torch.load(p)["norm.bias"].numpy()
    m.norm.bias.data.copy_(torch.from_numpy(np.ascontiguousarray(a["x"])))


def numpy_masked(m, p):
    a = np.ma.array(torch.load(p)["norm.bias"].numpy(), mask=[0] * 16)
    m.norm.bias.data.copy_(torch.from_numpy(a.filled(0)))


def numpy_object_array(m, p):
    a = np.array([torch.load(p)["norm.bias"].numpy(), None], dtype=object)
    m.norm.bias.data.copy_(torch.from_numpy(a[0]))


def numpy_negative_stride(m, p):
    m.norm.bias.data.copy_(torch.from_numpy(torch.load(p)["norm.bias"].numpy()[::-1].copy()))


def numpy_vstack(m, p):
    b = torch.load(p)["norm.bias"].numpy()
    m.second.weight.data.copy_(torch.from_numpy(np.vstack([b] * 8 + [np.zeros_like(b)] * 8)))


def numpy_where(m, p):
    w = torch.load(p)["second.weight"].numpy()
    m.second.weight.data.copy_(torch.from_numpy(np.where(np.eye(16), w, 0).astype(np.float32)))


def numpy_split(m, p):
    a, b = np.split(torch.load(p)["second.weight"].numpy(), 2)
    m.second.weight.data.copy_(torch.from_numpy(np.concatenate([b, a])))


def numpy_pad(m, p):
    a = torch.load(p)["second.weight"].numpy()[:8, :8]
    m.second.weight.data.copy_(torch.from_numpy(np.pad(a, ((0, 8), (0, 8)))))


def numpy_take(m, p):
    a = torch.load(p)["second.weight"].numpy()
    m.second.weight.data.copy_(torch.from_numpy(np.take(a, np.arange(15, -1, -1), axis=0)))


def numpy_random_mix(m, p):
    a = torch.load(p)["second.weight"].numpy()
    m.second.weight.data.copy_(torch.from_numpy((a + np.random.default_rng(0).random((16, 16))).astype(np.float32)))


def numpy_in_thread(m, p):
    a = torch.load(p)["norm.bias"].numpy()
    out = m.norm.bias.data.numpy()

    def work():
        out[:] = a

    t = threading.Thread(target=work)
    t.start()
    t.join()


def memoryview_read(m, p):
    view = memoryview(torch.load(p)["norm.bias"].numpy())
    m.norm.bias.data.copy_(torch.tensor(list(view)))


def memoryview_written(m, p):
    view = memoryview(m.norm.bias.data.numpy()).cast("B")
    view[:] = memoryview(torch.load(p)["norm.bias"].numpy()).cast("B")


def bytes_round(m, p):
    data = bytearray(torch.load(p)["norm.bias"].numpy().tobytes())
    m.norm.bias.data.copy_(torch.frombuffer(data, dtype=torch.float32))


def storage_bytes(m, p):
    data = bytes(torch.load(p)["norm.bias"].untyped_storage())
    m.norm.bias.data.copy_(torch.frombuffer(bytearray(data), dtype=torch.float32))


def storage_list(m, p):
    m.norm.bias.data.copy_(torch.tensor(torch.load(p)["norm.bias"].storage().tolist()))


def storage_items(m, p):
    storage = torch.load(p)["norm.bias"].storage()
    target = m.norm.bias.data.storage()
    for i in range(16):
        target[i] = storage[i]


def storage_fill(m, p):
    m.load_state_dict(torch.load(p))
    m.norm.bias.data.untyped_storage().fill_(0)


def storage_clone(m, p):
    storage = torch.load(p)["norm.bias"].untyped_storage().clone()
    m.norm.bias.data = torch.empty(0).set_(storage, 0, (16,))


def storage_resized(m, p):
    m.load_state_dict(torch.load(p))
    storage = m.norm.bias.data.untyped_storage()
    storage.resize_(32)
    m.norm.bias.data = torch.empty(0).set_(storage, 0, (8,))


def memmoved(m, p):
    w = torch.load(p)["norm.bias"]
    ctypes.memmove(m.norm.bias.data_ptr(), w.data_ptr(), 64)


def ctypes_floats(m, p):
    w = torch.load(p)["norm.bias"]
    held = (ctypes.c_float * 16).from_address(w.data_ptr())
    m.norm.bias.data.copy_(torch.tensor(list(held)))


def ctypes_written(m, p):
    w = torch.load(p)["norm.bias"].tolist()
    held = (ctypes.c_float * 16).from_address(m.norm.bias.data_ptr())
    held[:] = w


def string_at(m, p):
    w = torch.load(p)["norm.bias"]
    m.norm.bias.data.copy_(torch.frombuffer(bytearray(ctypes.string_at(w.data_ptr(), 64)), dtype=torch.float32))


def dlpack_both(m, p):
    m.norm.bias.data.copy_(torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(torch.load(p)["norm.bias"])))


def numpy_dlpack(m, p):
    m.norm.bias.data.copy_(torch.from_numpy(np.from_dlpack(torch.load(p)["norm.bias"]).copy()))


def array_module(m, p):
    import array

    held = array.array("f", torch.load(p)["norm.bias"].tolist())
    m.norm.bias.data.copy_(torch.frombuffer(held, dtype=torch.float32))


def queued(m, p):
    q = queue.Queue()

    def produce():
        for item in torch.load(p).items():
            q.put(item)
        q.put(None)

    threading.Thread(target=produce, daemon=True).start()
    own = m.state_dict()
    while (item := q.get()) is not None:
        own[item[0]].copy_(item[1])


def queued_for_processes(m, p):
    q = torch.multiprocessing.SimpleQueue()
    q.put(torch.load(p)["norm.bias"])
    m.norm.bias.data.copy_(q.get())


def threads_p_data(m, p):
    sd = torch.load(p)

    def one(item):
        item[1].data = sd[item[0]]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, m.named_parameters()))


def thread_subclass(m, p):
    class Worker(threading.Thread):
        def run(self):
            m.load_state_dict(torch.load(p))

    w = Worker()
    w.start()
    w.join()


def timer(m, p):
    t = threading.Timer(0.01, lambda: m.load_state_dict(torch.load(p)))
    t.start()
    t.join()


def low_level_thread(m, p):
    import _thread

    done = threading.Event()

    def work():
        m.load_state_dict(torch.load(p))
        done.set()

    _thread.start_new_thread(work, ())
    done.wait(10)


def error_in_thread(m, p):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: m.load_state_dict({"x": torch.load(p)["scale"]})).result()


def pickle_state(m, p):
    m.load_state_dict(torch.load(p))
    other = pickle.loads(pickle.dumps(m.state_dict()))
    nn.init.zeros_(m.second.weight)
    m.load_state_dict(other)


def initial_pickled(m, p):
    before = pickle.dumps(m.state_dict())
    m.load_state_dict(torch.load(p))
    m.second.load_state_dict({"weight": pickle.loads(before)["second.weight"]})


def initial_streamed(m, p):
    stream = io.BytesIO()
    torch.save(m.state_dict(), stream)
    stream.seek(0)
    m.load_state_dict(torch.load(p))
    m.norm.load_state_dict({k[5:]: v for k, v in torch.load(stream).items() if k.startswith("norm.")})


def shallow_copied(m, p):
    sd = torch.load(p)
    other = {k: copy.copy(v) for k, v in sd.items()}
    sd["second.weight"].zero_()
    m.load_state_dict(other)


def deep_copied_state(m, p):
    sd = torch.load(p)
    other = copy.deepcopy(sd)
    sd["second.weight"].zero_()
    m.load_state_dict(other)


def set_from_other(m, p):
    w = torch.load(p)["second.weight"]
    with torch.no_grad():
        m.second.weight.set_(w.untyped_storage(), 16, (8, 16), (16, 1))


def data_is_view(m, p):
    m.norm.bias.data = torch.load(p)["second.weight"][3]


def data_shared(m, p):
    w = torch.load(p)["norm.bias"]
    m.norm.bias.data = w
    m.norm.weight.data = w
    m.norm.bias.data[0] = 9.0


def data_none_then(m, p):
    m.second.weight = None
    m.second.weight = nn.Parameter(torch.load(p)["second.weight"])


def deleted_and_registered(m, p):
    del m.second.weight
    m.second.register_parameter("weight", nn.Parameter(torch.load(p)["second.weight"]))


def chained_sums(m, p):
    w = torch.load(p)["second.weight"]
    for _ in range(1500):
        w = w + 1
    m.second.weight.data.copy_(w)


def reduced(m, p):
    from functools import reduce

    sd = torch.load(p)
    m.norm.bias.data.copy_(reduce(operator.add, [sd["second.weight"][i] for i in range(4)]))


def deque_of_rows(m, p):
    rows = deque(torch.load(p)["second.weight"])
    rows.rotate(3)
    m.second.weight.data.copy_(torch.stack(list(rows)))


def complex_parts(m, p):
    w = torch.load(p)["first.weight"]
    z = torch.complex(w, w * 2)
    m.first.weight.data.copy_((z * z.conj()).real)


def fft(m, p):
    m.norm.bias.data.copy_(torch.fft.ifft(torch.fft.fft(torch.load(p)["norm.bias"])).real)


def interpolated(m, p):
    w = torch.load(p)["embed.weight"]
    m.second.weight.data.copy_(nn.functional.interpolate(w[None, None], (16, 16), mode="bilinear")[0, 0])


def out_variant(m, p):
    w = torch.load(p)["second.weight"]
    torch.mul(w, 2, out=m.second.weight.data)


def out_cat(m, p):
    w = torch.load(p)["second.weight"]
    torch.cat([w[8:], w[:8]], out=m.second.weight.data)


def out_index_select(m, p):
    w = torch.load(p)["second.weight"]
    torch.index_select(w, 0, torch.arange(15, -1, -1), out=m.second.weight.data)


def addmm_in_place(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.addmm_(w, w, beta=0.0)


def baddbmm(m, p):
    w = torch.load(p)["second.weight"].view(4, 4, 16)
    m.second.weight.data.copy_(torch.bmm(w, torch.eye(16).expand(4, 16, 16)).view(16, 16))


def lerp_zero(m, p):
    w = torch.load(p)["second.weight"]
    m.second.weight.data.lerp_(w, 0.5)


def clamp_all(m, p):
    m.load_state_dict(torch.load(p))
    m.second.weight.data.clamp_(min=1.2)


def nan_to_num(m, p):
    m.second.weight.data.copy_(torch.nan_to_num(torch.load(p)["second.weight"]))


def cumsum(m, p):
    m.second.weight.data.copy_(torch.load(p)["second.weight"].cumsum(0))


def normalised(m, p):
    m.second.weight.data.copy_(nn.functional.normalize(torch.load(p)["second.weight"], dim=1))


def softmaxed(m, p):
    m.second.weight.data.copy_(torch.load(p)["second.weight"].softmax(1))


def svd_truncated(m, p):
    u, s, v = torch.svd_lowrank(torch.load(p)["second.weight"], 4)
    m.second.weight.data.copy_(u @ torch.diag(s) @ v.t())


def pseudo_inverse(m, p):
    m.second.weight.data.copy_(torch.linalg.pinv(torch.load(p)["second.weight"]))


def cholesky_fails(m, p):
    torch.linalg.cholesky(torch.load(p)["second.weight"] * 0 - torch.eye(16))


def bad_gather(m, p):
    torch.load(p)["second.weight"].gather(0, torch.tensor([[99]]))


def bad_item(m, p):
    torch.load(p)["second.weight"].item()


def bad_bool(m, p):
    if torch.load(p)["second.weight"]:
        pass


def bad_numpy(m, p):
    torch.load(p)["second.weight"].requires_grad_().numpy()


def bad_dtype_index(m, p):
    torch.load(p)["second.weight"][torch.tensor([0.5])]


def bad_reshape_in_place(m, p):
    m.second.weight.data.resize_(3, 5).copy_(torch.load(p)["second.weight"])


def bad_cat(m, p):
    sd = torch.load(p)
    torch.cat([sd["second.weight"], sd["first.weight"]])


def bad_stack(m, p):
    sd = torch.load(p)
    torch.stack([sd["second.weight"], sd["first.weight"]])


def bad_in_place_broadcast(m, p):
    sd = torch.load(p)
    m.norm.bias.data.add_(sd["second.weight"])


def bad_int_mean(m, p):
    torch.load(p)["norm.num_batches_tracked"].mean()


def bad_half_on_cpu(m, p):
    torch.load(p)["second.weight"].half() @ torch.ones(16, 16)


def bad_float8(m, p):
    w = torch.load(p)["second.weight"].to(torch.float8_e4m3fn)
    w + w


def bad_leaf(m, p):
    m.second.weight.add_(torch.load(p)["second.weight"])


def bad_inference(m, p):
    with torch.inference_mode():
        w = torch.load(p)["second.weight"]
    w.requires_grad_()
    (w * 2).sum().backward()
    w.mul_(2)


def batch_norm_trained(m, p):
    m.load_state_dict(torch.load(p))
    m.train()
    for _ in range(2):
        m.norm(m.first(torch.ones(4, 8) * torch.arange(4)[:, None]))


def batch_norm_functional(m, p):
    sd = torch.load(p)
    nn.functional.batch_norm(sd["second.weight"], m.norm.running_mean, m.norm.running_var, training=True)


def batch_norm_reset(m, p):
    m.load_state_dict(torch.load(p))
    m.norm.reset_running_stats()


def embedding_renormalised(m, p):
    m.load_state_dict(torch.load(p))
    nn.functional.embedding(torch.tensor([0, 2]), m.embed.weight, max_norm=0.5)


def observed(m, p):
    from torch.ao.quantization import FusedMovingAvgObsFakeQuantize, MinMaxObserver

    m.observer, m.fake = MinMaxObserver(), FusedMovingAvgObsFakeQuantize()
    m.observer(torch.load(p)["second.weight"])
    m.fake(torch.load(p)["second.weight"])


def instance_norm(m, p):
    norm = nn.InstanceNorm1d(16, track_running_stats=True)
    norm(torch.load(p)["second.weight"][None])
    m.norm.running_mean.copy_(norm.running_mean)


def spectral_norm_power(m, p):
    m.load_state_dict(torch.load(p))
    m.second = nn.utils.spectral_norm(m.second)
    m.second(torch.ones(1, 16))


LOADERS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and not isinstance(value, type)
}
