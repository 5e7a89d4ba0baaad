"""A run in plain text: one line a target, and below it the whole report of one that does not pass."""

from __future__ import annotations

from ckptdiff.gate.run import Outcome, Run, TargetResult
from ckptdiff.render import text
from ckptdiff.render.escape import lines as lines_of
from ckptdiff.render.escape import plain
from ckptdiff.render.targets import idle_renames, run_verdict, target_words
from ckptdiff.render.view import View

_WORDS: dict[Outcome, str] = {"pass": "pass", "fail": "FAIL", "error": "no verdict"}
_WIDTH = max(map(len, _WORDS.values()))


def run(run: Run, view: View) -> str:
    """The targets in their order and a last line with the verdict, ending with a newline."""
    lines: list[str] = []
    for target in run.targets:
        words = target_words(target, view)
        verdict = " ".join([words.verdict, *idle_renames(target)]) if target.outcome == "pass" else ""
        lines.append(f"{_WORDS[target.outcome]:<{_WIDTH}}  {words.name}  {verdict}".rstrip())
        lines += [f"    {line}".rstrip() for line in _details(target, words.verdict, view)]
        if target.outcome != "pass":
            lines.append("")
    return "\n".join([*lines, run_verdict(run)]) + "\n"


def _details(target: TargetResult, verdict: str, view: View) -> list[str]:
    if target.error is not None:
        error = target.error
        detail = [f"  {line}" for line in lines_of(error.detail, 40)] if error.detail else []
        hint = [f"hint: {plain(error.hint, 1000)}"] if error.hint else []
        return [plain(error.message, 1000), *detail, *hint]
    assert target.report is not None
    if target.outcome == "pass" and not view.verbose:
        return []
    stale = [f"  {plain(entry, 1000)}" for entry in target.stale]
    # The verdict on the target takes the place of the one on the comparison, which knows of nothing accepted.
    return [verdict, *stale, *text.report(target.report, view).splitlines()[1:]]
