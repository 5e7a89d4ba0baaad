"""SARIF 2.1.0, which code-scanning services read: one run, one result a finding.

All targets share one run, as GitHub refuses several runs of one tool in a file; it takes at most 25,000 results.
https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/sarif-v2.1.0-errata01-os-complete.html
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

import ckptdiff
from ckptdiff.gate.run import Run, TargetResult, fingerprint, single
from ckptdiff.judging.findings import Finding
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import LEVELS, RULES, Rule
from ckptdiff.printable import json_text
from ckptdiff.render.advised import sentence
from ckptdiff.render.commands import commands
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.escape import plain
from ckptdiff.render.json import helping
from ckptdiff.render.messages import message
from ckptdiff.render.phrases import number
from ckptdiff.render.targets import WORDS, model_file
from ckptdiff.render.view import View

LIMIT = 25_000
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_INDEX = {rule: place for place, rule in enumerate(RULES)}


@dataclass(frozen=True, slots=True)
class _Origin:
    """What the results of one target have in common: its name, escaped, a hash of it, and the physical location."""

    name: str
    fingerprint: str
    place: dict[str, Any] | None


def report(report: Report, view: View) -> str:
    """One comparison as a SARIF log, ending with a newline."""
    return run(single(report), view)


def run(run: Run, view: View) -> str:  # noqa: ARG001 - programs get everything
    """All targets as a SARIF log, ending with a newline."""
    pairs: list[tuple[_Origin, Finding, str]] = []
    for target in run.targets:
        origin = _origin(target, run)
        pairs += [(origin, finding, "") for finding in (target.report.findings if target.report else ())]
        pairs += [(origin, item.finding, item.reason) for item in target.ignored]
    notifications = [_no_verdict(target) for target in run.targets if target.error is not None]
    notifications += [_repair(target) for target in run.targets if target.report and commands(target.report)]
    notifications += [_stale(target, entry) for target in run.targets for entry in target.stale]
    if len(pairs) > LIMIT:
        pairs.sort(key=lambda pair: (bool(pair[2]), LEVELS.index(pair[1].level)))
        text = f"{number(len(pairs) - LIMIT)} of {number(len(pairs))} results are left out, the gravest are kept."
        notifications.append({"level": "warning", "message": {"text": text}})
    invocation: dict[str, Any] = {
        "executionSuccessful": run.outcome != "error",
        "exitCode": run.exit_code,
        "toolExecutionNotifications": notifications,
    }
    if run.started:
        invocation["startTimeUtc"] = f"{run.started}Z"
    log = {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "ckptdiff",
                        "version": ckptdiff.__version__,
                        "rules": [_rule(rule) for rule in RULES.values()],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [invocation],
                "results": [_result(*pair) for pair in pairs[:LIMIT]],
                "properties": {
                    "outcome": run.outcome,
                    "targets": [
                        {
                            "name": plain(target.name),
                            "outcome": target.outcome,
                            "stale": len(target.stale),
                            **({} if target.report is None else helping(target.report)),
                        }
                        for target in run.targets
                    ],
                },
            }
        ],
    }
    return json_text(log, separators=(",", ":")) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    name = "".join(part.capitalize() for part in rule.id.split("-"))
    markdown = f"{rule.help}\n\n[More]({rule.link})"
    return {
        "id": rule.id,
        "name": name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.summary},
        "help": {"text": rule.help, "markdown": markdown},
        "helpUri": rule.link,
        "defaultConfiguration": {"level": rule.level},
    }


def _origin(target: TargetResult, run: Run) -> _Origin:
    file = model_file(target) or run.config
    place = {"artifactLocation": _artifact(file), "region": {"startLine": 1}} if file else None
    print_ = hashlib.sha256(target.name.encode("utf-8", "surrogatepass")).hexdigest()
    return _Origin(plain(target.name), print_, place)


def _result(origin: _Origin, finding: Finding, reason: str) -> dict[str, Any]:
    key = plain(finding.key, 1000)
    digest = fingerprint(finding)
    both = hashlib.sha256(f"{origin.fingerprint} {digest}".encode()).hexdigest()
    location: dict[str, Any] = {"logicalLocations": _logical(finding, key)}
    if origin.place:
        location["physicalLocation"] = origin.place
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": _INDEX[finding.rule],
        "level": finding.level,
        "message": {"text": _text(origin.name, key, finding)},
        "locations": [location],
        # GitHub computes primaryLocationLineHash from the line where it is not given, and every result is on line 1.
        "partialFingerprints": {
            "primaryLocationLineHash": f"{both[:16]}:1",
            "target/v1": origin.fingerprint,
            "finding/v1": digest,
        },
        "properties": {"target": origin.name},
    }
    if reason:
        result["suppressions"] = [{"kind": "external", "justification": plain(reason, 1000)}]
    return result


def _text(target: str, key: str, finding: Finding) -> str:
    """In a message `[text](link)` is a link and braces are placeholders (SARIF 3.11.5, 3.11.6); no key is either."""
    said = "\n".join(lines_of(message(finding), 40))
    text = f"{target}: {f'{key}: {said}' if key else said}\n{RULES[finding.rule].summary}"
    return text.replace("](", "] (").replace("{", "{{").replace("}", "}}")


def _logical(finding: Finding, key: str) -> list[dict[str, Any]]:
    module = plain(finding.module, 1000)
    if not key:
        return [{"name": module or "model", "fullyQualifiedName": module or "model", "kind": "module"}]
    name = key.removeprefix(f"{module}.") if module else key
    return [{"name": name, "fullyQualifiedName": key, "kind": "member"}]


def _artifact(path: str) -> dict[str, Any]:
    """A relative path is relative to where ckptdiff ran, which in CI is the root of the sources."""
    pure = PurePosixPath(path.replace("\\", "/"))
    uri = quote(str(pure), errors="surrogatepass")
    if PureWindowsPath(path).drive:
        return {"uri": f"file:///{uri}"}
    return {"uri": f"file://{uri}"} if pure.is_absolute() else {"uri": uri, "uriBaseId": "%SRCROOT%"}


def _no_verdict(target: TargetResult) -> dict[str, Any]:
    error = target.error
    assert error is not None
    parts = [f"{target.name}: {WORDS['error']}: {error.message}", error.hint]
    text = " ".join(plain(part, 2000) for part in parts if part)
    return {"level": "error", "message": {"text": text}, "properties": {"kind": error.kind}}


def _repair(target: TargetResult) -> dict[str, Any]:
    """What would help, for who posts it."""
    assert target.report is not None
    lines = [*map(sentence, target.report.advice), *commands(target.report)]
    text = "\n".join([f"{plain(target.name)}: what would help", *lines])
    return {"level": "note", "message": {"text": text.replace("](", "] (").replace("{", "{{").replace("}", "}}")}}


def _stale(target: TargetResult, entry: str) -> dict[str, Any]:
    return {"level": "error", "message": {"text": f"{plain(target.name)}: stale: {plain(entry, 1000)}"}}
