from __future__ import annotations

from dataclasses import replace

import pytest

from ckptdiff.gate.run import fingerprint
from ckptdiff.judging.findings import Finding, findings
from ckptdiff.judging.rules import LEVELS, RULES
from ckptdiff.loaders.torch.answer import loads
from tests import reports
from tests.reports import compared, module, slot, tensor


def found(name: str) -> dict[str, list[Finding]]:
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings(reports.CASES[name]()):
        by_rule.setdefault(finding.rule, []).append(finding)
    return by_rule


OF_FOLLOWED_LOADERS = {
    "initial-value", "filled-in-part", "overwritten", "unused-key", "conversion-error", "converted",
}  # fmt: skip
"""tests/judging/test_loader_findings.py finds them, and tests/loaders/transformers."""


def test_every_rule_is_found_somewhere() -> None:
    seen = {finding.rule for case in reports.CASES.values() for finding in findings(case())}
    assert seen == set(RULES) - OF_FOLLOWED_LOADERS


def test_nothing_is_found_where_all_is_well() -> None:
    assert findings(reports.good()) == ()


def test_errors_come_first_and_keys_in_the_order_of_torch() -> None:
    all_found = findings(reports.bad())
    levels = [LEVELS.index(finding.level) for finding in all_found]
    assert levels == sorted(levels)
    missing = [finding.key for finding in all_found if finding.rule == "missing-key"]
    assert tuple(missing) == reports.bad().problem_keys("missing")


@pytest.mark.parametrize(
    ("rule", "key", "arguments"),
    [
        ("missing-key", "norms.0.running_mean", {"kind": "buffer", "dtype": "float32", "shape": (8,)}),
        ("missing-key", "odd._extra_state", {"kind": "extra state"}),
        ("unexpected-key", "rope.freqs", {"dtype": "float32", "shape": (4,)}),
        ("unexpected-key", "extra.scalar", {"type": "int"}),
        ("size-mismatch", "head.weight", {"checkpoint_shape": (5, 8), "model_shape": (10, 8)}),
        ("not-a-tensor", "odd.value", {"type": "numpy.ndarray"}),
        ("ignored-key", "gone.weight", {"dtype": "float32", "shape": (6,)}),
        (
            "tied-values-differ",
            "left.weight",
            {"twin": "right.weight", "stored": "the checkpoint stores them separately"},
        ),
        ("non-finite-values", "half.weight", {"nan": 1, "infinite": 1, "total": 3, "first": (1,)}),
        ("tied-alias", "unembed.weight", {"twin": "embed.weight"}),
        ("lazy-parameter", "lazy.weight", {"checkpoint_shape": (9, 9)}),
        ("dtype-change", "half.bias", {"checkpoint_dtype": "float32", "model_dtype": "float64", "shape": (3,)}),
        ("scalar-reshape", "scale.value", {"checkpoint_shape": (1,)}),
        ("non-persistent", "rope.freqs", {"dtype": "float32", "shape": (4,)}),
        ("unsafe-global", "os.system", {}),
        ("version-upgrade", "norms.7.num_batches_tracked", {}),
    ],
)
def test_each_finding_has_its_facts(rule: str, key: str, arguments: dict[str, object]) -> None:
    (finding,) = (finding for finding in found("bad")[rule] if finding.key == key)
    assert finding.arguments == arguments
    assert finding.level == RULES[rule].level


def test_more_than_one_value_into_a_scalar_is_graver() -> None:
    levels = {finding.key: finding.level for finding in found("bad")["scalar-reshape"]}
    assert levels == {"scale.value": "note", "scale.other": "warning"}


def test_torchs_own_messages_are_not_told_twice() -> None:
    assert "load-error" not in found("bad")
    other = compared(module(weight=slot(2)), {"weight": tensor(2)}, errors=("something else went wrong",))
    assert [finding.arguments["text"] for finding in findings(other)] == ["something else went wrong"]


def test_a_sentence_is_known_again_by_what_it_is_about() -> None:
    def sentences(*said: str, raised: str | None = None) -> list[Finding]:
        model = module(weight=slot(2), children={"layer": module(bias=slot(2))})
        whole = compared(model, {"weight": tensor(2), "layer.bias": tensor(2)}, errors=said[:1], raised=raised)
        return [item for item in findings(replace(whole, doubts=said[1:])) if "text" in item.arguments]

    before = sentences('Cannot take "layer.bias".', "layer: not followed.", "weight: why not.", "Who knows?", "Odd.")
    after = sentences('"layer.bias" will not do.', "For layer, no.", "Is weight copied?", "Nobody does.", "Odder.")
    assert [item.arguments.get("about") for item in before] == ["layer.bias", "layer", "weight", None, None]
    assert [fingerprint(item) for item in before] == [fingerprint(item) for item in after]
    assert len({fingerprint(item) for item in before}) == 5
    (one, other) = (sentences("", raised=f"{kind}: weight")[-1] for kind in ("KeyError", "TypeError"))
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(sentences("", raised="KeyError: /home/me/weight")[-1])


def test_whatever_keeps_torch_from_loading_is_an_error() -> None:
    for case in reports.CASES.values():
        outcome = case()
        graves = {finding.rule for finding in findings(outcome) if finding.level == "error"}
        assert loads(outcome) == (graves <= {"no-values"})  # which loads, and leaves nothing


def test_the_place_of_a_dropped_key_is_the_child_that_is_none() -> None:
    (finding,) = found("bad")["ignored-key"]
    assert finding.module == "gone"


def test_twins_that_share_memory_or_whose_memory_is_unknown_do_not_differ() -> None:
    root = {"a": module("Linear", weight=slot(3, identity=-9)), "b": module("Linear", weight=slot(3, identity=-9))}
    for storage in ("0", None):
        entries = {"a.weight": tensor(3, storage=storage), "b.weight": tensor(3, storage=storage)}
        assert findings(compared(module(children=root), entries)) == ()
    apart = {"a.weight": tensor(3, storage="0"), "b.weight": tensor(3, storage="0", offset=3)}
    assert [finding.rule for finding in findings(compared(module(children=root), apart))] == ["tied-values-differ"]


def test_coverage_counts_tied_parameters_once_and_as_loaded() -> None:
    coverage = reports.report("tied").coverage
    assert (coverage.keys, coverage.total_keys, coverage.parameters, coverage.total_parameters) == (2, 2, 3, 3)


def test_the_outcome_follows_the_level_asked_for() -> None:
    assert reports.report("warned").verdict == "pass"
    assert reports.report("warned", fail_on="warning").verdict == "fail"
    assert reports.report("good", fail_on="note").verdict == "pass"
    assert reports.report("bad").verdict == "fail"
    assert reports.report("uncertain").verdict == "pass"
    assert reports.report("uncertain", fail_on="warning").verdict == "fail"


@pytest.mark.parametrize("side", ["model", "checkpoint"])
def test_nothing_to_compare_never_passes(side: str) -> None:
    report = reports.report(f"empty_{side}")
    assert report.empty_side == side
    assert report.verdict == "fail"


def test_the_five_attributes() -> None:
    report = reports.report("bad")
    assert report.missing_keys[0] == "norms.0.running_mean"
    assert report.unexpected_keys == ["rope.freqs", "extra.scalar", reports.EVIL]
    assert report.mismatched_keys == [("head.weight", (5, 8), (10, 8)), ("head.bias", (5,), (10,))]
    assert not report.loads()
    assert not report.loads(strict=False)
    text = report.error_message(strict=True)
    assert text is not None
    assert text.startswith("Error(s) in loading state_dict for Net:\n\tMissing key(s) in state_dict: ")
    assert reports.report("raised").error_message() == "KeyError: 'scale'\n  in the hook"
    assert reports.report("good").error_message() is None
