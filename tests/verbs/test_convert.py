"""Any loader is a converter: what is written is, to the bit, what loading for real and saving gives."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

import ckptdiff
from ckptdiff.errors import CkptdiffError
from tests.following.oracle import Net, really, same_bits, seeded, state
from tests.following.small.attacks import ATTACKS
from tests.following.small.loaders import LOADERS

CONVERTERS = {**LOADERS, **ATTACKS}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(state(1), path)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if number % 3 == 0 else pytest.mark.long) for number, name in enumerate(CONVERTERS)],
)
def test_it_is_what_loading_and_saving_gives(name, weights, tmp_path):
    load = CONVERTERS[name]
    torch.manual_seed(7)
    model = Net()
    before = copy.deepcopy(model.state_dict())
    truth = really(load, model, weights)
    out = tmp_path / "out.safetensors"
    seeded()
    refusal = None
    try:
        written = ckptdiff.convert(model, weights, out, loader=load, partial=True, shared="copy")
    except CkptdiffError as error:
        refusal = str(error)
    if refusal is not None:
        assert truth.raised is not None or "fills nothing of the model wholly" in refusal
        assert not out.exists()
        return
    saved = load_file(out)
    assert set(saved) == set(written.keys)
    for key, value in saved.items():
        assert value.dtype == truth.values[key].dtype
        assert same_bits(value, truth.values[key]).all(), key
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_stays_initial_is_refused(weights, tmp_path):
    def half(model, path):
        model.second.weight.data[:8] = torch.load(path)["second.weight"][:8]
        model.norm.bias.data = torch.load(path)["norm.bias"]

    with pytest.raises(CkptdiffError, match=r"half\(model, path\) leaves 10 of 11 keys at initial values"):
        ckptdiff.convert(Net(), weights, tmp_path / "out.pth", loader=half)
    ckptdiff.convert(Net(), weights, tmp_path / "out.pth", loader=half, partial=True)
    assert set(torch.load(tmp_path / "out.pth")) == {"norm.bias"}


def test_a_loader_that_raises_writes_nothing(weights, tmp_path):
    def raising(model, path):
        model.load_state_dict(torch.load(path))
        raise ValueError("not today")

    with pytest.raises(CkptdiffError, match="raises ValueError: not today"):
        ckptdiff.convert(Net(), weights, tmp_path / "out.pth", loader=raising)
    assert not list(tmp_path.iterdir())


def test_what_is_tied_is_written_once(weights, tmp_path):
    def load(model, path):
        model.load_state_dict(torch.load(path))
        model.add_module("again", model.second)
        model.register_buffer("conjugated", torch.ones(3, dtype=torch.complex64).mul_(1j).conj())
        model.conjugated.copy_(torch.load(path)["scale"] * (1 + 1j))

    model = Net()
    truth = really(load, model, weights).values
    ckptdiff.convert(model, weights, tmp_path / "out.pth", loader=load)
    saved = torch.load(tmp_path / "out.pth")
    assert list(saved) == list(truth)
    assert all(torch.equal(value, truth[key]) for key, value in saved.items())
    assert saved["head.weight"].data_ptr() == saved["embed.weight"].data_ptr()
    assert saved["again.weight"].data_ptr() == saved["second.weight"].data_ptr()
    for shared, absent in ((None, set()), ("drop", {"head.weight", "second.weight"})):
        ckptdiff.convert(model, weights, tmp_path / "out.safetensors", loader=load, shared=shared, force=True)
        assert truth.keys() - load_file(tmp_path / "out.safetensors").keys() == absent


def test_what_is_no_tensor_is_refused(weights, tmp_path):
    class Told(torch.nn.Linear):
        def get_extra_state(self):
            return {"steps": 3}

        def set_extra_state(self, state):
            pass

    def load(path):
        model = torch.nn.Sequential(Told(16, 16, bias=False))
        model[0].weight.data.copy_(torch.load(path)["second.weight"])
        return model

    with pytest.raises(CkptdiffError, match=r"is no tensor under 1 of its keys: 0\._extra_state"):
        ckptdiff.convert(None, weights, tmp_path / "out.pth", loader=load)
    for options in ({"partial": True}, {"drop": "*._extra_state"}):
        written = ckptdiff.convert(None, weights, tmp_path / "out.pth", loader=load, force=True, **options)
        assert written.keys == ("0.weight",)
    with pytest.raises(CkptdiffError, match="Without a loader, convert needs a model"):
        ckptdiff.convert(None, weights, tmp_path / "out.pth", force=True)


def test_no_file_that_was_read_is_overwritten(weights, tmp_path):
    torch.save(state(2), tmp_path / "more.pth")

    def load(model, path):
        model.load_state_dict(torch.load(path))
        model.second.weight.data += torch.load(tmp_path / "more.pth")["second.weight"]

    with pytest.raises(CkptdiffError, match=r"more\.pth is the input"):
        ckptdiff.convert(Net(), weights, tmp_path / "more.pth", loader=load, force=True)


def test_the_loader_writes_to_its_file(tmp_path):
    def load(model, path):
        loaded = torch.load(path)
        torch.save({"w": torch.zeros(3)}, path)
        model.load_state_dict(loaded)

    torch.save(state(1), tmp_path / "w.pth")
    ckptdiff.convert(Net(), tmp_path / "w.pth", tmp_path / "out.pth", loader=load)
    assert all(torch.equal(value, state(1)[key]) for key, value in torch.load(tmp_path / "out.pth").items())


def test_the_plain_loader(weights, tmp_path):
    written = ckptdiff.convert(Net(), weights, tmp_path / "out.pth", dtype="bfloat16")
    saved = torch.load(tmp_path / "out.pth")
    assert list(saved) == list(Net().state_dict()) == list(written.keys)
    assert saved["first.weight"].dtype == torch.bfloat16
    assert saved._metadata == Net().state_dict()._metadata


def test_a_large_model_is_written_in_the_memory_of_its_largest_tensor(tmp_path):
    tensors = {f"{index}.weight": torch.full((4096, 4096), float(index)) for index in range(12)}  # 800 MB
    torch.save(tensors, tmp_path / "w.pth")
    del tensors

    def load(path):
        loaded = torch.load(path)
        model = torch.nn.Sequential(*[torch.nn.Linear(4096, 4096, bias=False) for _ in range(12)])
        model.load_state_dict({key: value * 2 for key, value in loaded.items()})
        return model

    def own_memory():
        """Megabytes that are the process's own: pages of files the system takes back when it wants them."""
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) >> 10

    before, during = own_memory(), []
    ckptdiff.convert(
        None,
        tmp_path / "w.pth",
        tmp_path / "out.safetensors",
        loader=load,
        progress=lambda done, total: during.append(own_memory()),
    )
    assert max(during) - before < 350  # of 800
    assert torch.equal(load_file(tmp_path / "out.safetensors")["3.weight"], torch.full((4096, 4096), 6.0))
