"""The pytest plugin, as a project that uses it sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ckptdiff.errors import CheckpointError
from ckptdiff.pytest_plugin import assert_loads, assert_loads_everything

pytest_plugins = ["pytester"]


class Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.head = nn.Linear(2, classes)


def test_weights_that_load_pass_and_give_the_report() -> None:
    assert assert_loads(Net(), Net().state_dict()).loads()


def test_a_failure_reads_as_a_report() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_loads(Net(), Net(5).state_dict())
    text = str(caught.value)
    assert "size-mismatch" in text
    assert "head.weight" in text
    assert "[5, 2]" in text


def test_allowed_keys_take_no_part() -> None:
    headless = {key: value for key, value in Net().state_dict().items() if not key.startswith("head.")}
    report = assert_loads(Net(), headless, allow_missing="head.*")
    assert report.missing_keys == ["head.weight", "head.bias"], "what torch says stays what it is"
    assert_loads(nn.Linear(2, 2), {**nn.Linear(2, 2).state_dict(), "x": torch.zeros(1)}, allow_unexpected=["y", "x"])
    with pytest.raises(AssertionError, match=r"head\.bias"):
        assert_loads(Net(), headless, allow_missing=["head.weight"])
    with pytest.raises(AssertionError, match=r"head\.bias"):
        assert_loads(Net(), headless, allow_unexpected="head.*")


def test_a_size_mismatch_is_never_allowed_and_nothing_is_no_pass() -> None:
    with pytest.raises(AssertionError, match="size-mismatch"):
        assert_loads(Net(), Net(5).state_dict(), allow_missing="*", allow_unexpected="*")
    with pytest.raises(AssertionError):
        assert_loads(Net(), {}, allow_missing="*")


def test_a_block_that_loads_everything(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "net.pth")

    def fine_tune() -> None:
        body = {key: value for key, value in torch.load(tmp_path / "net.pth").items() if key.startswith("body.")}
        Net(5).load_state_dict(body, strict=False)

    with assert_loads_everything() as traced:
        Net().load_state_dict(torch.load(tmp_path / "net.pth"))
    assert [model.kind for model in traced.models] == ["Net"]
    with assert_loads_everything(allow="head.*"):
        fine_tune()
    with pytest.raises(AssertionError, match="2 of 4 keys keep initial values"), assert_loads_everything():
        fine_tune()
    with pytest.raises(AssertionError, match="No answer"), assert_loads_everything():
        Net()


def test_options_are_those_of_compare(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"ema": {f"module.{key}": value for key, value in Net().state_dict().items()}}, path)
    assert_loads(Net(), path, key="ema", strip_prefix="module.")
    with pytest.raises(CheckpointError):
        assert_loads(Net(), tmp_path / "gone.pth")


TESTS = """\
    import pytest
    from torch import nn

    def test_one(state_dict_snapshot):
        state_dict_snapshot(nn.Sequential(nn.Linear(2, {width})))

    class TestMore:
        @pytest.mark.parametrize("name", ["a/b", "a b"])
        def test_two(self, state_dict_snapshot, name):
            state_dict_snapshot(nn.Linear(2, 2))
            state_dict_snapshot(nn.Linear(2, 3), "wide")
"""


def write(pytester: pytest.Pytester, width: int) -> None:
    pytester.makepyfile(test_models=TESTS.format(width=width))


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def test_a_snapshot_is_written_kept_and_accepted(pytester: pytest.Pytester) -> None:
    write(pytester, 2)
    first = run(pytester)
    first.assert_outcomes(failed=3)
    first.stdout.fnmatch_lines(["*There is no snapshot *Write it with `pytest --ckptdiff-update`.*"])

    run(pytester, "--ckptdiff-update").assert_outcomes(passed=3)
    folder = pytester.path / "__snapshots__"
    assert len(list(folder.iterdir())) == 5
    assert (folder / "test_models.test_one.ckptdiff.json").exists()
    run(pytester).assert_outcomes(passed=3)

    write(pytester, 4)
    changed = run(pytester)
    changed.assert_outcomes(failed=1, passed=2)
    changed.stdout.fnmatch_lines(
        [
            "*The state dict is not the one of *test_models.test_one.ckptdiff.json:*",
            '*-*"0.weight"*[[]2, 2[]]*',
            '*+*"0.weight"*[[]4, 2[]]*',
            "*Weights saved before do not load any more:*",
            "*size-mismatch*",
            "*accept it with `pytest --ckptdiff-update`*",
        ]
    )
    changed.stdout.no_fnmatch_line("*pytest_plugin.py*")

    run(pytester, "--ckptdiff-update").assert_outcomes(passed=3)
    run(pytester).assert_outcomes(passed=3)


def test_a_change_that_weights_survive_is_told_as_such(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("from torch import nn\ndef test_it(state_dict_snapshot): state_dict_snapshot(nn.Linear(2, 2))")
    run(pytester, "--ckptdiff-update").assert_outcomes(passed=1)
    pytester.makepyfile(
        "from torch import nn\ndef test_it(state_dict_snapshot): state_dict_snapshot(nn.Linear(2, 2).half())"
    )
    changed = run(pytester)
    changed.assert_outcomes(failed=1)
    changed.stdout.fnmatch_lines(["*Weights saved before still load.*"])


def test_the_fixture_is_the_function(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "from ckptdiff.pytest_plugin import assert_loads as function\n"
        "def test_it(assert_loads): assert assert_loads is function"
    )
    run(pytester).assert_outcomes(passed=1)


def test_importing_the_plugin_imports_nothing_but_pytest() -> None:
    code = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        "import ckptdiff.pytest_plugin\n"
        "print(*sorted(name for name in set(sys.modules) - before if name not in sys.stdlib_module_names))\n"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["ckptdiff", "ckptdiff.pytest_plugin"]
