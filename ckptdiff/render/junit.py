"""JUnit XML: one suite a target, one case a rule, passes included. No verdict is an error, apart from failures.

There is no official schema. What is written here satisfies both of the common ones, the strict one of Ant (every
attribute given, `system-out` and `system-err` there even when empty; it wants the time, which is left out where it is
not known) and the one of Jenkins' xUnit plugin.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring  # written with, and never read by

from ckptdiff.gate.run import Run, TargetResult, single
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import RULES, reaches
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.escape import plain
from ckptdiff.render.loading_code import python
from ckptdiff.render.phrases import number
from ckptdiff.render.sections import Section
from ckptdiff.render.targets import TargetWords, target_words
from ckptdiff.render.view import View


@dataclass(frozen=True, slots=True)
class _Case:
    """`kind` is `error` or `failure`, "" for a case that passes."""

    name: str
    kind: str = ""
    message: str = ""
    text: str = ""


def report(report: Report, view: View) -> str:
    """One comparison as a document with one suite, ending with a newline."""
    return run(single(report), view)


def run(run: Run, view: View) -> str:
    """All targets as one document, ending with a newline."""
    root = Element("testsuites")
    for place, target in enumerate(run.targets):
        root.append(_suite(place, target, run.started, view))
    indent(root)
    document: bytes = tostring(root, "UTF-8", xml_declaration=True)
    return document.decode() + "\n"


def _suite(place: int, target: TargetResult, started: str, view: View) -> Element:
    words = target_words(target, view)
    cases = _cases(target, words)
    seconds = f"{target.seconds or 0:.3f}"
    suite = Element("testsuite", name=words.name, package="ckptdiff", id=str(place))
    if started:
        suite.set("timestamp", started)
    suite.attrib.update(
        hostname="localhost",
        tests=str(len(cases)),
        failures=str(sum(case.kind == "failure" for case in cases)),
        errors=str(sum(case.kind == "error" for case in cases)),
        skipped="0",
        time=seconds,
    )
    properties = SubElement(suite, "properties")
    for name, value in _properties(target):
        SubElement(properties, "property", name=name, value=value)
    for case in cases:
        suite.append(_case(words.name, case, seconds if len(cases) == 1 else "0.000"))
    output = [words.verdict]
    for section in words.outline.sections if words.outline else ():
        if not _fails(target, section):
            output += ["", *_section(section)]
    if words.outline is not None and (helping := [*words.outline.advice, *words.outline.commands]):
        output += ["", "what would help", *(f"  {line}" for line in helping)]
    code = python(target.report) if target.report is not None else ""
    if code:
        output += ["", "in Python", *(f"  {line}".rstrip() for line in lines_of(code))]
    SubElement(suite, "system-out").text = "\n".join(output)
    SubElement(suite, "system-err")
    return suite


def _cases(target: TargetResult, words: TargetWords) -> list[_Case]:
    if target.error is not None:
        error = target.error
        said = [plain(error.message, 10_000), *(lines_of(error.detail) if error.detail else [])]
        if error.hint:
            said.append(f"hint: {plain(error.hint, 10_000)}")
        return [_Case("verdict", "error", plain(error.message, 1000), "\n".join(said))]
    assert target.report is not None
    assert words.outline is not None
    by_rule: dict[str, list[Section]] = {}
    for section in words.outline.sections:
        if _fails(target, section):
            by_rule.setdefault(section.rule, []).append(section)
    grave = Counter(f.rule for f in target.report.findings if reaches(f.level, target.report.fail_on))
    cases = []
    for rule in RULES.values():
        text = "\n".join(line for section in by_rule.get(rule.id, []) for line in _section(section))
        if grave[rule.id]:
            message = f"{rule.summary} ({number(grave[rule.id])})"
            cases.append(_Case(rule.id, "failure", message, text or "\n".join(words.outline.advice)))
        else:
            cases.append(_Case(rule.id))
    if target.report.empty_side:
        cases.append(_Case("not-empty", "failure", words.outline.verdict, words.outline.verdict))
    if target.stale:
        text = "\n".join(plain(entry, 1000) for entry in target.stale)
        message = f"Accepted findings that are no longer found ({number(len(target.stale))})"
        cases.append(_Case("stale", "failure", message, text))
    return cases


def _fails(target: TargetResult, section: Section) -> bool:
    return target.report is not None and reaches(section.level, target.report.fail_on)


def _section(section: Section) -> list[str]:
    lines = [f"{section.level}: {section.rule} ({number(section.count)}) - {section.summary}"]
    for row in section.rows:
        message = lines_of(row.message, 12)
        lines.append("  " + "  ".join(part for part in (row.name, row.times, message[0]) if part))
        lines += [f"    {line}" for line in message[1:]]
    return [*lines, f"  {section.more}"] if section.more else lines


def _properties(target: TargetResult) -> list[tuple[str, str]]:
    properties: list[tuple[str, str]] = [("outcome", target.outcome)]
    if target.report is not None:
        outcome, coverage = target.report.outcome, target.report.coverage
        properties += [
            ("model", plain(outcome.model.reference)),
            ("checkpoint", plain(outcome.checkpoint.path)),
            ("keys", f"{coverage.keys}/{coverage.total_keys}"),
            ("parameters", f"{coverage.parameters}/{coverage.total_parameters}"),
            ("ignored", str(len(target.ignored))),
        ]
    return properties


def _case(suite: str, case: _Case, seconds: str) -> Element:
    element = Element("testcase", name=case.name, classname=f"ckptdiff.{suite}", time=seconds)
    if case.kind:
        SubElement(element, case.kind, message=case.message, type=case.name).text = case.text
    return element
