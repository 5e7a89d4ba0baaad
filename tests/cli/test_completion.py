"""Shell completion: the script for a shell, and what it asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_process import run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_shown(shell: str) -> None:
    done = run("--show-completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_CKPTDIFF_COMPLETE=complete_{shell}" in done.stdout


def test_a_shell_that_is_not_known_is_no_answer() -> None:
    done = run("--show-completion", "csh")
    assert done.returncode != 0
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ckptdiff ins", ["inspect"]),
        ("ckptdiff compare --strip", ["--strip-prefix"]),
        ("ckptdiff check --up", ["--update-baseline"]),
    ],
)
def test_commands_and_options_are_offered(typed: str, offered: list[str]) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_CKPTDIFF_COMPLETE": "complete_bash"}
    done = run(env=words)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, offered, "")


@pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    command = tmp_path / "ckptdiff"
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m ckptdiff "$@"\n')
    command.chmod(0o755)
    script = (
        f'source <("{command}" --show-completion bash)\n'
        f'COMP_WORDS=("{command}" snap); COMP_CWORD=1\n'
        f'_ckptdiff_completion "{command}"\n'
        'echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "--noprofile", "--norc", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("snapshot\n", "")


@pytest.mark.parametrize("value", ["complete_bash", "source_bash", "1", "anything"])
def test_a_command_is_run_whatever_the_variable_is(tmp_path: Path, value: str) -> None:
    for arguments in (("check",), ("compare", "gone.py:Net", "gone.pth"), ("inspect", "gone.pth"), ("--nonsense",)):
        done = run(*arguments, env={"_CKPTDIFF_COMPLETE": value, "COMP_WORDS": "", "COMP_CWORD": "0"}, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
