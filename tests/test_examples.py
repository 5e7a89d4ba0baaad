"""Every example that help pages, README.md and docs/ show is run, and answers what they say."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ckptdiff.cli import main
from ckptdiff.cli.app import COMMANDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

# What the examples call Net: README.md's tells of a head with another number of classes and a renamed encoder.
MODEL = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes={classes}):
        super().__init__()
        self.enc = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(3))
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, num_classes)


def HalfNet():
    return Net().half()
"""

# The examples that end with another exit code than 0.
ANSWERS = {
    "ckptdiff compare model.py:Net old.pth": 1,
    "ckptdiff compare model.py:Net old.pth --rules old.rules.toml": 1,
    "ckptdiff compare model.py:Net ddp.pth": 1,
    "ckptdiff compare model.py:Net ddp.pth --python": 1,
    "ckptdiff compare model.py:Net old.fixed.pth --python": 1,
    "ckptdiff trace finetune.py --ckpt ddp.pth": 1,
    "ckptdiff suggest model.py:Net old.pth": 1,
    "ckptdiff suggest model.py:Net old.pth --save old.rules.toml": 1,
    "ckptdiff suggest model.py:Net old.pth --loader load.py:load": 1,
    "ckptdiff diff old.pth weights.pth": 1,
    "ckptdiff diff before.pth after.safetensors": 1,
    "ckptdiff diff before.pth after.safetensors --name-only": 1,
    "ckptdiff compare model.py:HalfNet weights.pth --check-values --fail-on warning": 1,
}
NOT_RUN = ("git ", "make ", "pip ", "ckptdiff check --scheduler ", "ckptdiff browse ")


def prepare(classes: int) -> None:
    """Everything the examples name, in the current folder."""
    Path("model.py").write_text(MODEL.format(classes=classes))
    defined: dict[str, type[nn.Module]] = {}
    exec(Path("model.py").read_text(), defined)
    torch.manual_seed(0)
    weights = defined["Net"](classes).state_dict()
    older = defined["Net"](classes + 2).state_dict()
    ema = {"state_dict": weights} if classes == 10 else weights
    torch.save(weights, "weights.pth")
    torch.save(weights, "model.pth")
    torch.save(older, "imagenet.pth")
    torch.save({f"module.{key}": value for key, value in weights.items()}, "ddp.pth")
    torch.save({key.replace("enc.", "encoder."): value for key, value in older.items()}, "old.pth")
    torch.save({"epoch": 3, "state_dict": weights, "ema": ema, "optimizer": {}}, "run.ckpt")
    assert main(["rewrite", "weights.pth", "-o", "model.safetensors"]) == 0
    assert main(["snapshot", "model.py:Net", "-o", "released.ckptdiff.json"]) == 0
    Path("load.py").write_text(LOAD)
    Path("ci").mkdir()
    target = '[[targets]]\nname = "released"\nmodel = "{0}model.py:Net"\ncheckpoint = "{0}weights.pth"\n'
    Path("ckptdiff.toml").write_text(target.format(""))
    Path("ci/ckptdiff.toml").write_text(target.format("../"))


LOAD = """\
import torch
from model import Net

def load(model, path):
    model.load_state_dict(torch.load(path))

def build(path):
    model = Net()
    load(model, path)
    return model
"""


def run(line: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Run an example, which may be several commands in a row; what it printed."""
    shown = ""
    for command in line.split(" && "):
        program, *arguments = shlex.split(command, comments=True)
        if program == "ckptdiff":
            for name in ("-o", "--out"):  # of an earlier example
                if name in arguments and (out := Path(arguments[arguments.index(name) + 1])).is_file():
                    out.unlink()
            if arguments == ["init"]:  # in a folder with a model and its snapshot
                for path in (Path("ckptdiff.toml"), *Path().glob("*.pth"), Path("run.ckpt")):
                    path.unlink(missing_ok=True)
                shutil.rmtree("bert-dir", ignore_errors=True)
            code = main(arguments)
            out, err = capfd.readouterr()
            assert code == ANSWERS.get(shlex.join([program, *arguments]).replace("'", ""), 0), f"{command}\n{out}{err}"
            shown += out + err
    return shown


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_help_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    examples = [line.strip() for line in import_module(f"ckptdiff.cli.{name}").EXAMPLES.splitlines()]
    monkeypatch.chdir(tmp_path)
    prepare(classes=10 if name == "compare" else 7)
    if name == "compare":
        builder = SimpleNamespace(list_models=lambda: ["resnet50"], get_model_builder=lambda name: resnet50)
        monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=builder))
        a_bert("bert-dir")
    if name == "suggest":  # whose examples are of a backbone alone
        older = torch.load("old.pth")
        torch.save({key: value for key, value in older.items() if not key.startswith("head.")}, "old.pth")
    if name == "filter":
        a_bert("bert-dir")
    if name in ("diff", "verify", "lock"):
        pairs_of_checkpoints()
    if name == "trace":
        programs()
    if name == "git":
        subprocess.run(["git", "init", "-q"], check=True)
    for example in examples:
        assert example.startswith(("ckptdiff ", *NOT_RUN))
        if not example.startswith("ckptdiff browse "):  # which needs a terminal
            run(example, capfd)


def pairs_of_checkpoints() -> None:
    """Files that hold the same weights in several forms, and their lock."""
    weights = torch.load("weights.pth")
    for name in ("old.pth", "new.pth", "a.pth", "b.pth"):
        torch.save(weights, name)
    torch.save({"ema": weights}, "run1.ckpt")
    torch.save({"model": weights}, "run2.ckpt")
    for name in ("new.safetensors", "weights.safetensors", "base/", "tuned/", "checkpoint/"):
        assert main(["rewrite", "weights.pth", "-o", name]) == 0
    assert main(["lock", "weights.pth", "-o", "weights.lock"]) == 0


def before_and_after() -> None:
    """Two checkpoints of which one value differs."""
    weights = torch.load("weights.pth")
    torch.save(weights, "before.pth")
    weights["enc.1.0.weight"][2, 3] += 0.5
    torch.save(weights, "changed.pth")
    assert main(["rewrite", "changed.pth", "-o", "after.safetensors"]) == 0


SIZES = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10, dim=32, depth=3, heads=4):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(dim), "fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
            for _ in range(depth)
        )
        self.head = nn.Linear(dim, num_classes)
"""


def repairable() -> None:
    """Files that do not load as they are, and the model that they are for."""
    Path("net.py").write_text(SIZES)
    defined: dict[str, type[nn.Module]] = {}
    exec(SIZES, defined)
    torch.save(defined["Net"](7, 64, 5).state_dict(), "sizes.pth")


def programs() -> None:
    """Programs that load what the commands name."""
    text = (
        "import argparse, torch\nfrom model import Net\nparser = argparse.ArgumentParser()\n"
        "for name in ('--ckpt', '--resume'): parser.add_argument(name)\n"
        "given = parser.parse_args()\nmodel = Net().eval()\n"
        "state = torch.load(given.ckpt or given.resume or 'weights.pth')\n"
        "model.load_state_dict(state.get('state_dict', state))\nmodel.head(torch.rand(1, 4))\n"
    )
    Path("package").mkdir()
    for name in ("sample.py", "finetune.py", "train.py", "package/evaluate.py"):
        Path(name).write_text(text.replace("state))", "state), strict=False)") if name == "finetune.py" else text)


def resnet50() -> nn.Module:
    """Stands in for torchvision's."""
    made: dict[str, type[nn.Module]] = {}
    exec(MODEL.format(classes=10), made)
    return made["Net"]()


def a_bert(folder: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=9, **sizes)).save_pretrained(folder)


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "file",
    [
        *("README.md", "docs/ci.md", "docs/diff.md", "docs/following.md", "docs/repairs.md", "docs/trace.md"),
        "docs/tutorial.md",
    ],
)
def test_the_commands_of_the_documentation_print_what_it_shows(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(classes=7)
    if file in ("README.md", "docs/trace.md"):
        programs()
    if file == "docs/diff.md":
        before_and_after()
    if file == "docs/repairs.md":
        repairable()
    if file == "README.md":
        a_bert("bert-dir")
    for block in blocks(file, "console"):
        shown = ""
        for line in block.splitlines():
            if line.startswith("$ "):
                line = line[2:].partition(" #")[0].strip()
                if not line.startswith(NOT_RUN):
                    shown = run(line, capfd)
            elif line not in ("", "..."):
                before, found, shown = shown.partition(f"{line}\n")
                assert found, f"{line!r} is not in\n{before}"


def test_the_python_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(classes=7)
    (block,) = blocks("README.md", "python")

    def load(model: nn.Module, path: str) -> None:
        model.load_state_dict(torch.load(path))

    names: dict[str, object] = {"model": resnet50(), "load": load}
    exec(textwrap.dedent(block), names)
    assert not names["report"].loads(strict=True)  # type: ignore[attr-defined]
    assert [key for key, *_ in names["report"].mismatched_keys] == ["head.weight", "head.bias"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", ["docs/python.md", "docs/json.md"])
def test_the_python_of_the_documentation(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(classes=7)
    (block,) = blocks(file, "python")
    exec(textwrap.dedent(block), {})
