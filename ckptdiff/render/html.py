"""One self-contained HTML page: what was found, and the model as a tree and a treemap to look around in.

It works from a file, with no network: a Content-Security-Policy forbids every request and every script and style but
the page's own, which it knows by their hashes. What is found is plain HTML; the tree is built by the script when a
target is shown, and only of the rows in sight. Names reach the page escaped, as text or as JSON.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files

import ckptdiff
from ckptdiff.gate.run import Outcome, Run, TargetResult, single
from ckptdiff.judging.report import Report
from ckptdiff.judging.rules import LEVELS, RULES
from ckptdiff.printable import inert, json_text
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.escape import plain
from ckptdiff.render.html_data import STATUSES, data
from ckptdiff.render.loading_code import python
from ckptdiff.render.phrases import number, percent
from ckptdiff.render.sections import Row, Section
from ckptdiff.render.targets import WORDS, TargetWords, run_verdict, target_words
from ckptdiff.render.view import View

_SCRIPTS = ("dom.js", "model.js", "tree.js", "treemap.js", "page.js")
_META = '"use strict";\nconst META = JSON.parse(document.getElementById("meta").textContent);\n'
_MARKS: dict[Outcome, str] = {"pass": "✓", "fail": "✗", "error": "!"}


def report(report: Report, view: View) -> str:
    """The page of one comparison, ending with a newline."""
    return run(single(report), view)


def run(run: Run, view: View) -> str:
    """The page of all targets, of which it shows one at a time, ending with a newline."""
    words = [target_words(target, view) for target in run.targets]
    several = len(words) > 1
    verdict = words[0].verdict if len(words) == 1 else run_verdict(run)
    meta = {
        "statuses": STATUSES,
        "rules": {rule.id: {"summary": rule.summary, "help": rule.help, "link": rule.link} for rule in RULES.values()},
    }
    style = _asset("page.css")
    script = "".join(("(() => {\n", _META, *map(_asset, _SCRIPTS), "})();\n"))
    policy = (
        f"default-src 'none'; script-src '{content_hash(script)}'; style-src '{content_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    when = f'<span class="when">{escape(plain(run.started).replace("T", " "))} UTC</span>' if run.started else ""
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(verdict[:200])} · ckptdiff</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        f'<header class="top"><span class="brand">ckptdiff</span>{when}<span class="gap"></span>',
        '<button type="button" class="plain" id="theme" hidden></button></header>',
        "<main>",
        f'<h1 class="verdict {run.outcome}" data-mark="{_MARKS[run.outcome]}"><span>{escape(verdict)}</span></h1>',
        *(_index(run, words) if several else ()),
        *(
            line
            for place, (target, said) in enumerate(zip(run.targets, words, strict=True))
            for line in _target(place, target, said, several)
        ),
        f'<p class="foot">ckptdiff {escape(ckptdiff.__version__)}</p>',
        "</main>",
        _json("meta", meta),
        f"<script>{script}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _index(run: Run, words: list[TargetWords]) -> list[str]:
    """The table of several targets."""
    lines = ['<div class="scroll"><table class="targets">', "<thead><tr><th>target</th><th></th>"]
    lines += [f'<th class="n">{title}</th>' for title in ("covered", "errors", "warnings", "notes")]
    lines.append("</tr></thead><tbody>")
    for place, (target, said) in enumerate(zip(run.targets, words, strict=True)):
        covered = ""
        if target.report is not None:
            covered = percent(target.report.coverage.parameters, target.report.coverage.total_parameters)
        cells = [covered, *(number(said.counts[level]) if said.counts[level] else "" for level in LEVELS)]
        lines.append(
            f'<tr><td><a href="#t{place}">{escape(said.name)}</a></td>'
            f'<td class="word-{said.outcome}">{_MARKS[said.outcome]} {WORDS[said.outcome]}</td>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    return [*lines, "</tbody></table></div>"]


def _target(place: int, target: TargetResult, words: TargetWords, several: bool) -> list[str]:
    lines = [f'<section class="target" id="t{place}" data-outcome="{words.outcome}" aria-label="{escape(words.name)}">']
    if several:
        lines.append(f"<h2><code>{escape(words.name)}</code></h2>")
    if target.error is not None:
        error = target.error
        text = f"<p><b>{escape(plain(error.message, 2000))}</b></p>"
        if error.hint:
            text += f"<p>{escape(plain(error.hint, 2000))}</p>"
        if error.detail:
            text += f"<pre>{escape(inert(chr(10).join(lines_of(error.detail, 200))))}</pre>"
        lines.append(f'<div class="card problem">{text}</div>')
        return [*lines, "</section>"]
    assert words.outline is not None
    if several:
        mark = _MARKS[words.outcome]
        lines.append(f'<p class="verdict {words.outcome}" data-mark="{mark}"><span>{escape(words.verdict)}</span></p>')
    lines += ['<div class="overview"><div class="side">', *_facts(target, words)]
    lines += _advice(target, words)
    lines += _findings(target, words)
    lines += ["</div>", '<div class="map-place"></div>', "</div>", '<div class="tree-place">']
    lines += ["<noscript><p>The model's tree needs JavaScript.</p></noscript>", "</div>"]
    lines += [_json(f"data-t{place}", data(target)), "</section>"]
    return lines


def _advice(target: TargetResult, words: TargetWords) -> list[str]:
    """What would help, to be pasted, and the Python that loads it."""
    assert target.report is not None
    assert words.outline is not None
    lines = []
    if words.outline.advice or words.outline.commands:
        items = "".join(f"<li>{escape(line)}</li>" for line in words.outline.advice)
        pasted = "".join(f"<pre>{escape(line)}</pre>" for line in words.outline.commands)
        listed = f"<ul>{items}</ul>" if items else ""
        lines.append(f'<div class="card advice"><h3>What would help</h3>{listed}{pasted}</div>')
    if code := python(target.report):
        shown = escape(inert("\n".join(lines_of(code, 200))))
        lines.append(f'<details class="card python"><summary>In Python</summary><pre>{shown}</pre></details>')
    return lines


def _facts(target: TargetResult, words: TargetWords) -> list[str]:
    assert target.report is not None
    assert words.outline is not None
    lines = ['<dl class="card facts">']
    coverage = target.report.coverage
    if coverage.total_parameters:
        share = 100 * coverage.parameters / coverage.total_parameters
        lines.append(
            '<dd class="wide"><svg class="cover" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="all" width="100" height="1"/><rect class="part" width="{share:.2f}" height="1"/></svg></dd>'
        )
    lines += [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in words.outline.facts]
    return [*lines, "</dl>"]


def _findings(target: TargetResult, words: TargetWords) -> list[str]:
    assert words.outline is not None
    sections = []
    if target.stale:
        rows = "".join(f'<tr><td class="key">{escape(plain(entry, 1000))}</td></tr>' for entry in target.stale)
        sections.append(_details("error", "stale", len(target.stale), "Accepted, but no longer found.", rows))
    sections += map(_section, words.outline.sections)
    if target.ignored:
        amount: dict[tuple[str, str], int] = {}
        for item in target.ignored:
            kind = (item.finding.rule, plain(item.reason, 500))
            amount[kind] = amount.get(kind, 0) + 1
        rows = "".join(
            f'<tr><td class="key">{rule}</td><td class="times">x{number(times)}</td>'
            f'<td class="message">{escape(reason)}</td></tr>'
            for (rule, reason), times in amount.items()
        )
        sections.append(_details("note", "accepted", len(target.ignored), "Ignored, with a reason.", rows))
    return ['<div class="card findings">', *sections, "</div>"] if sections else []


def _section(section: Section) -> str:
    rows = "".join(map(_row, section.rows))
    hidden = section.count - sum(row.count for row in section.rows)
    more = f'<p class="more">… and {number(hidden)} more</p>' if hidden else ""
    button = ""
    if any(row.name for row in section.rows):
        value = f"{section.rule} {section.level}"
        button = f'<button type="button" class="plain" data-rule="{value}" hidden>show in the tree</button>'
    return _details(section.level, section.rule, section.count, section.summary, rows, f"{more}{button}")


def _details(level: str, title: str, count: int, about: str, rows: str, after: str = "") -> str:
    return (
        f'<details class="l-{level}"><summary><span class="level">{level}</span><span class="rule">{title}</span>'
        f'<span class="n">{number(count)}</span></summary><p class="about">{escape(about)}</p>'
        f'<div class="rows"><table><tbody>{rows}</tbody></table>{after}</div></details>'
    )


def _row(row: Row) -> str:
    message = escape(inert("\n".join(lines_of(row.message, 12))))
    if not row.name:
        return f'<tr><td class="message" colspan="3">{message}</td></tr>'
    return (
        f'<tr><td class="key">{escape(row.name)}</td><td class="times">{row.times}</td>'
        f'<td class="message">{message}</td></tr>'
    )


def _json(name: str, value: object) -> str:
    """A block of data. It is ASCII, and nothing in it can end a script or begin a comment."""
    text = json_text(value, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _asset(name: str) -> str:
    return files("ckptdiff.render").joinpath("assets", name).read_text(encoding="utf-8")


def content_hash(text: str) -> str:
    """What a Content-Security-Policy knows a script or a style by."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
