"""SARIF 2.1.0, against its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ckptdiff.gate.run import Run, TargetResult, single
from ckptdiff.judging.rules import RULES
from ckptdiff.render import render_run, sarif
from tests.golden import check_golden
from tests.render import runs

RUNS = runs.canonical()
HOSTILE = {"report": single(runs.hostile()), "run": runs.hostile_run()}
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft4Validator(SCHEMA, format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER)


def log(run: Run) -> Any:
    return json.loads(render_run("sarif", run))["runs"][0]


@pytest.mark.parametrize("name", ["good", "bad", "raised", "none"])
def test_golden(name: str) -> None:
    document = json.loads(render_run("sarif", RUNS[name]))
    del document["runs"][0]["tool"]["driver"]["rules"], document["runs"][0]["tool"]["driver"]["version"]
    check_golden(f"run/{name}.sarif.json", json.dumps(document, indent=1) + "\n")


@pytest.mark.parametrize("name", [*RUNS, *HOSTILE])
def test_valid(name: str) -> None:
    text = render_run("sarif", RUNS.get(name) or HOSTILE[name])
    assert text.isascii()
    VALIDATOR.validate(json.loads(text))


def test_every_rule_has_help() -> None:
    rules = log(RUNS["none"])["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(RULES)
    assert all(rule["help"]["text"] and rule["helpUri"].startswith("https://") for rule in rules)


def test_a_result_says_where_it_is() -> None:
    results = log(RUNS["everyday"])["results"]
    result = next(result for result in results if result["ruleId"] == "size-mismatch")
    assert RULES[result["ruleId"]].level == result["level"]
    assert list(RULES)[result["ruleIndex"]] == "size-mismatch"
    (location,) = result["locations"]
    assert location["logicalLocations"] == [{"name": "weight", "fullyQualifiedName": "fc.weight", "kind": "member"}]
    assert location["physicalLocation"]["artifactLocation"] == {"uri": "model.py", "uriBaseId": "%SRCROOT%"}


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("models/a b.py", {"uri": "models/a%20b.py", "uriBaseId": "%SRCROOT%"}),
        ("./models\\net.py", {"uri": "models/net.py", "uriBaseId": "%SRCROOT%"}),
        ("/abs/net.py", {"uri": "file:///abs/net.py"}),
        ("C:\\src\\net.py", {"uri": "file:///C%3A/src/net.py"}),
        ("a\ud800.py", {"uri": "a%ED%A0%80.py", "uriBaseId": "%SRCROOT%"}),
    ],
)
def test_paths_are_uris(path: str, uri: dict[str, str]) -> None:
    assert sarif._artifact(path) == uri


def test_fingerprints_tell_every_result_apart_and_stay() -> None:
    run = runs.several()
    results = log(run)["results"]
    hashes = [result["partialFingerprints"]["primaryLocationLineHash"] for result in results]
    assert len(set(hashes)) == len(hashes)
    again = log(Run(tuple(reversed(run.targets)), "elsewhere.toml", "2027-01-01T00:00:00"))["results"]
    assert {result["partialFingerprints"]["primaryLocationLineHash"] for result in again} == set(hashes)


def test_what_is_accepted_is_suppressed_with_its_reason() -> None:
    results = log(Run(runs.several().targets[3:]))["results"]
    suppressed = [result for result in results if "suppressions" in result]
    assert len(suppressed) == 66
    assert suppressed[0]["suppressions"] == [{"kind": "external", "justification": "baseline"}]


def test_no_verdict_is_a_failed_execution_and_no_result() -> None:
    invocation = log(RUNS["several"])["invocations"][0]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 2
    texts = [note["message"]["text"] for note in invocation["toolExecutionNotifications"]]
    assert any("longer than 60 s" in text for text in texts)


def test_no_more_results_than_services_take_and_the_gravest_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "LIMIT", 5)
    content = log(Run((TargetResult("a", runs.failing()), TargetResult("b", runs.failing()))))
    assert [result["level"] for result in content["results"]] == ["error"] * 5
    notes = content["invocations"][0]["toolExecutionNotifications"]
    assert "135 of 140 results are left out" in notes[0]["message"]["text"]


def test_a_name_is_neither_link_nor_placeholder() -> None:
    for result in log(HOSTILE["report"])["results"]:
        text = result["message"]["text"]
        assert "](" not in text
        assert "{" not in text.replace("{{", "")
