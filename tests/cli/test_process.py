"""What only a real process can show: streams, signals, terminals, what is imported."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}  # type: ignore[dict-item]
    command = [sys.executable, "-m", "ckptdiff", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **more)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("compare", "net.py:Net", "headless.safetensors"), 1),
        (("compare", "exits.py:Net", "good.safetensors"), 2),
        (("inspect", "good.safetensors"), 0),
        (("inspect", "page.pth"), 2),
        ((), 2),
        (("--help",), 0),
        (("--nonsense",), 2),
    ],
)
def test_exit_codes(desk: Path, arguments: tuple[str, ...], code: int) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr or "exits.py" in arguments[1], "only the user's own code has one to show"
    assert bool(done.stdout) == (code != 2)
    if code == 2:
        assert done.stderr


def test_the_models_own_noise_stays_off_standard_output(desk: Path) -> None:
    done = run("compare", "net.py:Net", "good.safetensors", "--format", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["outcome"] == "pass"
    assert "noise from the model" in done.stderr


def test_hooks_that_print_or_exit_stay_contained(desk: Path) -> None:
    (desk / "hooked.py").write_text(
        "import sys\nfrom torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(2, 2)\n"
        "    def _load_from_state_dict(self, *args):\n"
        "        print('noise from the hook')\n"
        "        sys.exit(0)\n"
    )
    done = run("compare", "hooked.py:Net", "good.safetensors", "--format", "json")
    assert done.returncode in (1, 2)
    assert json.loads(done.stdout)["outcome"] in ("fail", "error")


@pytest.mark.slow
def test_torch_without_numpy_is_no_matter(desk: Path) -> None:
    (desk / "run.py").write_text(
        "import sys\nsys.modules['numpy'] = None\nfrom ckptdiff.cli import main\nsys.exit(main())\n"
    )
    (desk / "net.py").write_text((desk / "net.py").read_text().replace("print(", "str("))
    command = [sys.executable, "run.py", "compare", "net.py:Net", "good.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")


def test_inspect_imports_no_torch_and_nothing_else_that_is_heavy(desk: Path) -> None:
    code = (
        "import sys\n"
        "from ckptdiff.cli import main\n"
        "main(['inspect', 'good.safetensors', '--format', 'text'])\n"
        "heavy = {'torch', 'numpy', 'fsspec', 'safetensors', 'rich', 'pydantic', 'asyncio', 'email'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stderr == "\n" or not done.stderr
    assert "good.safetensors" in done.stdout


def test_a_reader_that_goes_away_is_no_error(desk: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ckptdiff", "inspect", "good.safetensors"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_no_answer(desk: Path) -> None:
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "ckptdiff", "inspect", "good.safetensors"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 2
    assert "error: Standard output could not be written: No space left on device." in done.stderr


def test_an_interrupt_exits_with_130(desk: Path) -> None:
    (desk / "slow.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ckptdiff", "compare", "slow.py:Net", "good.safetensors"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err


def on_a_terminal(*arguments: str, **environment: str) -> str:
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "ckptdiff", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
    with subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                chunk = os.read(main, 65536)
            except OSError:
                break
            if not chunk:
                break
            shown += chunk
        process.wait()
    os.close(main)
    return shown.decode()


def test_a_terminal_gets_colour_and_frames_a_pipe_plain_text(desk: Path) -> None:
    shown = on_a_terminal("inspect", "good.safetensors")
    assert "╭" in shown
    assert "\x1b[" in shown
    piped = run("inspect", "good.safetensors").stdout
    assert "╭" not in piped
    assert "\x1b" not in piped


@pytest.mark.parametrize(
    ("arguments", "environment", "colored"),
    [
        ((), {"NO_COLOR": "1"}, False),
        (("--color", "always"), {"NO_COLOR": "1"}, True),
        (("--color", "never"), {"FORCE_COLOR": "1"}, False),
        ((), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_by_option_then_environment(
    desk: Path, arguments: tuple[str, ...], environment: dict[str, str], colored: bool
) -> None:
    shown = on_a_terminal("inspect", "good.safetensors", "--format", "rich", *arguments, **environment)
    assert ("\x1b[" in shown) is colored


def test_force_color_reaches_a_pipe(desk: Path) -> None:
    assert "\x1b[" in run("inspect", "good.safetensors", "--format", "rich", env={"FORCE_COLOR": "1"}).stdout


def test_a_terminal_without_unicode_is_no_obstacle(desk: Path) -> None:
    done = run("inspect", "evil.safetensors", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stdout.isascii()


def test_debug_shows_the_traceback(desk: Path) -> None:
    done = run("inspect", "page.pth", env={"CKPTDIFF_DEBUG": "1"})
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_help_gives_examples_within_80_columns(desk: Path) -> None:
    for command in ((), ("compare",), ("inspect",), ("rules",)):
        shown = run(*command, "--help").stdout
        assert "Examples:" in shown
        assert max(map(len, shown.splitlines())) <= 80
