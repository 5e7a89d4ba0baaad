"""The baseline: what it accepts, what is stale, and the file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ckptdiff.errors import UsageError
from ckptdiff.gate.baseline import REASON, Baseline, dumps, loads, recorded
from ckptdiff.gate.run import NoVerdict, Run, TargetResult, fingerprint
from ckptdiff.judging.report import Report, judge
from tests.reports import compared, module, slot, tensor


def report(*missing: str, size: int = 3) -> Report:
    """The report on a model that has more keys than its checkpoint, whose `weight` has a shape of its own."""
    names = {name: slot(2) for name in missing}
    return judge(compared(module(weight=slot(2), **names), {"weight": tensor(size)}))


def run(**reports: Report) -> Run:
    return Run(tuple(TargetResult(name, report) for name, report in reports.items()))


def keys(target: TargetResult) -> list[str]:
    assert target.report is not None
    return [finding.key for finding in target.report.findings]


def test_what_is_recorded_passes_and_is_counted_as_ignored() -> None:
    before = run(a=report("bias"))
    assert before.outcome == "fail"
    after = recorded(before, Baseline()).applied(before)
    assert after.outcome == "pass"
    assert [(item.finding.key, item.reason) for item in after.targets[0].ignored] == [
        ("bias", REASON),
        ("weight", REASON),
    ]


def test_a_new_finding_fails_and_is_the_only_one_left() -> None:
    baseline = recorded(run(a=report("bias")), Baseline())
    after = baseline.applied(run(a=report("bias", "scale")))
    assert (after.outcome, keys(after.targets[0])) == ("fail", ["scale"])


def test_the_same_key_with_another_shape_is_a_new_finding() -> None:
    baseline = recorded(run(a=report(size=3)), Baseline())
    after = baseline.applied(run(a=report(size=4)))
    assert keys(after.targets[0]) == ["weight"]
    assert after.targets[0].stale == ("size-mismatch weight",)


def test_what_is_gone_is_stale_and_fails_unless_allowed() -> None:
    baseline = recorded(run(a=report("bias", "scale")), Baseline())
    after = baseline.applied(run(a=report("bias")))
    assert after.targets[0].stale == ("missing-key scale",)
    assert (after.outcome, after.without_stale().outcome) == ("fail", "pass")
    again = recorded(run(a=report("bias")), baseline)
    assert again.applied(run(a=report("bias"))).outcome == "pass"


def test_a_target_without_a_verdict_keeps_what_was_accepted() -> None:
    baseline = recorded(run(a=report("bias"), b=report("bias")), Baseline())
    broken = Run((TargetResult("a", error=NoVerdict("crash", "It crashed.")),))
    assert baseline.applied(broken) == broken
    assert recorded(broken, baseline) == baseline


def test_targets_do_not_share_what_is_accepted() -> None:
    baseline = recorded(run(a=report("bias")), Baseline())
    assert [target.outcome for target in baseline.applied(run(a=report("bias"), b=report("bias"))).targets] == [
        "pass",
        "fail",
    ]
    assert baseline.limited({"b"}) == Baseline()


def test_what_does_not_fail_is_not_recorded() -> None:
    fine = judge(compared(module(weight=slot(2, dtype="float16")), {"weight": tensor(2)}))
    assert fine.findings
    assert recorded(run(a=fine), Baseline()) == Baseline()
    strict = judge(fine.outcome, fail_on="note")
    assert len(recorded(run(a=strict), Baseline()).targets["a"]) == len(strict.findings)


def test_fingerprints_know_rule_key_and_arguments_and_nothing_else() -> None:
    (found, *_) = report("bias").findings
    assert fingerprint(replace(found, level="note", module="elsewhere")) == fingerprint(found)
    others = [
        replace(found, rule="unexpected-key"),
        replace(found, key="other"),
        replace(found, arguments={**found.arguments, "shape": (9,)}),
    ]
    assert len({fingerprint(item) for item in (found, *others)}) == 4


def test_the_file_is_sorted_one_line_a_finding_and_comes_back() -> None:
    baseline = recorded(run(b=report("z", "a"), a=report('quo"te\n\u202e')), Baseline())
    text = dumps(baseline)
    assert loads(text, "baseline.json") == baseline
    assert dumps(loads(text, "baseline.json")) == text
    assert [line.strip()[:4] for line in text.splitlines() if "fingerprint" in line] == ['{"ru'] * 5
    assert list(json.loads(text)["targets"]) == ["a", "b"]
    assert text.isascii()
    assert loads(dumps(Baseline()), "baseline.json") == Baseline()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no ckptdiff baseline"),
        ("[]", "is no ckptdiff baseline"),
        ("[" * 100_000, "is no ckptdiff baseline"),
        ('{"ckptdiff_baseline": 1}', "is no ckptdiff baseline"),
        ('{"ckptdiff_baseline": 1, "targets": {"a": [{}]}}', "is no ckptdiff baseline"),
        ('{"ckptdiff_baseline": 2, "targets": {}}', "of version 2"),
    ],
)
def test_what_is_no_baseline_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        loads(text, "baseline.json")
