"""The config file: what it says reaches the targets, and every mistake gets a sentence that names the place."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ckptdiff.errors import UsageError
from ckptdiff.gate.config import find, load
from ckptdiff.judging.findings import Finding

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


def test_a_target_says_what_compare_takes(tmp_path: Path) -> None:
    text = TARGET + 'strip_prefix = "m."\nrename = ["a -> b", "c -> d"]\nadd_prefix = "x."\n'
    first, second = load(config(tmp_path, text + "assign = true\n" + TARGET.replace('"a"', '"b"'))).targets
    assert (first.strip_prefix, first.rename, first.add_prefix, first.assign) == (
        ("m.",),
        ("a -> b", "c -> d"),
        "x.",
        True,
    )
    assert (second.strip_prefix, second.rename, second.add_prefix, second.assign) == ((), (), "", False)
    assert (first.check_values, first.fail_on) == (False, None)


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
        ("tragets = []\n" + TARGET, "'tragets'", "Did you mean 'targets'?"),
        (TARGET + 'levels = { mising-key = "error" }', "'mising-key'", "Did you mean 'missing-key'?"),
        (TARGET + 'levels = { missing-key = "eror" }', "'eror'", "Did you mean 'error'?"),
        (TARGET + 'ignore = [{ rule = "missing-key" }]', "no reason", "reason ="),
        (TARGET + 'ignore = [{ rule = "missing-key", reason = " " }]', "no reason", "reason ="),
        (TARGET + 'ignore = [{ reason = "because" }]', "neither a rule nor a key", "what it ignores"),
        (TARGET + "args = 3", "'args'", "args = {"),
        (TARGET + "key = 3", "'key'", "key = "),
        (TARGET + 'key = " "', "'key' of the target 'a'", 'key = "..."'),
        (TARGET + "strip_prefix = 3", "'strip_prefix' of the target 'a'", 'strip_prefix = ["..."]'),
        (TARGET + 'rename = ["a -> b", 3]', "a string or a list of strings", 'rename = ["..."]'),
        (TARGET + 'rename = [""]', "says nothing that can be", 'rename = ["..."]'),
        (TARGET + 'add_prefix = ["a."]', "'add_prefix' of the target 'a'", 'add_prefix = "..."'),
        (TARGET + 'assign = "yes"', "is not true or false", "assign = true"),
        (TARGET + "check_values = 1", "is not true or false", "check_values = true"),
        (TARGET + 'fail_on = "off"', "the level 'off' in 'fail_on'", "error"),
        (TARGET + 'fail_on = "warnin"', "'warnin'", "Did you mean 'warning'?"),
        (TARGET + 'strip_prefx = "a."', "'strip_prefx'", "Did you mean 'strip_prefix'?"),
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


CONFIG = '[[targets]]\nname = "a"\nmodel = "m.py"\ncheckpoint = "w.pth"\n'
STRANGER = 54321


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory below that of another user's config, as below /tmp."""
    if not hasattr(os, "getuid") or os.getuid():
        pytest.skip("only root can make files another's")
    (tmp_path / "ckptdiff.toml").write_text(CONFIG)
    os.chown(tmp_path / "ckptdiff.toml", STRANGER, STRANGER)
    work = tmp_path / "work"
    work.mkdir()
    return work


def test_a_config_that_another_user_has_put_above_is_not_taken(shared: Path) -> None:
    with pytest.raises(UsageError, match="belongs to another user") as raised:
        find(shared)
    assert f"config='{shared.parent / 'ckptdiff.toml'}'" in raised.value.hint
    assert load(shared.parent / "ckptdiff.toml").targets, "named, it is"
    with pytest.raises(UsageError, match="belongs to another user"):
        find(shared.parent)
    (shared / "ckptdiff.toml").write_text(CONFIG)
    assert find(shared) == shared / "ckptdiff.toml"


def test_nor_is_a_link_of_another_users_to_one_of_this_user(shared: Path) -> None:
    above = shared.parent / "ckptdiff.toml"
    above.unlink()
    (shared.parent / "mine.toml").write_text(CONFIG)
    above.symlink_to("mine.toml")
    os.lchown(above, STRANGER, STRANGER)
    with pytest.raises(UsageError, match="belongs to another user"):
        find(shared)


def test_nor_is_a_pyproject_that_has_our_table_and_one_that_has_not_is_passed_by(shared: Path) -> None:
    above = shared.parent / "ckptdiff.toml"
    above.rename(shared.parent / "pyproject.toml")
    with pytest.raises(UsageError, match=r"There is no ckptdiff\.toml"):
        find(shared)
    (shared.parent / "pyproject.toml").write_text("[tool.ckptdiff]\n")
    with pytest.raises(UsageError, match="belongs to another user"):
        find(shared)
    (shared.parent / "pyproject.toml").write_text("[tool\n")
    with pytest.raises(UsageError, match=r"There is no ckptdiff\.toml"):
        find(shared)


def test_within_a_repository_of_this_user_it_is_taken_and_within_anothers_not(shared: Path) -> None:
    repository = shared.parent / ".git"
    repository.mkdir()
    assert find(shared) == shared.parent / "ckptdiff.toml"
    os.chown(repository, STRANGER, STRANGER)
    with pytest.raises(UsageError, match="belongs to another user"):
        find(shared)
    os.chown(repository, 0, 0)
    (shared / ".git").mkdir()
    with pytest.raises(UsageError, match="belongs to another user"):
        find(shared)


def test_in_a_directory_of_that_user_it_is_taken(shared: Path) -> None:
    os.chown(shared, STRANGER, STRANGER)
    assert find(shared) == shared.parent / "ckptdiff.toml", "as of a checkout mounted into a container"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tool = 5", "has no table"),
        ("[tool]\nckptdiff = 5", "is no table"),
        ("[tool]\nckptdiff = []", "is no table"),
    ],
)
def test_a_pyproject_whose_tools_are_none(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=says):
        load(tmp_path / "pyproject.toml")
    with pytest.raises(UsageError):
        find(tmp_path) if "tool = 5" in text else load(find(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 50_000, "not valid TOML"),
        ("targets = " + "[" * 50_000, "not valid TOML"),
        (f"levels = {'9' * 5000}", "not valid TOML"),
        ('levels = { a = "error" }\nlevels = {}', "not valid TOML"),
        ("levels = []", "'levels' of"),
        ("levels = { lossy-dtype = [] }", "the level"),
        ("targets = 5", "is not a list of tables"),
        ("targets = [5]", "is not a list of tables"),
        ('[[targets]]\nname = ""\nmodel = "m"\ncheckpoint = "w"', "'name' of the target"),
        ('[[targets]]\nname = "a"\nmodel = "m"\ncheckpoint = "\\u0000"', "'checkpoint' of the target"),
        ('[[targets]]\nname = ["a"]\nmodel = "m"\ncheckpoint = "w"', "is not a string"),
        ('[[ignore]]\nreason = "a"\nkey = 5', "other than strings"),
    ],
)
def test_any_config_is_one_or_is_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "ckptdiff.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(says)):
        load(path)


def test_what_has_no_end_or_no_writer_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(UsageError):
        load(tmp_path / "fifo.toml")
    with pytest.raises(UsageError, match="over 32 MB"):
        load(Path("/dev/zero"))
    with pytest.raises(UsageError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="it is not text"):
        load(tmp_path / "binary.toml")
