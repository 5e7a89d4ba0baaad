"""An option that names keys and found none is said, by every command that has it: mostly a slip of the pen."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from ckptdiff.cli import main
from tests.cli.conftest import NET

RULES = """\
version = 1
[[rule]]
rename = "zzz.{*} -> q.{*}"
[[rule]]
tensors = "concat(0): {p}.zzz.weight, {p}.k.weight -> {p}.qk.weight"
"""
TARGET = """\
[[targets]]
name = "one"
model = "net.json"
checkpoint = "good.safetensors"
strip_prefix = ["zzz."]
rename = ["zzz.{*} -> q.{*}"]
"""
RENAME = "The rule zzz.{*} -> q.{*} matches no key."
TENSORS = "The rule concat(0): {p}.zzz.weight, {p}.k.weight -> {p}.qk.weight finds no set of tensors."
STRIPPED = "--strip-prefix zzz. matches no key."
BOTH = ["compare net.json good.safetensors", "filter net.json good.safetensors -o o.pth --dry-run",
        "rewrite good.safetensors -o o.pth --dry-run", "diff good.safetensors double.safetensors"]  # fmt: skip
LINES = [
    *((f"{command} --rename zzz.=q.", RENAME) for command in BOTH),
    *((f"{command} --strip-prefix zzz.", STRIPPED) for command in BOTH),
    *((f"{command} --rules rules.toml", RENAME) for command in BOTH),
    *((f"{command} --rules rules.toml", TENSORS) for command in BOTH),
    *((f"{command} {option} zzz.", f"{option} zzz. matches no key") for command in BOTH[1:3]
      for option in ("--drop", "--drop-prefix")),
    ("filter net.json good.safetensors -o o.pth --dry-run --adapt 'zzz*=pad'", "--adapt zzz*=pad matches no key"),
    ("fix net.json good.safetensors -o o.pth --dry-run --adapt 'zzz*=pad'", "--adapt zzz*=pad matches no key"),
    ("rewrite good.safetensors -o o.pth --dry-run --keep 'zzz*'", "no --keep matches it"),
    ("rewrite good.safetensors -o o.pth --dry-run --keep 'zzz*' --keep 'head.*'", "--keep zzz* matches no key"),
    ("rewrite run.pth -o o.pth --dry-run --keep-container --drop-entry zzz", "--drop-entry zzz: run.pth has no such"),
    ("diff good.safetensors double.safetensors --keys 'zzz*'", "--keys matches no key of either side."),
    ("diff good.safetensors double.safetensors --keys 'zzz*' --keys 'head.*'", "--keys zzz* matches no key."),
    ("inspect good.safetensors --tensors 'zzz*'", "0 tensors matching zzz*"),
    ("verify good.safetensors --allow 'zzz*'", "--allow zzz* matches no key."),
    ("trace --allow 'zzz*' run.py", "--allow zzz* matches no key."),
    ("check --jobs 1", RENAME),
    ("check --jobs 1 --format rich", RENAME),
    ("check --jobs 1", STRIPPED),
    ("check --jobs 1 --format markdown", "<code>The rule zzz.{*} -&gt; q.{*} matches no key.</code>"),
]  # fmt: skip


@pytest.fixture(scope="module")
def snapshot() -> str:
    """The model as a snapshot, which runs no code and so needs no process."""
    import ckptdiff

    defined: dict[str, Any] = {}
    exec(NET, defined)
    return ckptdiff.snapshot(defined["Net"]())


@pytest.mark.parametrize(("command", "said"), LINES)
def test_what_matched_nothing_is_said(
    command: str,
    said: str,
    snapshot: str,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    (desk / "net.json").write_text(snapshot)
    (desk / "rules.toml").write_text(RULES)
    (desk / "ckptdiff.toml").write_text(TARGET)
    (desk / "run.py").write_text(
        "from net import Net\nfrom safetensors.torch import load_file\nmodel = Net()\n"
        "model.load_state_dict(load_file('good.safetensors'))\nmodel.head\n"
    )
    if "run.pth" in command:
        import torch

        torch.save({"model": {"a": torch.ones(1)}, "epoch": 1}, desk / "run.pth")
    main(shlex.split(command))
    out, err = capfd.readouterr()
    assert said in " ".join((out + err).split()), out + err


@pytest.mark.parametrize("command", [*BOTH, "inspect good.safetensors", "verify good.safetensors"])
def test_what_matched_is_not(command: str, snapshot: str, desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (desk / "net.json").write_text(snapshot)
    both = {"inspect": " --tensors 'head.*'", "verify": " --allow 'head.*'"}
    main(shlex.split(command + both.get(command.split()[0], " --rename head.=head.")))
    assert "matches no key" not in "".join(capfd.readouterr())


def test_a_rule_that_takes_what_another_made_is_at_work(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    two = 'version = 1\n[[rule]]\ntensors = "concat(0): layers.0.weight, layers.1.weight -> a"\n'
    (desk / "rules.toml").write_text(two + '[[rule]]\ntensors = "reshape(128): a -> b"\n')
    main(["rewrite", "good.safetensors", "-o", "o.pth", "--dry-run", "--rules", "rules.toml"])
    assert "finds no" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("checkpoint", ["good.safetensors", "wrapped.safetensors", "double.safetensors"])
def test_json_is_one_document_wherever_it_goes(
    checkpoint: str, snapshot: str, desk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (desk / "net.json").write_text(snapshot)
    for command in (["compare", "net.json", checkpoint], ["check", "--jobs", "1"]):
        (desk / "ckptdiff.toml").write_text(TARGET.replace("good.safetensors", checkpoint))
        main([*command, "--format", "json", "--report", "json=a.json", "--report", "b.json"])
        printed = capfd.readouterr().out
        assert printed.startswith("{")
        assert (desk / "a.json").read_text() == (desk / "b.json").read_text() == printed
