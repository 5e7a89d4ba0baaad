"""What generators draw that were set by a file's seed or state is a doubt; those of the code's own are none."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.following.oracle import answered, state


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    paths = []
    for seed in (1, 3):
        generator, python = torch.Generator().manual_seed(900 + seed), random.Random(seed)
        whole = {"state_dict": state(seed), "seed": 1000 + seed, "rng": generator.get_state(), "py": python.getstate()}
        paths.append(folder / f"{seed}.pth")
        torch.save(whole, paths[-1])
    return paths


def read(path):
    return torch.load(path, weights_only=False)


def drawn(m):
    nn.init.normal_(m.second.weight)


def drawn_by(m, generator):
    m.second.weight.data.normal_(generator=generator)


def drawn_by_numpy(m, generator):
    m.second.weight.data.copy_(torch.from_numpy(generator.normal(size=(16, 16))))


def drawn_by_python(m, generator):
    m.second.weight.data.fill_(generator.random())


def with_state(path):
    generator = torch.Generator()
    generator.set_state(read(path)["rng"])
    return generator


SET = {
    "torch": lambda m, p: (torch.manual_seed(read(p)["seed"]), drawn(m)),
    "one more": lambda m, p: (torch.manual_seed(read(p)["seed"] + 1), drawn(m)),
    "as an int": lambda m, p: (torch.manual_seed(int(read(p)["seed"])), drawn(m)),
    "a state": lambda m, p: (torch.set_rng_state(read(p)["rng"]), drawn(m)),
    "a generator": lambda m, p: drawn_by(m, torch.Generator().manual_seed(read(p)["seed"])),
    "a generator's state": lambda m, p: drawn_by(m, with_state(p)),
    "numpy": lambda m, p: (np.random.seed(read(p)["seed"]), drawn_by_numpy(m, np.random)),
    "numpy's generator": lambda m, p: drawn_by_numpy(m, np.random.default_rng(read(p)["seed"])),
    "Python": lambda m, p: (random.seed(read(p)["seed"]), drawn_by_python(m, random)),
    "Python's generator": lambda m, p: drawn_by_python(m, random.Random(read(p)["seed"])),
    "Python's state": lambda m, p: (random.setstate(read(p)["py"]), drawn_by_python(m, random)),
}


def restored(m, p):
    content = read(p)
    m.load_state_dict(content["state_dict"])
    torch.set_rng_state(content["rng"])
    random.setstate(content["py"])
    torch.manual_seed(content["seed"])


def kept_its_own(m, p):
    before = torch.get_rng_state()
    m.load_state_dict(read(p)["state_dict"])
    torch.set_rng_state(before)
    drawn(m)


def of_the_code(m, p):
    read(p)
    torch.manual_seed(5)
    drawn(m)


NOT_SET = {"restored": restored, "its own state": kept_its_own, "a seed of the code": of_the_code}


@pytest.mark.parametrize("name", SET)
def test_what_is_drawn_with_a_files_seed_is_a_doubt(name, files):
    wrong, doubts = answered(SET[name], files)
    assert (wrong, [doubt.partition(":")[0] for doubt in doubts]) == (["second.weight"], ["second.weight"])


@pytest.mark.parametrize("name", NOT_SET)
def test_what_is_drawn_otherwise_is_none(name, files):
    assert answered(NOT_SET[name], files) == ([], [])
