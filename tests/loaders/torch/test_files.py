"""Checkpoints in files: code that asks for values gets the file's own, and nothing more is read."""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ckptdiff.checkpoint import read
from ckptdiff.loaders.torch.answer import error_message
from ckptdiff.loaders.torch.given_values import Values
from ckptdiff.loaders.torch.walk import compare
from ckptdiff.model.extract import extract
from tests.loaders.torch.oracle import torch_says
from tests.loaders.torch.test_hooks import PRE, drawing, look, net, pre, raising, resize_in_place
from tests.loaders.torch.test_torchs_own import MODELS, initialized

FORMATS = ["torch", "legacy", "deflated", "unaligned", "safetensors"]


def saved(state_dict: dict[str, Any], path: Path, form: str) -> Path:
    if form == "safetensors":
        save_file({key: value.contiguous() for key, value in state_dict.items()}, path)
    elif form == "unaligned":
        data = {key: value.contiguous() for key, value in state_dict.items()}
        save_file(data, path, metadata={"padding": "x" * 3})
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        path.write_bytes((length + 1).to_bytes(8, "little") + raw[8 : 8 + length] + b" " + raw[8 + length :])
    else:
        torch.save(state_dict, path, _use_new_zipfile_serialization=form != "legacy")
    if form == "deflated":
        with zipfile.ZipFile(path) as archive:
            records = [(info.filename, archive.read(info)) for info in archive.infolist()]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in records:
                archive.writestr(name, data)
    return path


def loaded(path: Path, form: str) -> Any:
    if form in ("safetensors", "unaligned"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, weights_only=True)


def assert_agrees_on_file(make: Any, path: Path, form: str) -> None:
    def seeded() -> nn.Module:
        model = make()
        torch.manual_seed(5)
        return model

    ours = compare(extract(seeded()), read(path))
    theirs = torch_says(seeded(), loaded(path, form))
    assert error_message(ours) == theirs.error
    if theirs.missing is not None:
        assert list(ours.problem_keys("missing")) == theirs.missing
        assert list(ours.problem_keys("unexpected")) == theirs.unexpected
    assert not ours.doubts


@pytest.mark.parametrize("form", FORMATS)
def test_values_are_those_of_the_file(form: str, tmp_path: Path) -> None:
    base = torch.arange(24.0)
    state_dict: dict[str, Any] = {
        "whole": base, "transposed": base[:6].view(2, 3).t(), "offset": base[5:7], "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(4, dtype=torch.int16), "half": base.half(), "brain": base.bfloat16(), "flag": base > 3,
        "wide": base.to(torch.complex64), "double": base.double()[1:], "eight": base.to(torch.float8_e5m2),
    }  # fmt: skip
    if form == "legacy":
        del state_dict["eight"]  # which that format cannot hold
    if form != "safetensors" and form != "unaligned":
        state_dict |= {"strided": base[::2], "spread": base[:1].expand(3), "parameter": nn.Parameter(base)}
    else:
        state_dict = {key: value.clone().contiguous() for key, value in state_dict.items()}
    path = saved(state_dict, tmp_path / "file", form)
    checkpoint = read(path)
    values = Values(checkpoint, real=True)
    made = []
    for key, expected in loaded(path, form).items():
        value = values.of(key, checkpoint.entries[key])
        assert value.dtype == expected.dtype
        assert value.shape == expected.shape
        assert type(value) is type(expected)
        assert torch.equal(
            value.detach().double() if value.dtype.itemsize == 1 else value,
            expected.double() if expected.dtype.itemsize == 1 else expected,
        )
        if value.numel():
            made.append(value)
    assert values.unknown == {}
    with torch.no_grad():
        for value in made:
            value.view(-1)[:1].zero_() if value.is_contiguous() else value.t()[0].zero_()
    again = loaded(path, form)  # writing to a value does not write to the file
    assert torch.equal(again["whole"], base)


@pytest.mark.parametrize("form", FORMATS)
def test_hooks_on_files(form: str, tmp_path: Path) -> None:
    state_dict = net().state_dict()
    renamed = {key.replace("body.a", "body.old"): value * 3 for key, value in state_dict.items()}
    for number, given in enumerate((state_dict, renamed)):
        path = saved(dict(given), tmp_path / str(number), form)
        for hook in PRE:
            if hook in (raising, drawing, resize_in_place):  # who made the memory decides whether it can be resized
                continue

            def hooked(hook: Any = hook) -> nn.Module:
                model = net()
                pre(model.body, hook)
                model.register_load_state_dict_post_hook(look)
                return model

            assert_agrees_on_file(hooked, path, form)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["quantized", "qat", "observed", "embedding", "functional", "lazy", "weight norm"])
def test_torchs_own_modules_on_files(name: str, tmp_path: Path) -> None:
    state_dict = initialized(name)

    def make() -> nn.Module:
        torch.manual_seed(0)
        return MODELS[name]()

    path = tmp_path / "file"
    torch.save(state_dict, path)
    ours = compare(extract(make()), read(path))
    theirs = torch_says(make(), torch.load(path, weights_only=False))
    assert not ours.doubts
    assert error_message(ours) == theirs.error


class Extra(nn.Module):
    def get_extra_state(self) -> Any:
        return 3

    def set_extra_state(self, state: Any) -> None:
        if state != 3:
            raise ValueError(state)


def test_extra_state_in_files(tmp_path: Path) -> None:
    for state, known in (
        (3, True),
        (4, True),
        ("text", True),
        (None, True),
        ({"a": 1}, True),
        ([3], True),
        (torch.Size([3, 4]), True),
        ({"sizes": [torch.Size([])]}, True),
        ({3}, False),
    ):
        torch.save({"_extra_state": state, "x": torch.zeros(1)}, tmp_path / "file")
        ours = compare(extract(Extra()), read(tmp_path / "file"))
        assert bool(ours.doubts) != known
        if known:
            assert error_message(ours) == torch_says(Extra(), torch.load(tmp_path / "file", weights_only=True)).error


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel which pages of the file were read")
def test_only_what_code_looks_at_is_read(tmp_path: Path) -> None:
    big = {f"body.{index}": torch.zeros(4 << 20) for index in range(16)}  # 256 MB
    big["body.a.weight"] = torch.ones(3, 2)
    path = tmp_path / "big.safetensors"
    save_file(big, path)
    del big

    def peek(state_dict: Any, prefix: str, *_: Any) -> None:
        assert state_dict["body.a.weight"].sum().item() == 6

    def measure(*_: Any) -> None:
        maps = Path("/proc/self/smaps").read_text()
        sizes = re.findall(re.escape(str(path)) + r"\n(?:.*\n)*?Rss: +(\d+) kB", maps)
        (tmp_path / "resident").write_text(" ".join(sizes))

    model = net()
    pre(model, peek)
    model.register_load_state_dict_post_hook(measure)
    assert compare(extract(model), read(path)).raised is None
    resident = [int(size) for size in (tmp_path / "resident").read_text().split()]
    assert 0 < sum(resident) < 16 << 10


class Like:
    """What torch takes for a tensor."""

    shape = (2, 2)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented


class Unlike:
    """What it does not."""


VALUES: dict[str, Any] = {
    "like a tensor": Like(),
    "a class like a tensor": Like,
    "of a class": Unlike(),
    "a function": nn.functional.relu,
    "a method": "x".upper,
    "a dtype of numpy": np.dtype("f4"),
    "an array": np.zeros((2, 2)),
    "a number of numpy": np.float32(1),
    "a namespace": argparse.Namespace(a=1),
    "a path": PurePosixPath("a"),
    "complex": 1j,
    "a set": {1},
    "None": None,
    "a dict": OrderedDict(a=1),
    "a dtype": torch.float32,
    "a device": torch.device("cpu"),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_no_tensor_is_named_to_the_letter_or_doubted(name: str, protocol: int, tmp_path: Path) -> None:
    state = {"weight": VALUES[name], "bias": torch.zeros(2)}
    torch.save(state, tmp_path / "w.pth", pickle_protocol=protocol)
    outcome = compare(extract(nn.Linear(2, 2)), read(tmp_path / "w.pth"))
    try:
        nn.Linear(2, 2).load_state_dict(torch.load(tmp_path / "w.pth", weights_only=False))
        theirs = None
    except RuntimeError as error:
        theirs = str(error)
    except Exception as error:
        theirs = f"{type(error).__name__}: {error}"
    known = name not in list(VALUES)[:6]
    assert bool(outcome.doubts) == (not known)
    assert not known or error_message(outcome) == theirs
    assert error_message(outcome) is not None
