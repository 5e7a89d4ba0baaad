"""Loaders that hand arrays to compiled functions of other packages."""

from __future__ import annotations

import os

import numpy as np
import torch
from scipy import interpolate, linalg, ndimage

RESIZE = ndimage.zoom


def arrays(path):
    return np.load(os.path.join(os.path.dirname(path), "w.npz"))


def put(m, array):
    with torch.no_grad():
        m.second.weight.copy_(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)))


def zoomed(m, p):
    put(m, ndimage.zoom(arrays(p)["second.weight"][:8, :8], 2, order=1))


def zoomed_by_splines(m, p):
    put(m, RESIZE(arrays(p)["first.weight"], (1, 2)))


def zoomed_tensor(m, p):
    put(m, ndimage.zoom(torch.load(p)["first.weight"].numpy(), (1, 2), order=1))


def zoomed_beside_a_token(m, p):
    held = torch.from_numpy(arrays(p)["second.weight"])
    grid = ndimage.zoom(held[1:4], (5, 1), order=1)
    put(m, np.concatenate([held[:1], grid], axis=0))


def zoomed_into(m, p):
    out = np.empty((16, 16), np.float32)
    ndimage.zoom(arrays(p)["first.weight"], (1, 2), output=out, order=1)
    put(m, out)


def zoomed_into_a_part(m, p):
    out = np.zeros((16, 16), np.float32)
    ndimage.gaussian_filter(arrays(p)["first.weight"], 1, output=out[:, :8])
    m.second.weight.data[:, :8] = torch.from_numpy(out[:, :8].copy())


def own_values_zoomed(m, p):
    kept = arrays(p)["norm.bias"]
    put(m, ndimage.zoom(np.ones((8, 8), np.float32), 2, order=1))
    m.norm.bias.data.copy_(torch.from_numpy(kept))


def own_values_beside(m, p):
    kept = arrays(p)["first.weight"]
    put(m, np.hstack([kept, ndimage.zoom(np.ones((16, 4)), (1, 2), order=1)]))


def shuffled_rows(m, p):
    array = arrays(p)["second.weight"].copy()
    np.random.shuffle(array)
    put(m, array)


def permuted_rows(m, p):
    put(m, np.random.permutation(arrays(p)["second.weight"]))


def drawn_around(m, p):
    put(m, np.random.normal(arrays(p)["second.weight"]))


def interpolated(m, p):
    grid = interpolate.RegularGridInterpolator((np.arange(16), np.arange(8)), arrays(p)["first.weight"])
    put(m, grid(np.stack(np.meshgrid(np.arange(16), np.linspace(0, 7, 16), indexing="ij"), -1)))


def splined(m, p):
    spline = interpolate.RectBivariateSpline(np.arange(16), np.arange(8), arrays(p)["first.weight"])
    put(m, spline(np.arange(16), np.linspace(0, 7, 16)))


def decomposed(m, p):
    u, s, v = linalg.svd(arrays(p)["second.weight"])
    put(m, (u * s) @ v)


def solved(m, p):
    put(m, linalg.inv(arrays(p)["second.weight"] + 20 * np.eye(16)))


def decomposed_in_part(m, p):
    u, s, v = linalg.svd(arrays(p)["second.weight"], full_matrices=False)
    put(m, (u[:, :4] * s[:4]) @ v[:4])


def eigenvectors(m, p):
    weight = arrays(p)["second.weight"]
    values, vectors = linalg.eigh(weight @ weight.T)
    put(m, vectors * values)


def orthogonal_factor(m, p):
    q, _ = linalg.qr(arrays(p)["second.weight"])
    put(m, q)


def pseudo_inverse(m, p):
    put(m, linalg.pinv(arrays(p)["second.weight"]))


def equations(m, p):
    put(m, linalg.solve(arrays(p)["second.weight"], np.eye(16, dtype="f4")))


def exponential(m, p):
    put(m, linalg.expm(arrays(p)["second.weight"] * 0.01))


def over_the_norm(m, p):
    weight = arrays(p)["second.weight"]
    put(m, weight / linalg.norm(weight))


def checked_for_infinities(m, p):
    put(m, np.asarray_chkfinite(arrays(p)["second.weight"], dtype="f8"))


def overwritten_by_its_inverse(m, p):
    weight = arrays(p)["second.weight"].astype("f8")
    square = np.asfortranarray(weight @ weight.T + np.eye(16))
    linalg.inv(square, overwrite_a=True)
    put(m, square)


def blocks(m, p):
    put(m, linalg.block_diag(arrays(p)["second.weight"][:8, :8], np.eye(8)))


def its_own_decomposed(m, p):
    u, s, v = linalg.svd(m.second.weight.data.numpy())
    m.load_state_dict(torch.load(p))
    put(m, u * s @ v)


LOADERS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__
}
for helper in ("arrays", "put"):
    LOADERS.pop(helper)
