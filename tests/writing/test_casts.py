"""`--dtype` over every dtype there is: what torch's own cast gives, or one sentence; never a fault of ours."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.errors import CkptdiffError
from ckptdiff.tensors import DTYPES
from ckptdiff.writing.plan import written_dtype
from ckptdiff.writing.planning import DTYPE_CHOICES

from .support import of_bytes, rewrite, same

THERE = [name for name in DTYPES if isinstance(getattr(torch, name, None), torch.dtype)]
UNTOUCHED = ("float8_e8m0fnu", "float4_e2m1fn_x2")


def tensors(name):
    """Arbitrary bits: whole, turned, a part, a scalar, nothing. None where torch makes no such tensor or saves none."""
    dtype = getattr(torch, name)
    try:
        flat = of_bytes(dtype, (8, 6))
        made = {"whole": flat, "turned": flat.t(), "part": flat[2:5], "columns": flat[:, 1:3]}
        return {**made, "scalar": flat[0, 0].clone(), "empty": flat[:0].clone()}
    except (RuntimeError, NotImplementedError):
        return None


def alike(one, other):
    """The same bits, but for those within a NaN: torch itself casts these one way in a vector, another at its end."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    nan = one.double().isnan()
    return torch.equal(nan, other.double().isnan()) and same(one[~nan], other[~nan])


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", THERE)
@pytest.mark.parametrize("out", ["out.pth", "out.safetensors"])
def test_every_dtype_to_every_other(tmp_path, name, out):
    state = tensors(name)
    if state is None:
        pytest.skip(f"torch makes no tensor of {name} from bits")
    try:
        torch.save(state, tmp_path / "in.pth")
    except (RuntimeError, KeyError, AttributeError):
        pytest.skip(f"torch does not save {name}")
    for target in ("", *DTYPE_CHOICES):
        if out != "out.pth" and (DTYPES[name].code is None or name == "float4_e2m1fn_x2"):
            if "scalar" in state:
                with pytest.raises(CkptdiffError, match="safetensors cannot hold"):
                    rewrite(tmp_path / "in.pth", tmp_path / out, dtype=target, force=True)
            state.pop("scalar", None)  # of two values in a byte there is no single one
            if DTYPES[name].code is None:
                continue
            torch.save(state, tmp_path / "in.pth")
        rewrite(tmp_path / "in.pth", tmp_path / out, dtype=target, force=True, verify_bytes=True, shared="copy")
        found = load_file(tmp_path / out) if out != "out.pth" else torch.load(tmp_path / out, weights_only=True)
        casts = target and DTYPES[name].kind == "float" and name not in UNTOUCHED
        for key, value in state.items():
            fine = alike(found[key], value.to(getattr(torch, target))) if casts else same(found[key], value)
            assert fine, (key, target)


@pytest.mark.parametrize("name", DTYPES)
def test_what_is_no_number_of_its_own_stays(name):
    wanted = "bfloat16" if DTYPES[name].kind == "float" and name not in UNTOUCHED else name
    assert written_dtype(name, "bfloat16") == wanted


@pytest.mark.parametrize("target", sorted(set(DTYPES) - set(DTYPE_CHOICES)))
def test_other_targets_are_one_sentence(tmp_path, target):
    torch.save({"a": torch.ones(2)}, tmp_path / "in.pth")
    with pytest.raises(CkptdiffError, match="is no floating-point dtype"):
        rewrite(tmp_path / "in.pth", tmp_path / "out.pth", dtype=target)


def test_a_dtype_that_this_torch_lacks_is_one_sentence(tmp_path, monkeypatch):
    if not hasattr(torch, "float8_e8m0fnu"):
        pytest.skip("this torch lacks it indeed")
    from ckptdiff.checkpoint import read
    from ckptdiff.verbs.load import load

    scale = torch.arange(24, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    torch.save({"a": scale.reshape(4, 6).t(), "b": scale}, tmp_path / "in.pth")
    checkpoint = read(tmp_path / "in.pth")
    model = torch.nn.Module()
    model.register_buffer("a", torch.zeros(6, 4))
    monkeypatch.delattr(torch, "float8_e8m0fnu")
    with pytest.raises(CkptdiffError, match="has no dtype float8_e8m0fnu"):
        rewrite(tmp_path / "in.pth", tmp_path / "out.pth", drop=["b"], dtype="float16", shared="copy")
    with pytest.raises(CkptdiffError, match="float8_e8m0fnu"):
        load(model, checkpoint)
    rewrite(tmp_path / "in.pth", tmp_path / "copied.safetensors", drop=["a"])  # bytes are bytes
