"""A run as JSON: the document of `compare` for each target, with what a run knows beyond it."""

from __future__ import annotations

import json
from typing import Any

from ckptdiff.gate.run import Run, TargetResult
from ckptdiff.judging.findings import Finding
from ckptdiff.printable import json_text
from ckptdiff.render import json as single
from ckptdiff.render.view import View


def run(run: Run, view: View) -> str:
    """All targets, complete, ending with a newline. `schemas/check.json` describes it."""
    document = {
        "schema_version": single.SCHEMA_VERSION,
        "outcome": run.outcome,
        "exit_code": run.exit_code,
        "config": run.config,
        "started": run.started,
        "targets": [_target(target, view) for target in run.targets],
    }
    return json_text(document, indent=2) + "\n"


def _target(target: TargetResult, view: View) -> dict[str, Any]:
    error = target.error
    return {
        "name": target.name,
        "outcome": target.outcome,
        "seconds": target.seconds,
        "error": error and {"kind": error.kind, "message": error.message, "detail": error.detail, "hint": error.hint},
        "report": target.report and json.loads(single.report(target.report, view)),
        "ignored": [{**_finding(item.finding), "reason": item.reason} for item in target.ignored],
        "stale": list(target.stale),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"rule": finding.rule, "level": finding.level, "key": finding.key, "module": finding.module}
