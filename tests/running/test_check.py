"""`ckptdiff check` as a whole: every target has a process of its own, whatever the others do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptdiff

ROOT = Path(__file__).parents[2]

MODELS = """\
import atexit
import os
import subprocess
import sys
import threading
import time

from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.body = nn.Linear(width, width)
        print("noise from the model")


def slow():
    time.sleep(1)
    return Net()


def aborts():
    os.abort()


def quiet():
    os._exit(0)


def exits():
    sys.exit(0)


def hangs():
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)", os.environ["MARK"]])


def late():
    atexit.register(print, "late noise")
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return Net()


def leaves_a_process():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", os.environ["MARK"]], close_fds=False)
    os._exit(0)


def deep():
    model = nn.Sequential(nn.Linear(2, 2))
    for _ in range(2000):
        model = nn.Sequential(model)
    return model


def raises():
    raise KeyboardInterrupt


def closes():
    os.closerange(3, 200)
    return Net()
"""

ENDS = {
    "slow": "pass",
    "Net": "pass",
    "aborts": "crash",
    "quiet": "exit",
    "exits": "model",
    "hangs": "timeout",
    "late": "pass",
    "leaves_a_process": "exit",
    "deep": "fail",
    "raises": "exit",
    "closes": "exit",
    "gone:Net": "model",
}
TIMEOUT = 20


def targets(*names: str, checkpoint: str = "weights.pth") -> str:
    rows = [
        f'[[targets]]\nname = "{name}"\nmodel = "{name if ":" in name else f"net.py:{name}"}"\n'
        f'checkpoint = "{checkpoint}"\n'
        for name in names
    ]
    return "\n".join(rows)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODELS)
    torch.save({"body.weight": torch.zeros(4, 4), "body.bias": torch.zeros(4)}, "weights.pth")
    (tmp_path / "ckptdiff.toml").write_text(targets("Net"))
    return tmp_path


def check(*arguments: str, command: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    whole = [*(command or (sys.executable, "-m", "ckptdiff")), "check", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(whole, capture_output=True, text=True, env=env, timeout=300)


def ends(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    rows = json.loads(done.stdout)["targets"]
    return {row["name"]: row["error"]["kind"] if row["outcome"] == "error" else row["outcome"] for row in rows}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_whatever_a_target_does_the_others_get_their_answer(desk: Path) -> None:
    (desk / "ckptdiff.toml").write_text(targets(*ENDS))
    done = check("--format", "json", "--jobs", "3", "--timeout", str(TIMEOUT), MARK=str(desk))
    assert done.returncode == 2
    assert ends(done) == ENDS
    assert list(ends(done)) == list(ENDS)
    assert "noise from the model" in done.stderr
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(desk).encode() in path.read_bytes()]
    assert not left, "what a target has started ends with it"


def test_exit_code_1_for_a_failure_and_2_for_no_verdict(desk: Path) -> None:
    torch.save({"body.weight": torch.zeros(4, 4)}, "partial.pth")
    (desk / "net.ckptdiff.json").write_text(ckptdiff.snapshot("net.py:Net"))
    text = targets("Net") + targets("other", checkpoint="partial.pth")
    # Snapshots in place of the models' code, for the time it takes.
    (desk / "ckptdiff.toml").write_text(re.sub(r"net\.py:\w+", "net.ckptdiff.json", text))
    done = check("--format", "json", "--report", "junit=report.xml", "--report", "markdown=report.md")
    assert done.returncode == 1
    assert ends(done) == {"Net": "pass", "other": "fail"}
    assert "missing-key" in (desk / "report.xml").read_text()
    assert "body.bias" in (desk / "report.md").read_text()

    (desk / "ckptdiff.toml").write_text(text + targets("quiet"))
    done = check("Net", "quiet", "--format", "json")
    assert done.returncode == 2
    assert ends(done) == {"Net": "pass", "quiet": "exit"}


def test_the_console_script_runs_it_too(desk: Path) -> None:
    script = Path(sysconfig.get_path("scripts"), "ckptdiff")
    if not script.exists():
        pytest.skip("ckptdiff is not installed")
    (desk / "net.ckptdiff.json").write_text(ckptdiff.snapshot("net.py:Net"))
    (desk / "ckptdiff.toml").write_text(targets("Net").replace("net.py:Net", "net.ckptdiff.json"))
    done = check(command=(str(script),))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "The target passes.")


def test_where_a_platform_cannot_fork_processes_start_afresh(desk: Path) -> None:
    code = (
        "import multiprocessing, sys\n"
        "multiprocessing.get_all_start_methods = lambda: ['spawn']\n"
        "from ckptdiff.cli import main\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main())\n"
    )
    (desk / "run.py").write_text(code)
    done = check("--format", "json", command=(sys.executable, "run.py"))
    assert (done.returncode, ends(done)) == (0, {"Net": "pass"})


def test_targets_with_snapshots_for_models_import_no_torch(desk: Path) -> None:
    (desk / "net.ckptdiff.json").write_text(ckptdiff.snapshot("net.py:Net"))
    (desk / "ckptdiff.toml").write_text(
        '[[targets]]\nname = "a"\nmodel = "net.ckptdiff.json"\ncheckpoint = "weights.pth"\n'
    )
    (desk / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    done = check("--format", "json")
    assert (done.returncode, ends(done)) == (0, {"a": "pass"}), done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--jobs", "many"), "--jobs many"),
        (("--jobs", "-1"), "--jobs -1"),
        (("--timeout", "0"), "--timeout 0"),
        (("--timeout", "nan"), "--timeout nan"),
        (("Nett",), "Did you mean TARGET Net?"),
        (("--report", "junt=a.xml"), "Did you mean --report junit?"),
        (("--report", "junit"), "this is not FORMAT=PATH"),
        (("--config", "nothing.toml"), "nothing.toml"),
        (("--baseline", "nothing.json"), "nothing.json"),
        (("--baseline", "ckptdiff.toml"), "is no ckptdiff baseline"),
        (("--baseline", "b.json", "--update-baseline", "b.json"), "exclude each other"),
        (("--fail-on", "warn"), "--fail-on warn"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    desk: Path, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from ckptdiff.cli import main

    (desk / "net.py").write_text("raise SystemExit('it ran')\n")
    assert main(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
