"""`check`: every target of a config in a process of its own, from Python as from the command line."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdiff
from ckptdiff.errors import UsageError
from ckptdiff.gate import config as gate_config
from ckptdiff.verbs.check import judge_target

NET = "from torch import nn\ndef make(n=3): return nn.Linear(n, 2)\n"


def target(name: str, checkpoint: str = "w.pth", model: str = "m.json", **options: object) -> str:
    rows = {"name": name, "model": model, "checkpoint": checkpoint, **options}
    return "[[targets]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in rows.items())


def _toml(value: object) -> str:
    return "{ n = 5 }" if isinstance(value, dict) else json.dumps(value)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's snapshot, its weights in several shapes, and no config yet."""
    monkeypatch.chdir(tmp_path)
    good = nn.Linear(3, 2).state_dict()
    Path("gpu.py").write_text(
        NET.replace("n=3", "")
        .replace("(n,", "(5 if torch.cuda.is_available() else 3,")
        .replace("from", "import torch\nfrom", 1)
    )
    Path("m.json").write_text(ckptdiff.snapshot(nn.Linear(3, 2)))
    Path("n.json").write_text(ckptdiff.snapshot(nn.Sequential(nn.Linear(3, 2))))
    Path("net.py").write_text(NET)
    Path("half.py").write_text(
        "import torch\ndef load(model, path):\n    model.weight.data = torch.load(path)['weight']\n"
    )
    Path("r.toml").write_text('version = 1\n[[rule]]\nrename = "a.{*} -> {*}"\n')
    torch.save(good, "w.pth")
    torch.save({"weight": good["weight"], "junk": torch.ones(1)}, "bad.pth")
    torch.save({"state_dict": {"other": torch.ones(1)}, "x": {"y": good}}, "in.pth")
    torch.save({f"a.{key}": value for key, value in good.items()}, "a.pth")
    torch.save(nn.Linear(5, 2).state_dict(), "five.pth")
    torch.save({key: value.double() for key, value in good.items()}, "double.pth")
    torch.save({**good, "bias": torch.tensor([torch.nan, 1.0])}, "nan.pth")
    return tmp_path


def test_the_run_has_every_target_in_order(desk: Path) -> None:
    Path("ckptdiff.toml").write_text(target("good") + target("bad", "bad.pth") + target("gone", "gone.pth"))
    run = ckptdiff.check()
    assert [(item.name, item.outcome) for item in run.targets] == [("good", "pass"), ("bad", "fail"), ("gone", "error")]
    assert (run.outcome, run.exit_code, Path(run.config).name) == ("error", 2, "ckptdiff.toml")
    assert run.targets[1].report is not None
    assert run.targets[1].report.missing_keys == ["bias"]
    assert run.targets[2].error is not None
    assert "gone.pth does not exist" in run.targets[2].error.message
    for names in ("bad", ["bad"], ("bad",)):
        assert [item.name for item in ckptdiff.check("ckptdiff.toml", names).targets] == ["bad"]


def test_a_targets_process_gives_what_this_one_would(desk: Path) -> None:
    Path("c.toml").write_text(target("bad", "bad.pth") + 'levels = { unexpected-key = "note" }\n')
    (here,) = (judge_target(item, "error") for item in gate_config.load(Path("c.toml")).targets)
    (there,) = ckptdiff.check("c.toml").targets
    assert here.report is not None
    assert there.report is not None
    assert here.report.findings == there.report.findings
    assert {finding.rule: finding.level for finding in there.report.findings}["unexpected-key"] == "note"


SAID: dict[str, dict[str, Any]] = {
    "key": {"checkpoint": "in.pth", "key": "x.y"},
    "strip_prefix": {"checkpoint": "a.pth", "strip_prefix": "a."},
    "add_prefix": {"model": "n.json", "add_prefix": "0."},
    "rename": {"checkpoint": "a.pth", "rename": ["a.{*} -> {*}"]},
    "rules": {"checkpoint": "a.pth", "rules": "r.toml"},
    "args": {"model": "net.py:make", "checkpoint": "five.pth", "args": {"n": 5}},
    "loader": {"model": "net.py:make", "loader": "half.py:load"},
    "device": {"model": "gpu.py:make", "device": "cuda"},
    "assign": {"checkpoint": "double.pth", "assign": True},
    "check_values": {"checkpoint": "nan.pth", "check_values": True},
    "fail_on": {"checkpoint": "double.pth", "fail_on": "warning"},
}


def test_a_target_can_say_all_that_compare_takes() -> None:
    parameters = inspect.signature(ckptdiff.compare).parameters
    assert {"name", "levels", "ignore", *parameters} == set(gate_config.TARGET) - {"trace"}
    keywords = {name for name in parameters if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(SAID) == keywords - {"trust_checkpoint", "trust_remote_code", "loader_args"}  # see tests/loaders


@pytest.mark.parametrize("option", SAID)
def test_each_option_of_a_target_is_compares(desk: Path, option: str) -> None:
    said = {"model": "m.json", "checkpoint": "w.pth", **SAID[option]}
    without = {name: value for name, value in said.items() if name != option}
    Path("c.toml").write_text(target("with", **said) + target("without", **without))
    first, second = ckptdiff.check("c.toml").targets
    for result, options in ((first, said), (second, without)):
        report = ckptdiff.compare(**options)
        assert result.report is not None
        assert (result.outcome, result.report.findings) == (report.verdict, report.findings)
        assert result.report.error_message() == report.error_message()
    assert (first.outcome, first.report.findings) != (second.outcome, second.report.findings)  # type: ignore[union-attr]


def test_a_targets_own_level_goes_before_that_of_the_run(desk: Path) -> None:
    Path("c.toml").write_text(target("own", "double.pth", fail_on="error") + target("other", "double.pth"))
    assert [item.outcome for item in ckptdiff.check("c.toml", fail_on="warning").targets] == ["pass", "fail"]


def test_a_baseline_is_recorded_and_held_against(desk: Path) -> None:
    Path("c.toml").write_text(target("bad", "bad.pth"))
    assert ckptdiff.check("c.toml").recorded is None
    run = ckptdiff.check("c.toml", update_baseline=Path("b.json"))
    assert (run.outcome, run.recorded) == ("pass", 2)
    assert ckptdiff.check("c.toml", baseline="b.json").outcome == "pass"
    torch.save(nn.Linear(3, 2).state_dict(), "bad.pth")
    assert ckptdiff.check("c.toml", baseline="b.json").outcome == "fail"
    assert ckptdiff.check("c.toml", baseline="b.json", allow_stale=True).outcome == "pass"


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: ckptdiff.check("c.toml", "gone"), "names='gone': there is no such choice"),
        (lambda: ckptdiff.check("c.toml", 3), "names takes a text"),  # type: ignore[arg-type]
        (lambda: ckptdiff.check("gone.toml"), "gone.toml"),
        (lambda: ckptdiff.check("c.toml", jobs=-1), "jobs"),
        (lambda: ckptdiff.check("c.toml", timeout=0), "timeout"),
        (lambda: ckptdiff.check("c.toml", fail_on="grave"), "fail_on='grave'"),  # type: ignore[arg-type]
        (lambda: ckptdiff.check("c.toml", baseline="gone.json"), "gone.json"),
        (lambda: ckptdiff.check("c.toml", baseline="b.json", update_baseline="b.json"), "exclude each other"),
    ],
)
def test_a_mistake_is_told_before_a_target_runs(desk: Path, ask: Callable[[], object], says: str) -> None:
    Path("c.toml").write_text(target("code", model="ran.py:make"))
    Path("ran.py").write_text("open('ran', 'w').close()\n")
    with pytest.raises(UsageError, match=says):
        ask()
    assert not Path("ran").exists()


def test_a_program_that_asks_is_not_run_again_in_the_targets_processes(desk: Path) -> None:
    """multiprocessing runs the main program once more in each process, unless it is kept from it."""
    Path("c.toml").write_text(target("a", model="net.py:make") + target("b"))
    Path("ask.py").write_text("import ckptdiff\nprint('asked')\nprint(ckptdiff.check('c.toml').outcome)\n")
    done = subprocess.run([sys.executable, "ask.py"], capture_output=True, text=True, check=True)
    assert done.stdout == "asked\npass\n"


PROGRAM = """\
import sys, torch
from torch import nn

class Net(nn.Linear):
    pass

class Critic(nn.Linear):
    pass

net = Net(3, 2)
net.load_state_dict(torch.load(sys.argv[1], map_location="cpu"), strict=False)
critic = Critic(3, 2)
critic.weight.data.copy_(torch.load(sys.argv[1])["weight"])
try:
    net(torch.rand(1, 3))
except:
    print("never mind")
"""


def test_a_command_is_a_target(desk: Path) -> None:
    Path("program.py").write_text(PROGRAM)
    torch.save(nn.Linear(3, 2).state_dict(), "good.pth")
    torch.save({"net.weight": torch.rand(2, 3), "weight": torch.rand(2, 3)}, "bad.pth")
    Path("ckptdiff.toml").write_text(
        '[target.good]\ntrace = "program.py good.pth"\nignore = [{ key = "Critic.bias", reason = "drawn anew" }]\n'
        '[target.bad]\ntrace = "program.py bad.pth"\n'
        '[[targets]]\nname = "none"\ntrace = "program.py nothing.pth"\n'
    )
    run = ckptdiff.check()
    outcomes = {result.name: result for result in run.targets}
    assert [(name, outcomes[name].outcome) for name in ("good", "bad", "none")] == [
        ("good", "pass"), ("bad", "fail"), ("none", "error"),
    ]  # fmt: skip
    report = outcomes["bad"].report
    assert report is not None
    found = {finding.key for finding in report.findings if finding.rule == "initial-value"}
    assert found == {"Net.bias", "Critic.bias"}


def test_a_command_takes_no_model(desk: Path) -> None:
    Path("ckptdiff.toml").write_text('[target.a]\ntrace = "program.py"\nmodel = "m.json"\n')
    with pytest.raises(UsageError, match="does not know the key 'model'"):
        ckptdiff.check()
