"""The pytest plugin: `assert_loads`, `assert_loads_everything` and the fixture `state_dict_snapshot`. It imports only
pytest until one is used.

```python
def test_released_weights_load(assert_loads):
    assert_loads("model.py:Net", "weights/v1.safetensors", allow_missing="head.*")

def test_a_run_resumes(assert_loads_everything):
    with assert_loads_everything(allow="head.*"):
        main(["--resume", "run.ckpt"])  # it is left at the first call of a loaded model

def test_the_state_dict_stays(state_dict_snapshot):
    state_dict_snapshot(Net())          # `pytest --ckptdiff-update` writes and accepts
```
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ckptdiff.judging.report import Report
    from ckptdiff.judging.rules import Level
    from ckptdiff.requests import File, Model
    from ckptdiff.verbs.trace import Traced

FOLDER = "__snapshots__"
_SHOWN = 40
"""Changed lines that a failure shows."""


def assert_loads(
    model: Model,
    checkpoint: File,
    *,
    allow_missing: str | Sequence[str] = (),
    allow_unexpected: str | Sequence[str] = (),
    key: str | None = None,
    strip_prefix: str | Sequence[str] | None = None,
    add_prefix: str | None = None,
    rename: str | Sequence[str] = (),
    rules: str | os.PathLike[str] | None = None,
    args: Mapping[str, object] | None = None,
    assign: bool = False,
    check_values: bool = False,
    fail_on: Level = "error",
) -> Report:
    """Assert that a checkpoint loads into a model, but for missing and unexpected keys that match a glob.

    `model`, `checkpoint` and the other keywords are those of `ckptdiff.compare`. A size mismatch is never allowed.
    Raises AssertionError with a report on what does not fit, and CkptdiffError where there is no answer. Returns the
    report, whose findings are without what was allowed.
    """
    __tracebackhide__ = True
    import ckptdiff
    import ckptdiff.torch_import  # the project's warnings may be errors
    from ckptdiff.gate.policy import Ignore, Policy
    from ckptdiff.render import render_report
    from ckptdiff.requests import several

    report = ckptdiff.compare(
        model,
        checkpoint,
        key=key,
        strip_prefix=strip_prefix,
        add_prefix=add_prefix,
        rename=rename,
        rules=rules,
        args=args,
        assign=assign,
        check_values=check_values,
        fail_on=fail_on,
    )
    allowed = {"missing-key": allow_missing, "unexpected-key": allow_unexpected}
    ignores = (Ignore("allowed", rule, glob) for rule, globs in allowed.items() for glob in several(rule, globs))
    report, _ = Policy(ignores=tuple(ignores)).judged(report)
    if report.verdict != "pass":
        raise AssertionError(render_report("text", report))
    return report


@contextlib.contextmanager
def assert_loads_everything(
    *,
    allow: str | Sequence[str] = (),
    until: str = "first-call",
    trust_checkpoint: bool = False,
    allow_network: bool = False,
) -> Iterator[Traced]:
    """Assert that the code inside the block fills every key of every model that it loads a checkpoint into.

    The keywords are those of `ckptdiff.trace`. Raises AssertionError with a report on what is not filled, or where
    nothing was loaded.
    """
    __tracebackhide__ = True
    import ckptdiff
    import ckptdiff.torch_import

    with ckptdiff.trace(
        until=until, allow=allow, trust_checkpoint=trust_checkpoint, allow_network=allow_network
    ) as traced:
        yield traced
    if traced.trace.verdict != "pass":
        raise AssertionError(str(traced))


@pytest.fixture(name="assert_loads_everything")
def _assert_loads_everything() -> Callable[..., contextlib.AbstractContextManager[Traced]]:
    """`ckptdiff.pytest_plugin.assert_loads_everything`, without an import."""
    return assert_loads_everything


@pytest.fixture(name="assert_loads")
def _assert_loads() -> Callable[..., Report]:
    """`ckptdiff.pytest_plugin.assert_loads`, without an import."""
    return assert_loads


class StateDictSnapshot:
    """Asserts that models keep the state-dict schema that a file beside the test holds."""

    def __init__(self, folder: Path, name: str, *, update: bool) -> None:
        self._folder, self._name, self._update = folder, name, update
        self._used: set[str] = set()

    def __call__(self, model: Model, name: str = "", *, args: Mapping[str, object] | None = None) -> None:
        """Compare with the snapshot of this test, or write it under `--ckptdiff-update`. `name` tells several apart.

        Raises AssertionError that shows what changed and whether weights saved before still load.
        """
        __tracebackhide__ = True
        import ckptdiff
        import ckptdiff.torch_import
        from ckptdiff.replacing import write_whole

        path = self._folder / f"{self._name}{f'.{_file_name(name)}' if name else ''}.ckptdiff.json"
        if path.name in self._used:
            raise ValueError("a second state_dict_snapshot in one test needs a name of its own")
        self._used.add(path.name)
        text = ckptdiff.snapshot(model, args=args)
        if not path.exists():
            if not self._update:
                raise AssertionError(f"There is no snapshot {path}. Write it with `pytest --ckptdiff-update`.")
            path.parent.mkdir(exist_ok=True)
            write_whole(path, text)
            return
        from ckptdiff.model.snapshot_drift import drift
        from ckptdiff.small_files import text_of

        changed = drift(text_of(path, ""), text, str(path))
        if changed and self._update:
            write_whole(path, text)
        elif changed:
            raise AssertionError(_failure(ckptdiff.compare(model, path, args=args), changed, path))


def _failure(report: Report, changed: list[str], path: Path) -> str:
    from ckptdiff.render import render_report
    from ckptdiff.render.escape import plain

    lines = [f"The state dict is not the one of {path}:", *(plain(line, 300) for line in changed[:_SHOWN])]
    if len(changed) > _SHOWN:
        lines.append(f"... ({len(changed) - _SHOWN:,} more lines)")
    if report.verdict == "pass":
        lines += ["", "Weights saved before still load."]
    else:
        lines += ["", "Weights saved before do not load any more:", "", render_report("text", report)]
    return "\n".join([*lines, "", "If this is meant, accept it with `pytest --ckptdiff-update`."])


def _file_name(text: str) -> str:
    """A name that every file system takes, and that stays apart from others."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:100]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@pytest.fixture
def state_dict_snapshot(request: pytest.FixtureRequest) -> StateDictSnapshot:
    """Asserts that a model keeps its state-dict schema, which is in `__snapshots__/` beside the test."""
    test = ".".join(request.node.nodeid.split("::")[1:])
    update = bool(request.config.getoption("--ckptdiff-update"))
    return StateDictSnapshot(request.path.parent / FOLDER, _file_name(f"{request.path.stem}.{test}"), update=update)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--ckptdiff-update`."""
    group = parser.getgroup("ckptdiff")
    group.addoption("--ckptdiff-update", action="store_true", help="write the snapshots of state_dict_snapshot anew")
