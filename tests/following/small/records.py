"""Loaders that take numbers out of records, of bytes and of texts: `load(model, path)`."""

from __future__ import annotations

import csv
import gzip
import lzma
import struct
import types

import numpy as np
import torch
from numpy.lib.recfunctions import structured_to_unstructured
from torch import nn

PAIRS = np.dtype([("a", "<f4"), ("b", "<f4", (3,))])
COLUMNS = np.dtype([(f"f{at}", "<f4") for at in range(16)])


def _raw(p):
    return p.parent / "raw.bin"


def _own(m):
    return m.second.weight.data


def _vectors(p):
    with open(p.parent / "vectors.txt") as f:
        return {line.split()[0]: line.split()[1:] for line in f}


def _numbers(p):
    with open(p.parent / "numbers.txt") as f:
        return next(csv.reader(f, delimiter=" "))


def field(m, p):
    _own(m)[:4] = torch.from_numpy(np.fromfile(_raw(p), PAIRS)["a"].copy()).view(4, 16)


def field_of_several(m, p):
    _own(m)[4:] = torch.from_numpy(np.ascontiguousarray(np.fromfile(_raw(p), PAIRS)["b"])).view(12, 16)


def field_of_a_mapping(m, p):
    _own(m)[4:] = torch.from_numpy(np.array(np.memmap(_raw(p), PAIRS, mode="r")["b"])).view(12, 16)


def field_of_a_buffer(m, p):
    _own(m)[:4] = torch.tensor(np.asarray(np.frombuffer(_raw(p).read_bytes(), PAIRS)["a"])).view(4, 16)


def columns_stacked(m, p):
    records = np.fromfile(_raw(p), COLUMNS)
    m.second.weight.data = torch.tensor(np.stack([np.asarray(records[name]) for name in COLUMNS.names], axis=1))


def columns_one_by_one(m, p):
    records, found = np.fromfile(_raw(p), COLUMNS), np.zeros((16, 16), "f4")
    for at, name in enumerate(COLUMNS.names):
        found[:, at] = records[name]
    m.second.weight = nn.Parameter(torch.tensor(found, dtype=torch.float))


def some_columns(m, p):
    records, found = np.fromfile(_raw(p), COLUMNS), np.zeros((16, 16), "f4")
    for at, name in enumerate(COLUMNS.names[:9]):
        found[:, at] = records[name]
    m.second.weight.data.copy_(torch.from_numpy(found))


def columns_as_numpy_has_it(m, p):
    m.second.weight.data = torch.from_numpy(structured_to_unstructured(np.fromfile(_raw(p), COLUMNS)))


def records_seen_as_floats(m, p):
    m.second.weight.data = torch.from_numpy(np.fromfile(_raw(p), COLUMNS).view("<f4").reshape(16, 16).copy())


def several_fields(m, p):
    m.norm.bias.data.copy_(torch.from_numpy(np.fromfile(_raw(p), PAIRS)[["a"]]["a"][:16].copy()))


def records_of_the_codes_own(m, p):
    m.load_state_dict(torch.load(p))
    records = np.zeros(16, PAIRS)
    records["a"] = m.norm.bias.data.numpy()
    m.norm.bias.data = torch.from_numpy(records["a"].copy())


def records_of_nothing(m, p):
    m.load_state_dict(torch.load(p))
    m.norm.bias.data = torch.from_numpy(np.zeros(16, PAIRS)["a"].copy())


def records_as_a_list(m, p):
    m.second.weight.data = torch.tensor(np.fromfile(_raw(p), COLUMNS).tolist())


def record_by_record(m, p):
    for at, record in enumerate(np.fromfile(_raw(p), PAIRS)[:16]):
        _own(m)[0, at] = float(record["a"])


def packed_by_lzma(m, p):
    with lzma.open(p.parent / "w.npy.xz", "wb") as f:
        np.save(f, torch.load(p)["second.weight"].numpy())
    with lzma.open(p.parent / "w.npy.xz", "rb") as f:
        m.second.weight.data = torch.from_numpy(np.load(f))


def packed_by_gzip(m, p):
    with gzip.open(p.parent / "w.npy.gz", "wb") as f:
        np.save(f, torch.load(p)["second.weight"].numpy())
    with gzip.open(p.parent / "w.npy.gz", "rb") as f:
        m.second.weight.data = torch.from_numpy(np.load(f))


def unpacked_part(m, p):
    numbers = struct.unpack("<256f", _raw(p).read_bytes())
    m.norm.bias.data.copy_(torch.tensor(numbers[5:21]) * 2 + 1)


def unpacked_part_as_an_array(m, p):
    numbers = struct.unpack("<256f", _raw(p).read_bytes())
    m.norm.bias.data.copy_(torch.from_numpy(np.array(numbers[5:21], "f4")))


def unpacked_ends_around_constants(m, p):
    numbers = struct.unpack("<256f", _raw(p).read_bytes())
    m.norm.bias.data.copy_(torch.tensor([*numbers[:2], *([7.0] * 13), numbers[15]]))


def unpacked_and_sorted(m, p):
    m.norm.bias.data.copy_(torch.tensor(sorted(struct.unpack("<256f", _raw(p).read_bytes()))[5:21]))


def word_vectors(m, p):
    index = {}
    with open(p.parent / "vectors.txt", encoding="utf-8") as f:
        for line in f:
            values = line.split()
            index[values[0]] = np.asarray(values[1:], dtype="float32")
    matrix = np.zeros((12, 8))
    for at, vector in enumerate(index.values()):
        matrix[at] = vector
    m.embed = nn.Embedding.from_pretrained(torch.tensor(matrix, dtype=torch.float))


def word_vectors_of_some(m, p):
    matrix = np.zeros((12, 8), "f4")
    for at, words in enumerate(list(_vectors(p).values())[:9]):
        matrix[at] = np.array(words, dtype=np.float32)
    m.embed.weight.data.copy_(torch.from_numpy(matrix))


def word_vectors_from_strings(m, p):
    with open(p.parent / "vectors.txt") as f:
        rows = [np.fromstring(line.rstrip().split(" ", 1)[1], sep=" ") for line in f]
    m.embed.weight.data.copy_(torch.from_numpy(np.stack(rows)))


def word_vectors_into_the_model(m, p):
    for at, words in enumerate(_vectors(p).values()):
        m.embed.weight.data[at] = torch.from_numpy(np.array(words, "f4"))


def word_vectors_all_at_once(m, p):
    m.embed.weight.data = torch.tensor(np.array(list(_vectors(p).values()), dtype=np.float32))


def word_vectors_stacked(m, p):
    m.embed.weight.data = torch.from_numpy(np.vstack([np.array(words, "f4") for words in _vectors(p).values()]))


def word_vectors_and_their_mean(m, p):
    vectors = [np.array(words, dtype=np.float32) for words in _vectors(p).values()]
    found = np.tile(np.mean(vectors, axis=0), (12, 1))
    found[:5] = np.stack(vectors[:5])
    m.embed.weight.data.copy_(torch.from_numpy(found))


def words_of_the_codes_own(m, p):
    assert _vectors(p)
    own = ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", ".1", ".2", ".3", ".4", ".5", ".6", ".7", ".8"]
    m.norm.bias.data.copy_(torch.from_numpy(np.array(own, dtype="f4")))


def words_the_other_way_round(m, p):
    m.norm.bias.data[:] = torch.as_tensor(np.asarray(_numbers(p)[::-1], dtype="f4"))


def words_and_one_more(m, p):
    m.norm.bias.data[:] = torch.as_tensor(np.asarray([*_numbers(p)[:15], "0.5"], dtype="f4"))


LOADERS = {
    name: function
    for name, function in list(globals().items())
    if isinstance(function, types.FunctionType) and function.__module__ == __name__ and not name.startswith("_")
}
LOADERS.pop("structured_to_unstructured", None)
