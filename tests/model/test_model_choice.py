"""A bare file means its one obvious model, or the error lists what to choose from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ckptdiff.errors import ModelError
from ckptdiff.model.build import build

Write = Callable[..., Path]

HEAD = """
from __future__ import annotations
import torch
from torch import nn
from torch.nn import Linear, Identity

class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(width, width)
"""


@pytest.mark.parametrize(
    ("source", "chosen"),
    [
        ("", "Net"),
        # instances
        ("net = Net()", "net"),
        ("net = model = Net()", "net"),
        ("net = Net(); other = nn.Sequential(net)", "other"),
        ("net = Net(); loss = nn.CrossEntropyLoss()", "net"),
        ("_net = Net()", "Net"),
        ("net = Net()\ndef build_model():\n    return Net()", "net"),
        ("if True:\n    net = Net()", "net"),
        # factories
        ("def build_model():\n    return Net()", "build_model"),
        ("def anything() -> Net:\n    return Net()", "anything"),
        ("def anything() -> nn.Module:\n    return Net()", "anything"),
        ("def anything(width: int = 3) -> 'Net':\n    return Net(width)", "anything"),
        ("def anything():\n    return Net()", "Net"),
        ("def build_model(width):\n    return Net(width)", "Net"),
        ("def build_model() -> dict:\n    return {}", "Net"),
        ("def build_model() -> NoSuchName:\n    return Net()", "build_model"),
        ("def _private() -> Net:\n    return Net()", "Net"),
        ("def loss() -> torch.Tensor:\n    return 0", "Net"),
        # classes
        ("class Big(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.n = Net()", "Big"),
        ("class Big(Net):\n    pass", "Big"),
        ("def parts():\n    return [Net()]\nclass Big(nn.Module):\n    def f(self):\n        parts()", "Big"),
        ("class _Helper(nn.Module):\n    pass", "Net"),
        ("class Config:\n    pass", "Net"),
    ],
)
def test_the_obvious_model(write: Write, source: str, chosen: str) -> None:
    write(HEAD + source)
    assert build("model.py").reference == f"model.py:{chosen}"


@pytest.mark.parametrize(
    ("source", "listed"),
    [
        ("a = Net(); b = Net()", "`model.py:a`, `model.py:b`"),
        ("def a() -> Net: ...\ndef b() -> Net: ...", "`model.py:a`, `model.py:b`"),
        ("class Other(nn.Module): ...", "`model.py:Net`, `model.py:Other`"),
        (
            "class A(nn.Module):\n    b = lambda: B()\nclass B(nn.Module):\n    a = lambda: A()",
            "Net`, `model.py:A`, `model.py:B`",
        ),
        ("\n".join(f"class C{i}(nn.Module): ..." for i in range(30)), "and 11 more"),
    ],
)
def test_several_models_are_listed_ready_to_paste(write: Write, source: str, listed: str) -> None:
    write(HEAD + source)
    with pytest.raises(ModelError) as caught:
        build("model.py")
    assert listed in caught.value.hint
    assert "none is the obvious one" in caught.value.message


def test_a_file_of_functions_lists_them(write: Write) -> None:
    write("import torch\nfrom torch.nn import Linear\ndef network():\n    return Linear(2, 2)\ndef _private(): ...")
    with pytest.raises(ModelError) as caught:
        build("model.py")
    assert caught.value.hint.endswith("say which: `model.py:network`.")
    assert build("model.py:network").module


def test_an_imported_model_does_not_count(write: Write) -> None:
    write(HEAD + "net = Net()", "other.py")
    write("from other import Net, net")
    with pytest.raises(ModelError) as caught:
        build("model.py")
    assert "no nn.Module instance or subclass" in caught.value.message
    assert build("model.py:net").module


def test_arguments_decide_which_factory_can_be_called(write: Write) -> None:
    write(HEAD + "def build_model(size):\n    return Net(size)")
    assert build("model.py", {"size": 7}).module.state_dict()["layer.weight"].shape == (7, 7)


def test_nothing_is_called_to_find_out(write: Write) -> None:
    write(HEAD + "def network():\n    raise SystemExit\ndef train():\n    raise SystemExit")
    assert build("model.py").reference == "model.py:Net"
