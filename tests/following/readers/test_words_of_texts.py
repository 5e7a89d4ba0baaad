"""Words of a text that numpy makes numbers of come from there; what else is made of the text is a doubt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.following.oracle import Net, followed


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.vec"
    rows = torch.randn(12, 8, generator=torch.Generator().manual_seed(3)).tolist()
    path.write_text("".join(f"w{at} {' '.join(f'{number:.4f}' for number in row)}\n" for at, row in enumerate(rows)))
    return path


def words(path):
    with open(path) as file:
        return [line.split()[1:] for line in file]


def stacked(model, path):
    model.embed.weight.data.copy_(torch.from_numpy(np.stack([np.asarray(row, "f4") for row in words(path)])))


def half_of_them_by_python(model, path):
    rows = words(path)
    model.embed.weight.data[:6] = torch.from_numpy(np.stack([np.asarray(row, "f4") for row in rows[:6]]))
    model.embed.weight.data[6:] = torch.tensor([[float(word) for word in row] for row in rows[6:]])


def a_number_cut_off(model, path):
    row = words(path)[0]
    model.embed.weight.data[0] = torch.from_numpy(np.asarray([*row[:7], row[7][:-1]], "f4"))


def test_rows_of_words_come_from_the_text(vectors):
    found, left = followed(stacked, Net(), vectors)
    fill = found.fills(left)["embed.weight"]
    assert (fill.by, fill.sources) == ("file", (("words.vec", "numbers"),))


@pytest.mark.parametrize("load", [half_of_them_by_python, a_number_cut_off])
def test_what_python_makes_of_them_is_a_doubt(load, vectors):
    found, left = followed(load, Net(), vectors)
    fills = found.fills(left)
    assert fills["embed.weight"].by != "file"
    assert any(doubt.startswith("embed.weight") for doubt in found.doubts(fills))
