"""The config file: what it says reaches the targets, and every mistake gets a sentence that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptdiff.errors import UsageError
from ckptdiff.gate.config import find, load
from ckptdiff.gate.findings import Finding

TARGET = '[[targets]]\nname = "a"\nmodel = "m.py:Net"\ncheckpoint = "w.pth"\n'


def config(folder: Path, text: str, name: str = "ckptdiff.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    text = TARGET + 'rules = "r.rules.toml"\n[[targets]]\nname="b"\nmodel="timm:vit"\ncheckpoint="s3://b/w.pth"\n'
    first, second = load(config(tmp_path, text)).targets
    assert (first.model, first.checkpoint, first.rules) == tuple(
        str(Path("..", "..", name)) for name in ("m.py:Net", "w.pth", "r.rules.toml")
    )
    assert (second.model, second.checkpoint) == ("timm:vit", "s3://b/w.pth")


def test_pyproject_and_ckptdiff_toml_say_the_same(tmp_path: Path) -> None:
    own = config(tmp_path, TARGET + "args = { num_classes = 10 }\n")
    text = TARGET.replace("[[targets]]", "[[tool.ckptdiff.targets]]") + "args = { num_classes = 10 }\n"
    project = config(tmp_path, text, "pyproject.toml")
    assert load(own).targets == load(project).targets
    assert load(own).targets[0].args == {"num_classes": 10}


def test_the_nearest_config_upwards_governs(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    config(tmp_path / "a", "[tool.ruff]\n", "pyproject.toml")
    governing = config(tmp_path, "[tool.ckptdiff]\n", "pyproject.toml")
    assert find(below) == governing
    assert find(tmp_path / "a") == governing
    nearer = config(below, TARGET)
    assert find(below) == nearer


def test_no_config_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no ckptdiff\.toml") as caught:
        find(tmp_path)
    assert "ckptdiff init" in caught.value.hint


def test_levels_and_ignores_of_a_target_refine_those_of_all(tmp_path: Path) -> None:
    text = (
        'levels = { missing-key = "warning", dtype-change = "off" }\n'
        '[[ignore]]\nkey = "head.*"\nreason = "new head"\n' + TARGET + 'levels = { missing-key = "note" }\n'
        'ignore = [{ rule = "missing-key", key = "step", reason = "a counter" }]\n'
    )
    policy = load(config(tmp_path, text)).targets[0].policy
    found = [
        Finding("missing-key", "error", "body.weight"),
        Finding("missing-key", "error", "step"),
        Finding("unexpected-key", "error", "step"),
        Finding("unexpected-key", "error", "head.weight"),
        Finding("dtype-change", "note", "body.weight"),
    ]
    kept, ignored = policy.apply(found)
    assert [(finding.rule, finding.level, finding.key) for finding in kept] == [
        ("missing-key", "note", "body.weight"),
        ("unexpected-key", "error", "step"),
    ]
    assert [(item.finding.rule, item.finding.key, item.reason) for item in ignored] == [
        ("missing-key", "step", "a counter"),
        ("unexpected-key", "head.weight", "new head"),
    ]


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("targets = 3", "not a list of tables", "[[targets]]"),
        ("[targets]\na = 1", "not a list of tables", "[[targets]]"),
        ("", "lists no targets", "[[targets]]"),
        ('[[targets]]\nname = "a"\nmodel = "m.py"', "has no 'checkpoint'", "checkpoint = "),
        (TARGET.replace("checkpoint", "chekpoint"), "'chekpoint'", "Did you mean 'checkpoint'?"),
        ("target = []\n" + TARGET, "'target'", "Did you mean 'targets'?"),
        (TARGET + 'levels = { mising-key = "error" }', "'mising-key'", "Did you mean 'missing-key'?"),
        (TARGET + 'levels = { missing-key = "eror" }', "'eror'", "Did you mean 'error'?"),
        (TARGET + 'ignore = [{ rule = "missing-key" }]', "no reason", "reason ="),
        (TARGET + 'ignore = [{ rule = "missing-key", reason = " " }]', "no reason", "reason ="),
        (TARGET + 'ignore = [{ reason = "because" }]', "neither a rule nor a key", "what it ignores"),
        (TARGET + "args = 3", "'args'", "args = {"),
        (TARGET + "key = 3", "'key'", "key = "),
        (TARGET + TARGET, "two targets named 'a'", "name of its own"),
        ("a = [", "not valid TOML", "Mend"),
    ],
)
def test_a_mistake_gets_a_sentence_and_a_hint(tmp_path: Path, text: str, says: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(config(tmp_path, text))
    assert says in caught.value.message
    assert "ckptdiff.toml" in caught.value.message
    assert hint in caught.value.hint
