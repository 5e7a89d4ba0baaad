"""Work in a process of its own: whatever its code does, the answer is its own, or there is none."""

from __future__ import annotations

import atexit
import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptdiff.errors import CkptdiffError, UsageError
from ckptdiff.running import apart
from ckptdiff.running.apart import run_apart
from ckptdiff.running.handing import packed, unpacked

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def asked(work: Callable[..., Any], *arguments: Any, timeout: float = 30) -> Any:
    return run_apart(work, *arguments, about="the model", timeout=timeout)


# What ends without an answer


def replaces_exit() -> None:
    real, os._exit = os._exit, lambda code: None  # type: ignore[assignment]
    real(0)


def daemonizes() -> str:
    if os.fork():
        os._exit(0)
    return "from the copy"


def forks_twice_and_leaves() -> str:
    if os.fork():
        os._exit(3)
    os.fork()
    return "from a copy"


def leaves_in_a_thread() -> None:
    threading.Thread(target=os._exit, args=(0,)).start()
    time.sleep(60)


def closes_everything() -> str:
    os.closerange(3, 10_000)
    return "nowhere to put it"


def opens_another(path: str) -> str:
    os.closerange(3, 200)
    for _ in range(60):
        os.open(path, os.O_RDWR)
    return "not into this file"


def leaves_a_process_behind() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], close_fds=False)
    os._exit(0)


def alarmed() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(60)


def signals(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


@pytest.mark.parametrize(
    ("work", "arguments", "kind", "says"),
    [
        (os._exit, (0,), "exit", "The process of the model ended with exit code 0 and no answer."),
        (os._exit, (1,), "exit", "exit code 1"),
        (replaces_exit, (), "exit", "exit code 0"),
        (daemonizes, (), "exit", "exit code 0"),
        (forks_twice_and_leaves, (), "exit", "exit code 3"),
        (leaves_in_a_thread, (), "exit", "exit code 0"),
        (closes_everything, (), "exit", "exit code 0"),
        (leaves_a_process_behind, (), "exit", "exit code 0"),
        (os.execv, ("/bin/true", ["true"]), "exit", "exit code 0"),
        (os.abort, (), "crash", "was ended by SIGABRT"),
        (ctypes.string_at, (0,), "crash", "was ended by SIGSEGV"),
        (signals, (signal.SIGKILL,), "crash", "was ended by SIGKILL"),
        (signals, (signal.SIGTERM,), "crash", "was ended by SIGTERM"),
        (alarmed, (), "crash", "was ended by SIGALRM"),
        (sys.exit, (0,), "error", "ended the program (sys.exit(0))"),
        (signals, (signal.SIGINT,), "error", "raised KeyboardInterrupt"),
        (open, ("/dev/null",), "internal", "internal error: TypeError"),
        (threading.Lock, (), "internal", "internal error: TypeError"),
        (subprocess.DEVNULL.__truediv__, (0,), "internal", "ZeroDivisionError"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_no_answer_is_an_error_of_one_sentence(
    work: Callable[..., Any], arguments: tuple[Any, ...], kind: str, says: str
) -> None:
    with pytest.raises(CkptdiffError) as raised:
        asked(work, *arguments)
    assert says in raised.value.message
    assert raised.value.kind == kind


def test_an_answer_is_not_put_into_a_file_that_took_the_place_of_its_own(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    with pytest.raises(CkptdiffError, match="no answer"):
        asked(opens_another, str(other))
    assert other.read_bytes() == b"precious"


@pytest.mark.parametrize("number", [signal.SIGSTOP, 0])
def test_what_hangs_is_ended(number: int) -> None:
    with pytest.raises(CkptdiffError, match=r"the model took longer than 0.3 seconds") as raised:
        asked(signals, number, timeout=0.3)
    assert raised.value.kind == "timeout"


def starts_a_process_and_hangs(mark: str) -> None:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)", mark])


def test_what_it_has_started_is_ended_with_it(tmp_path: Path) -> None:
    with pytest.raises(CkptdiffError):
        asked(starts_a_process_and_hangs, str(tmp_path), timeout=1)
    assert not alive_with(str(tmp_path))


class Text(str):
    __slots__ = ()


def test_plain_values_come_out_exact() -> None:
    class Number(int):
        def __int__(self) -> int:
            raise AssertionError

    class Bytes(bytes):
        pass

    value = unpacked(packed([Number(3), Bytes(b"ab"), Text("x")]))
    assert value == [3, b"ab", "x"]
    assert [type(item) for item in value] == [int, bytes, str]


def alive_with(mark: str) -> list[Path]:
    """The processes that have this in their command line and do not end: what is killed takes its time to go."""
    until = time.monotonic() + 10
    while (found := _with(mark)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _with(mark: str) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path)
        except OSError:
            continue
    return found


# What answers all the same


def forks() -> int:
    os.fork()
    return 7


def stays_alive() -> int:
    atexit.register(print, "late noise")
    threading.Thread(target=time.sleep, args=(1000,)).start()
    print("noise")
    os.write(1, b"noise from below")
    return 7


def ignores_signals() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    return 7


@pytest.mark.parametrize("work", [forks, stays_alive, ignores_signals])
def test_an_answer_counts_once(work: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    assert asked(work) == 7
    assert time.monotonic() - started < 20
    assert capfd.readouterr().out == ""


def says_it_goes_on(seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        apart.alive()
        time.sleep(0.05)
    return "done"


def test_signs_of_life_put_the_end_off() -> None:
    assert asked(says_it_goes_on, 4, timeout=2.5) == "done"


def test_a_long_answer_arrives_whole() -> None:
    assert asked(b"x".__mul__, 50_000_000) == b"x" * 50_000_000


def raises_ours() -> None:
    raise UsageError("The message.", "The hint.", detail="More.")


def test_errors_of_ours_pass_with_all_they_say() -> None:
    with pytest.raises(CkptdiffError) as raised:
        asked(raises_ours)
    error = raised.value
    assert (error.kind, error.message, error.hint, error.detail) == ("usage", "The message.", "The hint.", "More.")


def test_where_a_platform_cannot_fork_a_python_starts_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_forks", lambda: False)
    assert asked(abs, -7) == 7
    with pytest.raises(CkptdiffError, match="exit code 3 and no answer"):
        asked(os._exit, 3)
    with pytest.raises(CkptdiffError, match="longer than 1 seconds"):
        asked(time.sleep, 60, timeout=1)


@pytest.mark.parametrize("forks", [True, False])
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN])
def test_no_process_to_be_had_is_an_error_of_one_sentence(
    forks: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(apart, "_forks", lambda: forks)
    monkeypatch.setattr(os, "fork", refused)
    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(CkptdiffError, match=f"^No process can be started for .*: {os.strerror(number)}. Free memory"):
        asked(abs, -7)


class Name(str):
    """A class of the user's, as a key may be of."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        raise AssertionError("it is not asked how it wants to be pickled")


class Shape(tuple):  # type: ignore[type-arg]
    __slots__ = ()


def test_values_of_the_users_classes_are_handed_over_as_the_plain_ones_they_are() -> None:
    value = unpacked(packed({Name("a"): Shape((1, 2)), "b": [Name("c")], "d": True}))
    assert value == {"a": (1, 2), "b": ["c"], "d": True}
    assert [type(key) for key in value] == [str, str, str]
    assert type(value["a"]) is tuple


@pytest.mark.parametrize("value", [os.system, Path.home, subprocess.Popen, UsageError.__init__, Name])
def test_nothing_else_is_taken(value: object) -> None:
    import pickle

    with pytest.raises(pickle.UnpicklingError, match="not handed over"):
        unpacked(pickle.dumps(value))


# A whole program


MODEL = """\
import os, sys, time, subprocess
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

def quits():
    os._exit(0)

def forks():
    os.fork()
    print("here")
    return Net()

def hangs():
    print("ready", flush=True)
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)", os.environ["MARK"]])

class Hooked(Net):
    def _load_from_state_dict(self, *args):
        os._exit(0)
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    torch.save({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, "weights.pth")
    return tmp_path


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "ckptdiff", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


ENDED = "The process of net.py:quits ended with exit code 0 and no answer."
COMMANDS = {
    "compare": ("compare", "{}", "weights.pth"),
    "suggest": ("suggest", "{}", "weights.pth"),
    "check": ("snapshot", "{}", "--check", "net.ckptdiff.json"),
    "print": ("snapshot", "{}", "-o", "-"),
    "filter": ("filter", "{}", "weights.pth", "-o", "out.pth"),
}


@pytest.mark.parametrize("command", [pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS])
def test_no_command_takes_an_exit_for_an_answer(desk: Path, command: str) -> None:
    import ckptdiff

    (desk / "net.ckptdiff.json").write_text(ckptdiff.snapshot("net.py:Net"))
    arguments = [part.format("net.py:quits") for part in COMMANDS[command]]
    assert run(*arguments) == (
        2,
        "",
        f"error: {ENDED}\nhint: Its own code ended it; keep what does so out of the model's.\n",
    )
    assert not (desk / "out.pth").exists()
    code, out, err = run(*[part.format("net.py:forks") for part in COMMANDS[command]])
    assert code == 0
    assert err.count("here") >= 2
    lines = [line for line in out.splitlines() if line]
    assert len(set(lines)) == len(lines), "one of the two has answered"


def test_neither_does_a_hook(desk: Path) -> None:
    assert run("compare", "net.py:Hooked", "weights.pth")[:2] == (2, "")


def test_a_time_limit(desk: Path) -> None:
    code, out, err = run("compare", "net.py:hangs", "weights.pth", "--timeout", "4", "--format", "json", MARK=str(desk))
    assert code == 2
    assert '"kind": "timeout"' in out
    assert "net.py:hangs took longer than 4 seconds." in err
    assert not alive_with(str(desk))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP), (signal.SIGINT, 130)]
)
def test_a_signal_ends_it_with_all_it_has_started(desk: Path, number: signal.Signals, code: int) -> None:
    process = start("compare", "net.py:hangs", "weights.pth", MARK=str(desk))
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", "")
    assert not alive_with(str(desk))


def test_killed_outright_it_leaves_nothing_that_works_on(desk: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the system does not tell a child")
    (desk / "net.py").write_text(MODEL.replace("subprocess.run(", "time.sleep(1000) or ("))
    process = start("compare", "net.py:hangs", "weights.pth", MARK=str(desk))
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.kill()
    process.communicate(timeout=60)  # until nobody holds its streams any more


def test_the_traceback_of_the_process_is_shown_for_debugging(desk: Path) -> None:
    (desk / "net.py").write_text("def net():\n    raise ValueError('deep down')\n")
    code, _, err = run("compare", "net.py:net", "weights.pth", CKPTDIFF_DEBUG="1")
    assert code == 2
    assert "Traceback" in err
    assert "in _outcome" in err, "where in the other process"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_a_limit_that_is_none(desk: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ckptdiff.cli import main

    assert main(["compare", "net.py:Net", "weights.pth", f"--timeout={value}"]) == 2
    assert f"--timeout {value}" in capsys.readouterr().err
