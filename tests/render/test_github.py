"""GitHub workflow commands."""

from __future__ import annotations

import re

import pytest

from ckptdiff.gate.run import Run, TargetResult, single
from ckptdiff.render import render_run
from tests.golden import check_golden
from tests.render import runs

RUNS = runs.canonical()
HOSTILE = {"report": single(runs.hostile()), "run": runs.hostile_run()}
COMMAND = re.compile(r"::(error|warning|notice) ((?:file=[^:,\n\r]*,)?title=[^:,\n\r]*)::([^\n\r]*)")


@pytest.mark.parametrize("name", RUNS)
def test_golden(name: str) -> None:
    check_golden(f"run/{name}.github.txt", render_run("github", RUNS[name]))


@pytest.mark.parametrize("name", [*RUNS, *HOSTILE])
def test_every_line_but_the_last_is_one_command_of_ours(name: str) -> None:
    *commands, last = render_run("github", RUNS.get(name) or HOSTILE[name]).splitlines()
    for line in commands:
        assert COMMAND.fullmatch(line), line
        assert not re.search(r"%(?!25|0A|0D|3A|2C)", line)  # a percent sign of a name would be decoded by the runner
    assert not last.lstrip().startswith(("::", "##["))


def test_one_annotation_a_rule_with_its_count_the_gravest_first() -> None:
    *commands, _ = render_run("github", RUNS["bad"]).splitlines()
    starts = [line.split("::")[1] for line in commands]
    assert len(starts) == len(set(starts)) == 20
    assert "error file=model.py,title=ckptdiff%3A missing-key (32)" in starts
    levels = [line.split()[0] for line in commands]
    assert levels == sorted(levels, key=["::error", "::warning", "::notice"].index)


def test_many_targets_share_the_annotations_github_shows() -> None:
    run = Run(tuple(TargetResult(f"t{i}", runs.failing()) for i in range(30)))
    text = render_run("github", run)
    assert text.count("::error") == 4
    assert "missing-key (930)" in text
    assert "... and 20 more targets" in text


def test_no_file_where_the_model_is_none() -> None:
    from dataclasses import replace

    report = runs.failing()
    tree = replace(report.outcome.model, reference="torchvision:resnet18")
    report = replace(report, outcome=replace(report.outcome, model=tree))
    assert "file=" not in render_run("github", single(report))


def test_a_verdict_that_looks_like_a_command_is_none() -> None:
    from dataclasses import replace

    report = runs.failing()
    tree = replace(report.outcome.model, reference="  ::error::x")
    report = replace(report, outcome=replace(report.outcome, model=tree))
    last = render_run("github", Run((replace(single(report).targets[0], name="x"),))).splitlines()[-1]
    assert not last.strip().startswith("::")
