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


LOADERS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__
}
for helper in ("arrays", "put"):
    LOADERS.pop(helper)
