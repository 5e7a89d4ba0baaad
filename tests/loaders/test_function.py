"""A function of the user's as the loader: what it fills, keeps, raises and returns, and that nothing else changes."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ckptdiff.errors import CkptdiffError, ModelError
from ckptdiff.loaders.function import ask
from tests.following.oracle import Net, state


@pytest.fixture
def weights(tmp_path):
    torch.save({"model": state(1), "epoch": 3}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def whole(model, path):
    model.load_state_dict(torch.load(path, weights_only=True)["model"])


def rows(model, path):
    loaded = torch.load(path, weights_only=True)["model"]
    model.second.weight.data[4:8] = loaded["second.weight"][:4]
    model.embed.weight.data[:, 2:].copy_(loaded["embed.weight"][:, 2:])


def test_what_was_filled_from_where(weights):
    outcome = ask(whole, Net(), weights)
    assert outcome.raised is None
    assert outcome.problems == ()
    assert {entry.by for entry in outcome.filled.values()} == {"file"}
    assert outcome.filled["first.weight"].sources == (("w.pth", "model/first.weight"),)
    assert outcome.filled["first.weight"].rows is None
    assert outcome.loader.how == "followed"
    assert outcome.loader.call == "whole(model, path)"
    assert outcome.unused == {}


def test_a_part_is_not_the_whole(weights):
    outcome = ask(rows, Net(), weights)
    assert outcome.filled["second.weight"].rows == ((4, 8),)
    assert outcome.filled["embed.weight"].rows == ()
    assert outcome.filled["first.weight"].by == "initial"
    told = {problem.key: problem for problem in outcome.problems}
    assert told["second.weight"].kind == "part"
    assert told["second.weight"].text == "64 of 256 elements are filled"
    assert told["first.weight"].kind == "missing"
    assert "first.weight" in outcome.unused


def test_a_live_model_stays_as_it_is(weights):
    model = Net()
    before = copy.deepcopy(model.state_dict())
    versions = [value._version for value in model.parameters()]
    generator = torch.get_rng_state()

    def replaced(module, path):
        module.second = nn.Linear(3, 3)
        module.norm.weight.data = torch.load(path, weights_only=True)["model"]["norm.weight"]
        nn.init.normal_(module.first.weight)

    ask(replaced, model, weights)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [value._version for value in model.parameters()] == versions
    assert type(model.second) is nn.Linear
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_live_model_keeps_its_parametrizations(tmp_path):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)))
    torch.save(model.state_dict(), tmp_path / "w.pth")

    def plain(module, path):
        module.load_state_dict(torch.load(path))
        nn.utils.parametrize.remove_parametrizations(module[0], "weight")

    outcome = ask(plain, model, tmp_path / "w.pth")
    assert {key: entry.by for key, entry in outcome.filled.items()} == {"0.weight": "file", "0.bias": "file"}
    assert model[0].weight.shape == (3, 2)


def weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, that it is the old one
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 3))), nn.utils.remove_weight_norm


def spectral_norm():
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(2, 3))), nn.utils.remove_spectral_norm


def pruned():
    return nn.Sequential(prune.l1_unstructured(nn.Linear(2, 3), "weight", 2)), lambda m: prune.remove(m, "weight")


def recurrent():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = nn.utils.weight_norm(nn.LSTM(2, 3), "weight_hh_l0")
    return nn.Sequential(made), lambda m: nn.utils.remove_weight_norm(m, "weight_hh_l0")


@pytest.mark.parametrize("make", [weight_norm, spectral_norm, pruned, recurrent])
@pytest.mark.parametrize("folds", [False, True])
def test_a_live_model_may_hold_what_it_computes_of_its_parameters(make, folds, tmp_path):
    model, fold = make()
    state_dict = {key: torch.rand_like(value) for key, value in model.state_dict().items()}
    torch.save(state_dict, tmp_path / "w.pth")

    def load(module, path):
        module.load_state_dict(torch.load(path))
        if folds:
            fold(module[0])

    before = {key: value.clone() for key, value in model.state_dict().items()}
    outcome = ask(load, model, tmp_path / "w.pth")
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    real = make()[0]
    load(real, tmp_path / "w.pth")
    assert set(outcome.filled) == set(real.state_dict())
    assert {entry.by for entry in outcome.filled.values()} == {"file"}


def test_a_live_model_whose_attribute_is_a_view_of_a_parameter_is_not_copied(tmp_path):
    model = nn.Linear(2, 3)
    model.head = model.weight[:1]
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="A copy of the Linear"):
        ask(lambda module, path: module.load_state_dict(torch.load(path)), model, tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["g_02500000", "net.wts"])
def test_the_file_it_is_given_is_one_of_weights_whatever_its_name(name, tmp_path):
    path = tmp_path / name
    path.write_text("0.25 0.5 0.75")

    def words(model, given):
        model.scale.copy_(torch.tensor([float(word) for word in given.read_text().split()]))

    outcome = ask(words, Net(), path)
    line = words.__code__.co_firstlineno + 1
    assert f"scale: {__file__}:{line} wrote to it after the code had looked at values ({name})." in outcome.doubts


def test_numbers_that_lie_beside_the_file_are_weights_whatever_their_name(weights):
    weights.with_name("scale.wts").write_text("0.25 0.5 0.75 end")

    def words(model, path):
        whole(model, path)
        numbers = path.with_name("scale.wts").read_text().split()[:3]
        model.scale = torch.tensor([float(word) for word in numbers])

    outcome = ask(words, Net(), weights)
    assert outcome.filled["scale"].by == "code"
    assert any(doubt.startswith("scale: ") for doubt in outcome.doubts)


def test_a_copy_that_is_read_stands_for_the_file(weights, tmp_path):
    def cached(model, path):
        (tmp_path / "cached.pth").write_bytes(path.read_bytes())
        rows(model, tmp_path / "cached.pth")

    outcome = ask(cached, Net(), weights)
    assert outcome.filled["second.weight"].rows == ((4, 8),)
    assert outcome.doubts == ()


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_a_zip_file_holds_is_called_by_both_names(packing, tmp_path):
    with zipfile.ZipFile(tmp_path / "policy.zip", "w", packing) as archive:
        archive.writestr("data", '{"steps": 1000, "lr": 0.1}' * 4)
        for name, seed in (("policy.pth", 1), ("rest.pth", 2)):
            stream = io.BytesIO()
            torch.save({"bias": state(seed)["norm.bias"]}, stream)
            archive.writestr(name, stream.getvalue())

    def load(model, path):
        with zipfile.ZipFile(path) as archive:
            assert len(archive.read("data")) > 64
            loaded = {name: torch.load(io.BytesIO(archive.read(name))) for name in ("policy.pth", "rest.pth")}
        model.norm.bias.data.copy_(loaded["policy.pth"]["bias"])
        return model

    outcome = ask(load, Net(), tmp_path / "policy.zip")
    assert outcome.filled["norm.bias"].sources == (("policy.zip/policy.pth", "bias"),)
    assert outcome.doubts == ()


def test_an_array_alone_in_its_file_is_called_by_that(tmp_path):
    np.save(tmp_path / "bias.npy", np.ones(16, "f4"))
    outcome = ask(lambda model, path: np.load(path) is model, Net(), tmp_path / "bias.npy")
    assert outcome.unused == {"bias.npy": "unused"}


def test_a_process_is_told_by_the_line_that_started_it(weights, tmp_path):
    def copied(model, path):
        subprocess.run([sys.executable, "-c", "", str(path)], check=True)

    (doubt,) = ask(copied, Net(), weights).doubts
    assert doubt.startswith(f"{__file__}:{copied.__code__.co_firstlineno + 1} started a process of its own")


def test_a_function_that_makes_the_model(weights):
    def made(path):
        model = Net()
        whole(model, path)
        return model, "more"

    outcome = ask(made, None, weights)
    assert {entry.by for entry in outcome.filled.values()} == {"file"}
    assert outcome.loader.call == "made(path)"


def test_the_lists_that_a_loader_returns(weights):
    def partly(model, path):
        loaded = torch.load(path, weights_only=True)["model"]
        del loaded["first.bias"], loaded["scale"]
        loaded["other"] = loaded.pop("norm.bias")
        result = model.load_state_dict(loaded, strict=False)
        result.missing_keys.remove("scale")
        return result

    outcome = ask(partly, Net(), weights)
    problems = [(problem.kind, problem.key) for problem in outcome.problems]
    assert ("missing", "first.bias") in problems
    assert ("unexpected", "other") in problems
    assert ("missing", "scale") not in problems
    assert outcome.filled["scale"].by == "initial", "whether or not the loader says so"


def test_what_it_raises(weights):
    def raising(model, path):
        model.first.load_state_dict(torch.load(path, weights_only=True)["model"])

    outcome = ask(raising, Net(), weights)
    assert outcome.raised is not None
    assert outcome.raised.startswith("RuntimeError: Error(s) in loading state_dict for Linear:\n\tMissing key(s)")


def test_what_it_raises_may_be_no_exception(weights):
    def load(model, path):
        raise BaseException("ranks: 0")  # as torch.distributed.checkpoint does

    assert ask(load, Net(), weights).raised == "BaseException: ranks: 0"


def test_numbers_that_were_looked_at_are_a_doubt(weights):
    def looking(model, path):
        loaded = torch.load(path, weights_only=True)["model"]
        model.load_state_dict({key: value for key, value in loaded.items() if key != "scale"}, strict=False)
        model.scale.fill_(loaded["norm.bias"][0].item())

    outcome = ask(looking, Net(), weights)
    assert outcome.filled["scale"].by == "code"
    (doubt,) = outcome.doubts
    assert doubt.startswith("scale: ")
    assert "norm.bias of w.pth" in doubt.replace("model/", "")


@pytest.mark.parametrize(
    ("load", "model", "said"),
    [
        (lambda path: 3, None, "returned int, no module"),
        (lambda path: [][0], None, "raised before there was a model to look at: IndexError"),
        ("load_weights", None, "is no model reference"),
        ("load.py", None, "names no function"),
        ("nowhere.py:load", None, "there is no such file"),
        ("torch.nn:functional", None, "not a function"),
    ],
)
def test_what_has_no_answer_is_said(load, model, said, weights):
    with pytest.raises(CkptdiffError, match=said):
        ask(load, model, weights)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def load(model, path:", r"train\.py: importing it failed: SyntaxError: '\(' was never closed"),
        ("import no_such_package", r"failed: ModuleNotFoundError: No module named 'no_such_package' Install"),
        ("raise ValueError('today')", "importing it failed: ValueError: today"),
        ("import sys\nsys.exit(3)", r"failed: it called sys\.exit\(3\)"),
    ],
)
def test_a_file_that_cannot_be_imported(text, said, tmp_path, weights):
    (tmp_path / "train.py").write_text(text)
    with pytest.raises(CkptdiffError, match=said):
        ask(f"{tmp_path}/train.py:load", Net(), weights)


def test_an_exception_without_a_text(weights):
    class Wordless(Exception):
        def __str__(self):
            raise TypeError

    def raising(model, path):
        raise Wordless

    assert ask(raising, Net(), weights).raised == "Wordless: <exception str() failed>"


def test_the_checkpoint_is_told_as_it_was(weights):
    def deleting(model, path):
        whole(model, path)
        path.unlink()

    outcome = ask(deleting, Net(), weights)
    assert {entry.by for entry in outcome.filled.values()} == {"file"}
    assert len(outcome.checkpoint.entries) == 11


def test_a_function_in_a_file(tmp_path, weights):
    (tmp_path / "helpers.py").write_text("def chosen(content):\n    return content['model']\n")
    (tmp_path / "train.py").write_text(
        "import torch\nfrom helpers import chosen\n\n"
        "def load(model, path):\n    model.load_state_dict(chosen(torch.load(path, weights_only=True)))\n"
    )
    outcome = ask(f"{tmp_path}/train.py:load", Net(), weights)
    assert {entry.by for entry in outcome.filled.values()} == {"file"}
    assert outcome.loader.call == "load(model, path)"


def test_an_object_that_only_the_file_could_make(tmp_path):
    class Config:
        dim = 3

    Config.__module__ = "somewhere"
    import sys
    import types

    module = types.ModuleType("somewhere")
    module.Config = Config
    Config.__qualname__ = "Config"
    sys.modules["somewhere"] = module
    try:
        torch.save({"config": Config(), "w": torch.ones(3, 3)}, tmp_path / "w.pth")
    finally:
        del sys.modules["somewhere"]

    def load(path):
        content = torch.load(path, weights_only=False)
        return nn.Linear(content["config"].dim, 3)

    with pytest.raises(CkptdiffError, match=r"needs an object of the class somewhere\.Config"):
        ask(load, None, tmp_path / "w.pth")


@pytest.mark.parametrize(("folder", "known"), [("some-1.0.dist-info", True), ("some", False)])
def test_what_packages_say_of_themselves_is_no_weights(folder, known, weights, tmp_path):
    text = tmp_path / folder / "entry_points.txt"
    text.parent.mkdir()
    text.write_text("0.25 0.5\n" * 4000)

    def load(model, path):
        text.read_text()
        model.first.weight.data.normal_()

    assert (ask(load, Net(), weights).doubts == ()) is known
