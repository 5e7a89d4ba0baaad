"""What the steps between a file and a model are called: by the field's words, never by torch's inner ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import ckptdiff
from ckptdiff.following.log.operations import step_of

WORDS = {
    "constant_pad_nd": "pad", "reflection_pad2d": "pad", "upsample_bicubic2d": "interpolate",
    "_upsample_bilinear2d_aa": "interpolate", "linalg_inv_ex": "inv", "_linalg_svd": "svd", "convolution": "conv",
    "linalg_vector_norm": "norm", "_weight_norm_interface": "weight_norm", "_index_put_impl_": "index_put",
    "native_layer_norm": "layer_norm", "_softmax": "softmax", "_fft_r2c": "fft", "_foreach_mul_": "mul", "mul_": "mul",
    "baddbmm": "matmul", "_to_copy": "cast", "cat": "concat", "index_copy_": "index_copy", "roll": "roll",
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_an_operation_has_the_fields_word(name):
    assert step_of(name) == WORDS[name]


def test_none_is_torchs_inner_one():
    for name in dir(torch.ops.aten):
        if not name.startswith("__"):
            word = step_of(name)
            assert word, name
            assert not word.startswith(("_", "native_", "linalg_", "constant_pad", "upsample_")), name
            assert not word.endswith("_"), name


def test_as_a_report_shows_them(tmp_path):
    torch.save({"position": torch.rand(3, 4), "table": torch.rand(1, 2, 4, 4), "matrix": torch.eye(4)}, tmp_path / "w")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.matrix = (nn.Parameter(torch.zeros(*size)) for size in ((5, 4), (4, 4)))
            self.table = nn.Parameter(torch.zeros(1, 2, 7, 7))

    def load(model, path):
        state = torch.load(path, weights_only=True)
        state["position"] = functional.pad(state["position"], (0, 0, 0, 2))
        state["table"] = functional.interpolate(state["table"], size=(7, 7), mode="bicubic")
        state["matrix"] = torch.linalg.inv(state["matrix"])
        model.load_state_dict(state)

    report = ckptdiff.compare(Net(), tmp_path / "w", loader=load)
    assert {targets: operation for _, targets, operation in report.conversions} == {
        ("position",): "pad", ("table",): "interpolate", ("matrix",): "inv",
    }  # fmt: skip


def test_what_changes_nothing_is_no_step(tmp_path):
    sizes = {"padded": (200, 90), "cast": (200, 90), "small": (5,), "twice": (200, 90)}
    torch.save({name: torch.rand(*size) for name, size in sizes.items()}, tmp_path / "w")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, size in sizes.items():
                self.register_parameter(name, nn.Parameter(torch.zeros(*size)))

    def load(model, path):
        state = torch.load(path, weights_only=True)
        state["padded"] = functional.pad(state["padded"], (0, 0, 0, 0))
        state["cast"] = state["cast"].to(torch.float32, copy=True)
        state["small"] = functional.pad(state["small"].to("cpu", copy=True), (0, 0))
        state["twice"] = state["twice"].to(torch.float64).to(torch.float32)
        model.load_state_dict(state)

    report = ckptdiff.compare(Net(), tmp_path / "w", loader=load)
    assert report.complete
    assert report.conversions == [(("twice",), ("twice",), "cast")]
