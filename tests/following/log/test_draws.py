"""Random numbers that are put off are those that would have been drawn, whenever they are looked at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.following.followed import ask
from ckptdiff.following.log import noting
from ckptdiff.following.log.draws import Sequence


class Constructed(nn.Module):
    """The usual ways of initialising."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.embedding = nn.Embedding(100, 32)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02)
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.LayerNorm(600)
        self.scaled = nn.Parameter(torch.randn(40, 50) * 0.1)
        self.zeros = nn.Parameter(torch.zeros(50, 80))
        self.orthogonal = nn.Linear(20, 20)
        nn.init.orthogonal_(self.orthogonal.weight)
        self.recurrent = nn.LSTM(30, 40)
        self.uniform = nn.Parameter(torch.rand(3, 3))
        self.integers = nn.Parameter(torch.ones(8) * torch.randint(0, 9, (8,)))
        torch.manual_seed(4)
        self.drawn = nn.Parameter(torch.empty(30, 30).normal_(2, 3))
        self.like = nn.Parameter(torch.randn_like(self.scaled))
        self.distribution = nn.Parameter(torch.normal(0.0, 1.0, (5, 6)))
        self.columns = nn.Parameter(torch.zeros(6, 6))
        self.columns.data[:, ::2].normal_()
        self.permutation = nn.Parameter(torch.randperm(7).float())


@pytest.mark.parametrize("large", [0, 300, 1 << 20], ids=["all noted", "some noted", "none noted"])
def test_initial_values_are_those_of_the_constructor(large, monkeypatch):
    monkeypatch.setattr(noting, "LARGE", large)
    torch.manual_seed(0)
    plain = Constructed()
    torch.manual_seed(0)
    found = ask(Constructed)
    assert found.raised is None
    for key, value in found.result.state_dict().items():
        assert torch.equal(found.engine.value(value), plain.state_dict()[key]), key


@pytest.mark.parametrize("large", [0, 1 << 20])
def test_the_generator_goes_on_where_it_would_have(large, monkeypatch):
    monkeypatch.setattr(noting, "LARGE", large)

    def draws():
        Constructed()
        state = torch.get_rng_state()
        numbers = torch.rand(3).tolist()
        torch.set_rng_state(state)
        return numbers, torch.rand(3).tolist(), torch.randint(0, 1000, (3,)).tolist()

    torch.manual_seed(0)
    expected = draws()
    torch.manual_seed(0)
    assert ask(draws).result == expected
    assert ask(lambda: torch.manual_seed(3) and draws()).result == (torch.manual_seed(3) and draws())


def test_a_large_model_is_built_without_its_memory():
    import resource

    def made():
        return nn.Sequential(*[nn.Linear(8192, 8192) for _ in range(16)])  # 4.3 GB

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = ask(made)
    assert sum(value.numel() for value in found.result.parameters()) > 1 << 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_random_numbers_are_as_before():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    ask(Constructed)
    assert torch.equal(torch.rand(2), expected)


def test_what_a_file_replaces_is_never_drawn(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(600, 600)\n\ndef load(model, path):\n    model.load_state_dict(torch.load(path))\n"
    )
    torch.save(nn.Linear(600, 600).state_dict(), tmp_path / "w.pth")
    drawn = []
    go_to = Sequence._go_to
    monkeypatch.setattr(Sequence, "_go_to", lambda *given: drawn.append(given) or go_to(*given))
    monkeypatch.chdir(tmp_path)
    assert ckptdiff.compare("net.py:Net", "w.pth", loader="net.py:load").complete
    assert drawn == []
