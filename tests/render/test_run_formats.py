"""What holds for a run in every format."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdiff.errors import ModelError
from ckptdiff.gate.run import NoVerdict, Run, TargetResult, fingerprint, single
from ckptdiff.judging.report import judge
from ckptdiff.render import REPORTS, render_run
from ckptdiff.render.view import View
from tests import reports
from tests.golden import check_golden
from tests.render import runs, test_github, test_html, test_markdown

RUNS = runs.canonical()
EVERYTHING_HOSTILE = {"report": single(runs.hostile()), "run": runs.hostile_run()}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("format", ["text", "rich"])
def test_golden(format: str, name: str) -> None:
    check_golden(f"run/{name}.{format}.txt", render_run(format, RUNS[name], View(width=100)))


@pytest.mark.parametrize("name", [*RUNS, "report", "run"])
@pytest.mark.parametrize("format", REPORTS)
def test_every_run_comes_in_every_format_the_same_each_time(format: str, name: str) -> None:
    run = RUNS.get(name) or EVERYTHING_HOSTILE[name]
    text = render_run(format, run)
    assert text.endswith("\n")
    assert text == render_run(format, run)
    text.encode()  # no lone surrogate is left
    allowed = "\n" if format != "html" else "\n◐○●"
    assert [char for char in set(text) if not char.isprintable() and char not in allowed] == []


@pytest.mark.parametrize("format", REPORTS)
def test_a_key_of_a_megabyte_is_not_repeated(format: str) -> None:
    text = render_run(format, EVERYTHING_HOSTILE["report"])
    assert len(text) < (200_000 if format != "json" else 20_000_000)
    assert ("x" * 3000 in text) == (format == "json")  # programs get it whole


@pytest.mark.parametrize("name", RUNS)
def test_json_follows_its_schema(name: str) -> None:
    folder = resources.files("ckptdiff.render") / "schemas"
    document = json.loads(render_run("json", RUNS[name]))
    jsonschema.Draft202012Validator(json.loads((folder / "check.json").read_text())).validate(document)
    compare = jsonschema.Draft202012Validator(json.loads((folder / "compare.json").read_text()))
    for target in document["targets"]:
        assert (target["report"] is None) == (target["error"] is not None)
        if target["report"] is not None:
            compare.validate(target["report"])
    assert document["outcome"] == RUNS[name].outcome
    assert document["exit_code"] == RUNS[name].exit_code


@pytest.mark.parametrize("format", ["text", "rich", "markdown", "github", "html", "junit"])
def test_what_is_accepted_is_counted(format: str) -> None:
    assert "66" in render_run(format, Run(runs.several().targets[3:]))


@pytest.mark.parametrize("format", ["text", "rich", "markdown", "html", "github", "junit", "sarif"])
def test_no_verdict_says_why_and_what_to_do(format: str) -> None:
    error = NoVerdict.of(ModelError("model.py raised ValueError", "Pass the argument width"))
    text = render_run(format, Run((TargetResult("a", error=error),)))
    assert "model.py raised ValueError" in text
    assert "Pass the argument width" in text
    assert "Compatible" not in text


@given(name=st.text(st.characters(exclude_categories=()), max_size=40))
@settings(max_examples=60)
def test_no_name_is_taken_for_anything_else(name: str) -> None:
    outcome = reports.compared(reports.module(weight=reports.slot(2)), {name: reports.tensor(1)})
    report = judge(replace(outcome, doubts=(name,)))
    error = NoVerdict("crash", name, name, name)
    run = Run((TargetResult(name, report, stale=(name,)), TargetResult(name + "2", error=error)), name)
    *commands, _ = render_run("github", run).splitlines()
    assert all(test_github.COMMAND.fullmatch(command) for command in commands)
    test_markdown.checked(render_run("markdown", run))
    assert len(ElementTree.fromstring(render_run("junit", run)).findall("testsuite")) == 2
    assert len(json.loads(render_run("sarif", run))["runs"][0]["results"]) == len(report.findings)
    assert len(test_html.page(run).scripts) == 1


def test_the_outcome_of_a_run_is_its_gravest_and_none_is_no_pass() -> None:
    passing, failing, broken, stale = runs.several().targets
    assert Run((passing,)).exit_code == 0
    assert Run((passing, failing)).exit_code == 1
    assert Run((passing, failing, broken)).exit_code == 2
    assert Run((passing, stale)).exit_code == 1
    assert Run((passing, stale)).without_stale().exit_code == 0
    assert Run(()).exit_code == 2


def test_a_target_has_either_a_report_or_an_error() -> None:
    with pytest.raises(ValueError, match="either"):
        TargetResult("a")
    with pytest.raises(ValueError, match="either"):
        TargetResult("a", runs.passing(), NoVerdict("crash", "It crashed"))


def test_a_fingerprint_depends_on_rule_key_and_facts_alone() -> None:
    first, again = runs.failing().findings, runs.failing().findings
    assert [fingerprint(finding) for finding in first] == [fingerprint(finding) for finding in again]
    assert len({fingerprint(finding) for finding in first}) == len(first)
    everything = [finding for name in reports.CASES for finding in reports.report(name).findings]
    for finding in everything:
        level = "note" if finding.level != "note" else "error"
        assert fingerprint(
            type(finding)(finding.rule, level, finding.key, "elsewhere", finding.arguments)
        ) == fingerprint(finding)


def test_the_fingerprint_of_a_finding_stays_what_it_was() -> None:
    """Baselines and code-scanning services keep them for years."""
    mismatch = next(finding for finding in runs.failing().findings if finding.rule == "size-mismatch")
    assert fingerprint(mismatch) == "7379e6b38097295a808ff183d6138e8b553b046c4c148e5ebe2dbbe3e134a6e9"


def test_what_fails_for_its_baseline_alone_shows_no_tick_and_the_way_out() -> None:
    (target,) = single(judge(reports.good())).targets
    shown = render_run("rich", Run((replace(target, stale=("missing-key conv9.weight",)),)))
    assert "✓" not in shown
    assert "--update-baseline FILE strikes them off" in " ".join(shown.split())
