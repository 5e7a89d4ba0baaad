"""Every program, with good files and damaged ones: the trace says what really happens."""

from __future__ import annotations

import json
import textwrap
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ckptdiff.cli import main
from tests.tracing.programs import CALL, MODELS, PROGRAMS, START, prepare
from tests.tracing.truth import really

SCHEMA = json.loads((resources.files("ckptdiff.render") / "schemas" / "trace.json").read_text())
SAVES = ("converted and saved",)
FAST = ("resume", "initialised again", "a prefix and strict=False")
"""Those that are run where time matters."""
SAMPLE = ("ddp", "a swallowed error", "converted and saved")
"""Those that the gate runs as well."""


def _mark(name: str) -> Any:
    if name in FAST:
        return name
    return pytest.param(name, marks=pytest.mark.slow if name in SAMPLE else pytest.mark.long)


@pytest.mark.parametrize("damaged", [False, True], ids=["good", "damaged"])
@pytest.mark.parametrize("name", [_mark(name) for name in PROGRAMS])
def test_what_a_program_fills(
    name: str, damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = (tmp_path / "one", tmp_path / "two")
    for seed, folder in enumerate(folders, 1):
        prepare(folder, seed, damaged=damaged)
    (tmp_path / "models.py").write_text(MODELS)
    program = tmp_path / "program.py"
    program.write_text(START + textwrap.dedent(PROGRAMS[name]) + ("" if "model(" in PROGRAMS[name] else CALL))
    truth = really(program, folders)

    monkeypatch.chdir(folders[0])
    code = main(["trace", "--format", "json", str(program)])
    answer = json.loads(capfd.readouterr().out)

    jsonschema.validate(answer, SCHEMA)
    models = {model["class"]: model for model in answer["models"]}
    filled = {kind: set(model["filled"]) | set(model["partial"]) for kind, model in models.items()}
    assert {kind: keys for kind, keys in filled.items() if keys} == truth.filled
    for kind in truth.filled:
        late = {"cache"}
        assert set(models[kind]["initial"]) - set(models[kind]["partial"]) | set(models[kind]["overwritten"]) == (
            truth.initial.get(kind, set()) - late
        )
    if truth.raised is not None and "raises" not in name:
        assert code == 1
        assert answer["raised"] == truth.raised
    elif name in SAVES:
        assert code == 0
        assert all(answer["saved"][0]["tensors"].values())
    else:
        complete = truth.filled and not any(truth.initial.get(kind, set()) - {"cache"} for kind in truth.filled)
        loaded = complete and not any(model["partial"] for model in answer["models"])
        swallowed = any(error["swallowed"] for error in answer["errors"])
        assert code == (
            0 if loaded and not swallowed and all(m["complete"] for m in answer["models"] if m["asked"]) else 1
        )
