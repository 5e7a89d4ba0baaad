"""What an operation takes from files is found by trying other values, which must not be the same again by chance."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.following.oracle import elements_from_file, followed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1, 1000])
def test_few_digits_are_soon_the_same(dtype, scale, tmp_path):
    torch.save(torch.rand(1, 1, 16, 16).mul(scale).to(dtype), tmp_path / "w.pth")

    def load(model, path):
        model.register_buffer("at", functional.interpolate(torch.load(path), (96, 96), mode="bicubic"))
        model.register_buffer("mean", functional.adaptive_avg_pool2d(torch.load(path), 1))

    found, left = followed(load, nn.Module(), tmp_path / "w.pth")
    assert all(mask.all() for mask in elements_from_file(found, left).values())


def test_infinite_values_are_of_the_file_too(tmp_path):
    torch.save(torch.full((3, 3), float("-inf")).triu(1), tmp_path / "w.pth")

    def load(model, path):
        model.register_buffer("mask", functional.pad(torch.load(path, weights_only=True), (0, 2, 0, 1)))

    found, left = followed(load, nn.Module(), tmp_path / "w.pth")
    mask = elements_from_file(found, left)["mask"]
    assert mask[:3, :3].all()
    assert mask.sum() == 9
