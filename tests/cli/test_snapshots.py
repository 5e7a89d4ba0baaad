"""Exit code, standard output and standard error of whole runs, held in golden files."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from ckptdiff.cli import main
from tests.golden import check_golden

RUNS = {
    "compare_good": "compare net.py:Net good.safetensors",
    "compare_headless": "compare net.py:Net headless.safetensors",
    "compare_wrapped": "compare net.py wrapped.safetensors",
    "compare_mismatch": "compare net.py:Net good.safetensors --arg classes=7 --arg depth=3",
    "compare_stripped": "compare net.py:Net wrapped.safetensors --strip-prefix module.",
    "compare_idle_prefix": "compare net.py:Net good.safetensors --strip-prefix module. --verbose",
    "compare_renamed": "compare net.py:Net renamed.safetensors",
    "compare_verify": "compare net.py:Net headless.safetensors --verify",
    "filter_mismatch": "filter net.py:Net good.safetensors -o out.safetensors --arg classes=7 --arg depth=3",
    "filter_dry_run": "filter net.py:Net wrapped.safetensors -o out.pth --strip-prefix module. --dry-run",
    "filter_dry_run_all": "filter net.py:Net wrapped.safetensors -o out.pth --strip-prefix module. --dry-run --all",
    "filter_nothing_fits": "filter net.py:Net wrapped.safetensors -o out.pth",
    "filter_onto_itself": "filter net.py:Net good.safetensors -o good.safetensors --force",
    "filter_no_force": "filter net.py:Net headless.safetensors -o good.safetensors",
    "filter_bad_suffix": "filter net.py:Net good.safetensors -o out.h5",
    "rewrite_shards": "rewrite good.safetensors -o shards/ --max-shard-size 500",
    "rewrite_half": "rewrite good.safetensors -o half.safetensors --dtype float16 --drop 'head.*'",
    "suggest_renamed": "suggest net.py:Net renamed.safetensors",
    "suggest_nothing": "suggest net.py:Net good.safetensors",
    "suggest_json": "suggest net.py:Net wrapped.safetensors --format json",
    "compare_double": "compare net.py:Net double.safetensors",
    "compare_fail_on_warning": "compare net.py:Net double.safetensors --fail-on warning",
    "compare_evil": "compare net.py:Net evil.safetensors",
    "compare_json": "compare net.py:Net headless.safetensors --format json",
    "compare_rich": "compare net.py:Net headless.safetensors --format rich",
    "compare_rich_color": "compare net.py:Net headless.safetensors --format rich --color always",
    "compare_bare_model": "compare bare.py:net good.safetensors",
    "compare_no_checkpoint": "compare net.py:Net nothing.safetensors",
    "compare_no_attribute": "compare net.py:Nett good.safetensors",
    "compare_no_reference": "compare good.safetensors net.py",
    "compare_exits": "compare exits.py:Net good.safetensors",
    "compare_exits_json": "compare exits.py:Net good.safetensors --format json",
    "compare_key_of_safetensors": "compare net.py:Net good.safetensors --key ema",
    "compare_bad_arg": "compare net.py:Net good.safetensors --arg classes",
    "compare_unknown_arg": "compare net.py:Net good.safetensors --arg clases=3",
    "compare_one_argument": "compare net.py:Net",
    "compare_bad_level": "compare net.py:Net good.safetensors --fail-on warn",
    "inspect": "inspect good.safetensors",
    "inspect_rich": "inspect headless.safetensors --format rich",
    "inspect_json": "inspect headless.safetensors --format json",
    "inspect_tensors": "inspect good.safetensors --tensors 'layers.{0..1}.*' --sort size",
    "inspect_evil": "inspect evil.safetensors",
    "inspect_empty": "inspect empty.safetensors",
    "inspect_page": "inspect page.pth",
    "inspect_directory": "inspect .",
    "inspect_bad_format": "inspect good.safetensors --format yaml",
    "inspect_bad_sort_json": "inspect good.safetensors --sort age --format=json",
    "rules": "rules",
    "rules_one": "rules lossy-dtype",
    "rules_unknown": "rules lossy",
    "version": "--version",
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(name: str, desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(shlex.split(RUNS[name]))
    out, err = capfd.readouterr()
    where = str(desk)
    shown = f"$ ckptdiff {RUNS[name]}\nexit code {code}\n--- stdout\n{out}--- stderr\n{err}".replace(
        where, "DIR"
    ).replace(torch.__version__, "TORCH")
    check_golden(f"cli/{name}.txt", shown)
