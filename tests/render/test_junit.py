"""JUnit XML, against both schemas in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import xmlschema

from ckptdiff.gate.run import Run, TargetResult, single
from ckptdiff.judging.report import judge
from ckptdiff.judging.rules import RULES
from ckptdiff.render import render_run
from tests import reports
from tests.golden import check_golden
from tests.render import runs

SCHEMAS = Path(__file__).parent / "schemas"
RUNS = runs.canonical()
HOSTILE = {"report": single(runs.hostile(), started=runs.STARTED), "run": runs.hostile_run()}


@pytest.fixture(scope="module", params=["ant-junit.xsd", "junit-10.xsd"])
def schema(request: Any) -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(str(SCHEMAS / request.param))


@pytest.mark.parametrize("name", RUNS)
def test_golden(name: str) -> None:
    check_golden(f"run/{name}.junit.xml", render_run("junit", RUNS[name]))


@pytest.mark.parametrize("name", [*RUNS, *HOSTILE])
def test_valid(schema: xmlschema.XMLSchema, name: str) -> None:
    run = RUNS.get(name) or HOSTILE[name]
    schema.validate(render_run("junit", Run(run.targets, run.config, run.started or runs.STARTED)))


def test_one_suite_a_target_one_case_a_rule_passes_included() -> None:
    root = ElementTree.fromstring(render_run("junit", RUNS["several"]))
    passing, failing, broken, stale = root.findall("testsuite")
    assert [case.get("name") for case in passing.findall("testcase")] == list(RULES)
    assert passing.get("failures") == passing.get("errors") == "0"
    assert failing.get("failures") == "4"
    assert {case.get("name") for case in failing.findall("testcase") if case.find("failure") is not None} == {
        "missing-key", "unexpected-key", "size-mismatch", "not-a-tensor",
    }  # fmt: skip
    assert (broken.get("tests"), broken.get("errors"), broken.get("failures")) == ("1", "1", "0")
    assert broken.find("testcase/error") is not None
    assert [case.get("name") for case in stale.findall("testcase") if case.find("failure") is not None] == ["stale"]


@pytest.mark.parametrize("name", reports.CASES)
@pytest.mark.parametrize("fail_on", ["error", "warning", "note"])
def test_a_suite_has_a_failure_exactly_where_its_target_fails(name: str, fail_on: Any) -> None:
    report = judge(reports.CASES[name](), fail_on=fail_on)
    suite = ElementTree.fromstring(render_run("junit", Run((TargetResult("t", report),)))).find("testsuite")
    assert suite is not None
    assert (suite.get("failures") != "0") == (report.verdict == "fail")


def test_names_are_read_back_as_they_are_shown() -> None:
    root = ElementTree.fromstring(render_run("junit", HOSTILE["report"]))
    text = "".join(root.itertext())
    assert "</script><script>window.pwned=1</script>.weight" in text
    assert "\\x1b[31mred\\x1b[0m.weight" in text
    assert "]]><x>&amp;" in text


def test_the_time_is_left_out_where_it_is_not_known() -> None:
    assert "timestamp" not in render_run("junit", RUNS["good"])
