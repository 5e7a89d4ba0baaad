"""Where only sizes differ: the arguments of the constructor with which a checkpoint loads, printed, run and loaded."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.cli import main

NETS = '''
import torch
from torch import nn


class Net(nn.Module):
    """A transformer's sizes: of its width many others are made, of its heads none."""

    def __init__(self, num_classes=10, dim=32, depth=3, heads=4, ratio=4.0, bias=True, drop=0.1):
        super().__init__()
        assert dim % heads == 0
        hidden = int(ratio * dim)
        self.embed = nn.Conv2d(3, dim, 4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(dim), "fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})
            for _ in range(depth)
        )
        self.head = nn.Linear(dim, num_classes, bias=bias)


class Stages(nn.Module):
    def __init__(self, layers=(2, 2), channels=(8, 16), num_classes=10, **kwargs):
        super().__init__()
        self.stages, before = nn.ModuleList(), 3
        for number, width in zip(layers, channels):
            convs = []
            for _ in range(number):
                convs.append(nn.Conv2d(before, width, 3))
                before = width
            self.stages.append(nn.Sequential(*convs))
        self.fc = nn.Linear(before, num_classes)


class Grid(nn.Module):
    def __init__(self, img_size=32, patch=4, width=8, flat=False, hidden=None):
        super().__init__()
        hidden = hidden or 2 * width
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.pos = nn.Parameter(torch.zeros(1, 1 + (img_size // patch) ** 2, width))
        self.fc = nn.Linear(width * (img_size // patch) ** 2 if flat else width, hidden)


class Attention(nn.Module):
    def __init__(self, heads=4, head_dim=16):
        super().__init__()
        self.qkv = nn.Linear(32, 3 * heads * head_dim)


class Base(nn.Module):
    def __init__(self, width=8, depth=2):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))


class Derived(Base):
    def __init__(self, classes=3, **kwargs):
        super().__init__(**kwargs)
        self.head = nn.Linear(self.layers[0].in_features, classes)


def derived(classes=3, **kwargs):
    return Derived(classes, **kwargs)
'''


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    Path("nets.py").write_text(NETS)
    defined: dict[str, Any] = {}
    exec(NETS, defined)
    return defined


CASES = [
    ("Net", {"depth": 1}),
    ("Net", {"dim": 48, "ratio": 2.0, "bias": False}),
    ("Stages", {"layers": (3, 1), "channels": (8, 24), "num_classes": 5}),
    ("Grid", {"img_size": 64, "patch": 8, "width": 12}),
    ("Grid", {"img_size": 48, "flat": True, "hidden": 20}),
    ("Derived", {"classes": 5, "width": 12, "depth": 3}),
    ("derived", {"classes": 5, "width": 12, "depth": 3}),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("name", "args"), CASES)
def test_the_arguments_are_found(name: str, args: dict[str, object], nets: dict[str, Any]) -> None:
    state = nets[name](**args).state_dict()
    torch.save(state, "w.pth")
    found = ckptdiff.suggest(f"nets.py:{name}", "w.pth").arguments
    assert found is not None
    assert found.values == args
    assert found.decided
    made = nets[name](**found.values)
    made.load_state_dict(torch.load("w.pth"))
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())


@pytest.mark.parametrize(
    ("name", "args"),
    [("Net", {"num_classes": 7, "dim": 64, "depth": 5}), ("Stages", {"layers": (3, 1), "channels": (8, 24)})],
)
def test_the_printed_commands_and_lines_load(
    name: str, args: dict[str, object], nets: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    state = nets[name](**args).state_dict()
    torch.save(state, "w.pth")
    assert main(["suggest", f"nets.py:{name}", "w.pth", "--format", "text"]) == 0
    out = capfd.readouterr().out
    words = [word for arg, value in args.items() for word in ("--arg", f"{arg}={value!r}")]
    (said,) = [line.strip() for line in out.splitlines() if "loads with" in line]
    assert shlex.split(said)[2:] == words
    (command,) = [line.strip()[2:] for line in out.splitlines() if line.startswith("  $ ")]
    assert shlex.split(command) == ["ckptdiff", "compare", f"nets.py:{name}", "w.pth", *words]
    assert main(shlex.split(command)[1:]) == 0
    scope: dict[str, Any] = {}
    exec(out.partition("in Python\n")[2].replace("\n  ", "\n").strip(), scope)
    made = scope["model"].state_dict()
    assert made.keys() == state.keys()
    assert all(torch.equal(made[key], value) for key, value in state.items())


def test_python_gives_them_as_values(nets: dict[str, Any]) -> None:
    torch.save(nets["Net"](7, 64, 5).state_dict(), "w.pth")
    found = ckptdiff.suggest("nets.py:Net", "w.pth")
    assert found.arguments is not None
    assert found.arguments.values == {"num_classes": 7, "dim": 64, "depth": 5}
    assert found.arguments.unseen == ("heads",)
    assert not found.complete
    assert "it loads with {'num_classes': 7, 'dim': 64, 'depth': 5}" in repr(found)
    document = json.loads(found.to_json())
    assert document["arguments"]["values"] == found.arguments.values
    assert "loads with args={'num_classes': 7, 'dim': 64, 'depth': 5}" in str(found)
    assert ckptdiff.suggest(nets["Net"](), "w.pth").arguments is None  # a live model has no constructor to ask


@pytest.mark.parametrize("wrapper", ["model.", "module."])
def test_what_the_file_says_goes_before_all_trying(
    wrapper: str, nets: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Its heads too, which no size tells; and the keys are renamed for the model that it says."""
    args = {"num_classes": 7, "dim": 64, "heads": 8, "bias": False}
    state = nets["Net"](**args).state_dict()
    wrapped = {wrapper + key: value for key, value in state.items()}
    torch.save({"state_dict": wrapped, "hyper_parameters": {**args, "lr": 0.1, "drop": 0.1}}, "w.ckpt")
    assert main(["suggest", "nets.py:Net", "w.ckpt", "--format", "text"]) == 0
    out = capfd.readouterr().out
    assert "as the file's hyper_parameters says:\n" in out
    assert "loads with --arg num_classes=7 --arg dim=64 --arg heads=8 --arg bias=False\n" in out
    (command,) = [line.strip()[2:] for line in out.splitlines() if line.startswith("  $ ")]
    assert main(shlex.split(command)[1:]) == 0
    made = torch.load("w.fixed.ckpt")
    nets["Net"](**args).load_state_dict(made)
    assert all(torch.equal(made[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hparams.yaml", "# Lightning\nbatch_size: 3\nnum_classes: 7\nmodel:\n  dim: 64\n  depth: 5\n  name: net\n"),
        ("config.json", '{"model": {"num_classes": 7, "dim": 64, "depth": 5}, "layers": [1]}'),
    ],
)
def test_what_lies_beside_it_is_heard(name: str, text: str, nets: dict[str, Any]) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    torch.save(nets["Net"](7, 64, 5).state_dict(), "run/checkpoints/w.pth")
    Path("run" if name == "hparams.yaml" else "run/checkpoints", name).write_text(text)
    found = ckptdiff.suggest("nets.py:Net", "run/checkpoints/w.pth").arguments
    assert found is not None
    assert found.source == name
    assert found.values == {"num_classes": 7, "dim": 64, "depth": 5}


def test_a_word_that_is_wrong_is_not_believed(nets: dict[str, Any]) -> None:
    state = nets["Net"](7, 64, 5).state_dict()
    torch.save({"state_dict": state, "args": argparse.Namespace(num_classes=7, dim=48, depth="deep", heads=3)}, "w.pth")
    found = ckptdiff.suggest("nets.py:Net", "w.pth").arguments
    assert found is not None
    assert not found.source
    assert found.values == {"num_classes": 7, "dim": 64, "depth": 5}


def test_two_sets_of_arguments_are_both_named_and_none_is_chosen(
    nets: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(nets["Attention"](6, 32).state_dict(), "w.pth")
    assert main(["suggest", "nets.py:Attention", "w.pth", "--format", "text"]) == 1
    out = capfd.readouterr().out
    assert "loads with --arg heads=12\n" in out
    assert "loads with --arg head_dim=48\n" in out
    assert "which of them are meant, nothing says" in out
    for line in out.splitlines():
        if line.startswith("  $ "):
            assert main(shlex.split(line.strip()[2:])[1:]) == 0


def test_a_head_of_another_size_may_be_meant_to_be_new(nets: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    torch.save(nets["Net"](12).state_dict(), "w.pth")
    assert main(["suggest", "nets.py:Net", "w.pth", "--format", "text"]) == 1
    out = capfd.readouterr().out
    assert "loads with --arg num_classes=12\n" in out
    assert "head differs (12 → 10)" in out


def test_where_no_name_is_sure_the_sizes_are_said(nets: dict[str, Any]) -> None:
    state = nets["Net"](12, 48, 4).state_dict()
    torch.save({key.replace("blocks", "x").replace("fc", "q"): value for key, value in state.items()}, "w.pth")
    found = ckptdiff.suggest("nets.py:Net", "w.pth")
    assert found.arguments is not None
    assert found.arguments.values == {"num_classes": 12, "dim": 48, "depth": 4}
    assert found.arguments.loads == (not found.unfilled and not found.ambiguous)


def test_what_cannot_be_made_to_fit_is_left(nets: dict[str, Any]) -> None:
    torch.save(nets["Grid"]().state_dict(), "grid.pth")
    assert ckptdiff.suggest("nets.py:Net", "grid.pth").arguments is None
    state = nets["Net"](dim=64).state_dict()
    torch.save({**state, "embed.weight": torch.zeros(64, 5, 4, 4)}, "w.pth")
    assert ckptdiff.suggest("nets.py:Net", "w.pth").arguments is None


def test_fix_says_them_and_writes_for_the_model_as_it_is_named(
    nets: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(nets["Net"](depth=5).state_dict(), "deeper.pth")
    main(["fix", "nets.py:Net", "deeper.pth", "-o", "out.pth", "--format", "text"])
    assert "loads with --arg depth=5" in capfd.readouterr().out
    nets["Net"]().load_state_dict(torch.load("out.pth"))
    torch.save(nets["Net"](7, 64, 5).state_dict(), "w.pth")
    assert main(["fix", "nets.py:Net", "w.pth", "-o", "none.pth"]) == 2
    assert "It loads with --arg num_classes=7 --arg dim=64 --arg depth=5." in capfd.readouterr().err


def test_compare_points_to_suggest(nets: dict[str, Any]) -> None:
    torch.save(nets["Net"](7, 64, 5).state_dict(), "w.pth")
    kinds = [advice.kind for advice in ckptdiff.compare("nets.py:Net", "w.pth").advice]
    assert "arguments" in kinds
    assert "arguments" not in [advice.kind for advice in ckptdiff.compare(nets["Net"](), "w.pth").advice]


LOUD = """
import os, sys, time
from torch import nn


class Net(nn.Module):
    def __init__(self, dim=4, pretrained=False, seconds=0, out=2):
        super().__init__()
        print("built")
        if pretrained:
            open("fetched", "w").close()
        if dim > 20:
            os.environ["BUILT"] = str(dim)
            sys.exit(3)
        self.fc = nn.Linear(dim, out)
        self.fc2 = nn.ModuleList(nn.Linear(dim, 50_000) for _ in range(dim))
"""


def test_constructors_are_kept_quiet_and_fetch_nothing(nets: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    Path("loud.py").write_text(LOUD)
    defined: dict[str, Any] = {}
    exec(LOUD, defined)
    with torch.device("meta"):
        state = defined["Net"](6, out=7).state_dict()
    torch.save({key: torch.zeros(1).expand(value.shape) for key, value in state.items()}, "w.pth")
    capfd.readouterr()
    assert main(["suggest", "loud.py:Net", "w.pth", "--format", "text"]) == 0
    out, error = capfd.readouterr()
    assert "loads with --arg dim=6 --arg out=7\n" in out
    assert error.count("built") < 6
    assert not Path("fetched").exists()


def test_it_ends_in_time(nets: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import ckptdiff.other_arguments as other

    monkeypatch.setattr(other, "SECONDS", 0.0)
    torch.save(nets["Net"](7, 64, 5).state_dict(), "w.pth")
    assert ckptdiff.suggest("nets.py:Net", "w.pth").arguments is None


def test_a_module_that_is_made_already_has_no_arguments() -> None:
    Path("made.py").write_text("from torch import nn\nnet = nn.Linear(2, 2)\n")
    torch.save(nn.Linear(3, 2).state_dict(), "w.pth")
    assert ckptdiff.suggest("made.py:net", "w.pth").arguments is None


def test_names_that_differ_alone_are_no_matter_of_arguments(nets: dict[str, Any]) -> None:
    state = nets["Net"]().state_dict()
    torch.save(
        {f"x{place}.{key.rpartition('.')[2]}": value for place, (key, value) in enumerate(state.items())}, "w.pth"
    )
    assert ckptdiff.suggest("nets.py:Net", "w.pth").arguments is None


HOSTILE = {
    "path": "../../etc/passwd", "hub": "hf-hub:someone/evil", "command": "rm -rf /", "huge": 10**12,
    "nan": float("nan"), "infinite": float("inf"), "long": "x" * 1000, "empty": "",
    "nested": {"code": "__import__('os')"},
}  # fmt: skip


def test_what_a_stranger_says_is_taken_as_sizes_and_choices_alone(tmp_path: Path) -> None:
    """It goes into a constructor of the user's, which may do anything with a text."""
    from ckptdiff.checkpoint.from_any import checkpoint_from
    from ckptdiff.checkpoint.told_arguments import told_by

    plain = {"dim": 64, "act": "gelu", "ratio": 2.5, "layers": [1, 2], "bias": False, "none": None}
    torch.save({"state_dict": nn.Linear(2, 2).state_dict(), "config": {**plain, **HOSTILE}}, tmp_path / "w.pth")
    (told,) = told_by(checkpoint_from(tmp_path / "w.pth", None))
    assert told.values == plain
