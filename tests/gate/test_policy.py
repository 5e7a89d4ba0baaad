"""Levels and ignores: what they reach, and what they leave alone."""

from __future__ import annotations

import pytest

from ckptdiff.gate.policy import Ignore, Policy
from ckptdiff.judging.findings import Finding

MISSING = Finding("missing-key", "error", "head.weight")
CAST = Finding("lossy-dtype", "warning", "body.weight")
WHOLE = Finding("load-error", "error", "")


def test_the_empty_policy_changes_nothing() -> None:
    assert Policy().apply([MISSING, CAST]) == ((MISSING, CAST), ())


def test_a_level_is_that_of_every_finding_of_the_rule() -> None:
    (kept, cast), ignored = Policy({"missing-key": "note"}).apply([MISSING, CAST])
    assert (kept.level, kept.key, cast, ignored) == ("note", "head.weight", CAST, ())


def test_a_rule_that_is_off_is_neither_kept_nor_ignored() -> None:
    policy = Policy({"missing-key": "off"}, (Ignore("any", "missing-key"),))
    assert policy.apply([MISSING, CAST]) == ((CAST,), ())


@pytest.mark.parametrize(
    ("ignore", "matches"),
    [
        (Ignore("r", "missing-key"), True),
        (Ignore("r", "unexpected-key"), False),
        (Ignore("r", "", "head.*"), True),
        (Ignore("r", "missing-key", "body.*"), False),
        (Ignore("r", "lossy-dtype", "head.*"), False),
        (Ignore("r", "", "head"), False),
    ],
)
def test_an_ignore_needs_both_its_rule_and_its_key(ignore: Ignore, matches: bool) -> None:
    kept, ignored = Policy(ignores=(ignore,)).apply([MISSING])
    assert (kept == ()) is matches
    assert [(item.finding, item.reason) for item in ignored] == ([(MISSING, "r")] if matches else [])


def test_a_finding_about_the_whole_is_reached_by_its_rule_only() -> None:
    assert Policy(ignores=(Ignore("r", "load-error"),)).apply([WHOLE])[0] == ()
    assert Policy(ignores=(Ignore("r", "", "head.*"),)).apply([WHOLE])[0] == (WHOLE,)


def test_the_first_ignore_gives_the_reason() -> None:
    policy = Policy(ignores=(Ignore("first"),)).refined(Policy(ignores=(Ignore("second"),)))
    assert [item.reason for item in policy.apply([MISSING])[1]] == ["first"]


def test_a_refinement_wins_on_levels_and_adds_ignores() -> None:
    base = Policy({"missing-key": "note", "lossy-dtype": "off"}, (Ignore("a", "", "a.*"),))
    both = base.refined(Policy({"missing-key": "error"}, (Ignore("b", "", "b.*"),)))
    assert both.levels == {"missing-key": "error", "lossy-dtype": "off"}
    assert [ignore.reason for ignore in both.ignores] == ["a", "b"]
