"""One target → TargetResult, in the process it is called in."""

from __future__ import annotations

import time
from dataclasses import replace

import ckptdiff.torch_import  # noqa: F401 - for what it does, in every process of a target
from ckptdiff.errors import CkptdiffError
from ckptdiff.gate.config import Target
from ckptdiff.gate.run import NoVerdict, TargetResult
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import Level


def run_target(target: Target, fail_on: Level) -> TargetResult:
    """Compare one target and apply its policy. Never raises for what the target's model, file or code does."""
    started = time.perf_counter()
    try:
        report = _report(target, fail_on)
    except CkptdiffError as error:
        return TargetResult(target.name, error=NoVerdict.of(error), seconds=time.perf_counter() - started)
    except (Exception, SystemExit) as error:
        unknown = NoVerdict("internal", f"{type(error).__name__}: {error}", "Run it alone with CKPTDIFF_DEBUG=1.")
        return TargetResult(target.name, error=unknown, seconds=time.perf_counter() - started)
    kept, ignored = target.policy.apply(report.findings)
    return TargetResult(
        target.name, replace(report, findings=kept), ignored=ignored, seconds=time.perf_counter() - started
    )


def _report(target: Target, fail_on: Level) -> Report:
    from ckptdiff import api
    from ckptdiff.sides import renames_of

    renames = renames_of(None, None, rules=target.rules)
    report, _ = api.answer(
        target.model, target.checkpoint, key=target.key, renames=renames, args=target.args, fail_on=fail_on
    )
    if report.empty_side:
        side = target.model if report.empty_side == "model" else target.checkpoint
        raise CkptdiffError(f"{side} holds no tensors, so there is nothing to compare.", "Name what holds them.")
    return report
