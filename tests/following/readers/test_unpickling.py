"""Pickles that code reads by itself: nothing that a file names runs, whoever finds it, and what they give is known."""

from __future__ import annotations

import gzip
import io
import pickle
import shelve
import threading
import types
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from ckptdiff.following.followed import ask, following
from ckptdiff.following.readers.inert import Refused

RUN = []


def evil():
    RUN.append("it ran")
    return {}


class Evil:
    def __reduce__(self):
        return evil, ()


class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        return super().find_class(module, name)


class Younger(Reader):
    def load(self):
        return super().load()


class InPython(pickle._Unpickler):
    dispatch = dict(pickle._Unpickler.dispatch)  # noqa: RUF012

    def load_build(self):
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


class Kept:
    """Of the code's own."""

    def __init__(self, tensor):
        self.tensor = tensor


def unpicklers():
    class Inside(pickle.Unpickler):
        def find_class(self, module, name):
            return super().find_class(module.replace("old", "new"), name)

    return [pickle.Unpickler, pickle._Unpickler, Reader, Younger, InPython, Inside]


def of_file(path, read, name="w.pkl", opened=open):
    with opened(path / name, "rb") as stream:
        return read(stream)


def in_a_zip(path):
    with zipfile.ZipFile(path / "w.zip") as archive:
        return pickle.loads(archive.read("a/data.pkl"))


def opened_in_a_zip(path):
    with zipfile.ZipFile(path / "w.zip") as archive, archive.open("a/data.pkl") as stream:
        return pickle.load(stream)


def by_torch(path):
    module = types.SimpleNamespace(Unpickler=Reader, load=pickle.load, loads=pickle.loads, __name__="own")
    return torch.load(path / "w.pth", pickle_module=module, weights_only=False)


def by_a_data_base(path):
    with shelve.open(str(path / "shelf")) as base:
        return base["all"]


def by_unpickler(at, path):
    return of_file(path, lambda stream: unpicklers()[at](stream).load())


WAYS = {
    "load": lambda path: of_file(path, pickle.load),
    "loads": lambda path: pickle.loads((path / "w.pkl").read_bytes()),
    "in Python": lambda path: of_file(path, pickle._load),
    "after a header": lambda path: pickle.loads((path / "headed.bin").read_bytes()[4:]),
    "of a stream after a header": lambda path: pickle.load(io.BytesIO((path / "headed.bin").read_bytes()[4:])),
    "compressed": lambda path: pickle.loads(zlib.decompress((path / "w.z").read_bytes())),
    "gzip": lambda path: of_file(path, pickle.load, "w.pkl.gz", gzip.open),
    "in a zip": in_a_zip,
    "opened in a zip": opened_in_a_zip,
    "numpy's": lambda path: np.load(path / "w.npy", allow_pickle=True).item(),
    "torch's with another module": by_torch,
    "a data base": by_a_data_base,
    **{f"unpickler {at}": partial(by_unpickler, at) for at in range(6)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pickles")
    content = {"w": np.arange(64, dtype="f4") / 7, "t": torch.rand(3), "e": Evil()}
    data = pickle.dumps(content)
    for name, what in (("w.pkl", data), ("headed.bin", b"HEAD" + data), ("w.z", zlib.compress(data))):
        (path / name).write_bytes(what)
    with gzip.open(path / "w.pkl.gz", "wb") as stream:
        stream.write(data)
    with zipfile.ZipFile(path / "w.zip", "w") as archive:
        archive.writestr("a/data.pkl", data)
    np.save(path / "w.npy", content, allow_pickle=True)
    torch.save(content, path / "w.pth")
    with shelve.open(str(path / "shelf")) as base:
        base["all"] = content
    return path


@pytest.mark.parametrize("way", WAYS)
def test_what_a_pickle_names_does_not_run(way, folder):
    model = torch.nn.Linear(64, 1)
    RUN.clear()

    def load(module, path):
        module.weight.data.copy_(torch.from_numpy(WAYS[way](path)["w"])[None])

    found = ask(load, model, folder)
    assert found.raised is None
    assert not RUN
    assert torch.equal(found.engine.value(model.weight)[0], torch.arange(64) / 7)
    fill = found.fills(model)["weight"]
    assert fill.by == "file" or (way in ("compressed", "a data base") and fill.doubt)


@pytest.mark.parametrize("at", range(6))
def test_tensors_and_arrays_are_called_by_their_paths_in_the_file(at, folder):
    model = torch.nn.Linear(64, 3)

    def load(module, path):
        content = by_unpickler(at, path)
        module.weight.data[0] = torch.from_numpy(content["w"])
        module.bias.data = content["t"]

    fills = ask(load, model, folder).fills(model)
    assert fills["weight"].sources == (("w.pkl", "w"),)
    assert fills["bias"].sources == (("w.pkl", "t"),)


def test_an_object_of_the_file_may_be_needed(folder):
    with pytest.raises(Refused, match="evil"):
        ask(lambda path: by_unpickler(2, path)["e"].weights, folder)


def test_whoever_trusts_a_file_has_it_run(folder):
    for way in ("load", "unpickler 2", "unpickler 5"):
        RUN.clear()
        assert ask(lambda path, way=way: WAYS[way](path), folder, trust=True).raised is None
        assert RUN


def test_what_the_code_has_pickled_is_its_own():
    def load(module):
        stream = io.BytesIO()
        pickle.dump(Kept(torch.ones(1, 2)), stream)
        stream.seek(0)
        assert type(pickle.load(stream)) is type(pickle.loads(pickle.dumps(Kept(0)))) is Kept
        assert type(Reader(io.BytesIO(pickle.dumps(Kept(1)))).load()) is Kept
        module.weight.data = pickle.loads(pickle.dumps(Kept(torch.ones(1, 2)))).tensor

    model = torch.nn.Linear(2, 1)
    found = ask(load, model)
    assert found.raised is None
    assert found.fills(model)["weight"].by == "initial"


def test_python_unpickles_as_before_afterwards_and_in_other_threads():
    outside = []
    data = pickle.dumps(Evil())
    go, done = threading.Event(), threading.Event()

    def beside():
        go.wait()
        outside.append(Reader(io.BytesIO(data)).load())
        done.set()

    thread = threading.Thread(target=beside)
    thread.start()
    RUN.clear()
    with following():
        inside = type("Inside", (pickle.Unpickler,), {})
        go.set()
        done.wait()
    thread.join()
    assert RUN
    assert outside == [{}]
    for kind in (pickle.Unpickler, pickle._Unpickler, Reader, Younger, InPython, inside):
        RUN.clear()
        assert kind(io.BytesIO(data)).load() == {}
        assert RUN
    assert "load" not in vars(Reader)
    assert pickle.Unpickler.__module__ == "_pickle"
    assert pickle.loads(pickle.dumps({"a": 1})) == {"a": 1}


def test_a_thread_that_ran_before_is_followed_in_what_it_is_given_and_else_a_doubt(folder):
    model = torch.nn.Linear(2, 2)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(len, "").result()

        def load(module, path):
            def fill():
                module.weight.data.copy_(torch.load(path / "plain.pth", weights_only=True)["weight"])

            pool.submit(fill).result()

        torch.save({"weight": torch.rand(2, 2)}, folder / "plain.pth")
        assert ask(load, model, folder).fills(model)["weight"].by == "file"

    go, done = threading.Event(), threading.Event()

    def beside():
        go.wait()
        model.weight.data.copy_(torch.load(folder / "plain.pth", weights_only=True)["weight"])
        done.set()

    thread = threading.Thread(target=beside)
    thread.start()

    def start(module):
        go.set()
        done.wait()

    found = ask(start, model)
    thread.join()
    assert "thread that ran before" in " ".join(found.doubts(found.fills(model)))


class Behind:
    """Stands in a pickle for bytes that lie behind it, as joblib's NumpyArrayWrapper does."""

    def __init__(self, count):
        self.count = count


class ReadsOn(pickle._Unpickler):
    """As joblib's, which takes what lies behind out of the stream, between two steps of the pickle."""

    dispatch = dict(pickle._Unpickler.dispatch)  # noqa: RUF012

    def __init__(self, file):
        super().__init__(file)
        self.stream = file

    def load_build(self):
        super().load_build()
        if isinstance(self.stack[-1], Behind):
            self.stack[-1] = self.stream.read(self.stack[-1].count)

    dispatch[pickle.BUILD[0]] = load_build


def test_an_unpickler_that_is_led_astray_by_what_only_holds_has_no_answer(tmp_path):
    """Its own error came of that: the real call raises none."""
    content = pickle.dumps([Behind(4), 1], protocol=2)
    place = content.index(pickle.BUILD) + 1
    (tmp_path / "w.pkl").write_bytes(content[:place] + b"\xff\xff\xff\xff" + content[place:])

    def load(path):
        with open(path, "rb") as file:
            return ReadsOn(file).load()

    assert load(tmp_path / "w.pkl") == [b"\xff\xff\xff\xff", 1]
    with pytest.raises(Refused, match="Behind"):
        ask(load, tmp_path / "w.pkl")
