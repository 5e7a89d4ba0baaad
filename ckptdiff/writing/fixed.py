"""A checkpoint repaired for a model, as a plain value."""

from __future__ import annotations

from dataclasses import dataclass

from ckptdiff.judging.report import Report
from ckptdiff.shown import Shown, rendered
from ckptdiff.suggesting.suggestion import Suggestion
from ckptdiff.writing.execute import Job, Written


@dataclass(frozen=True, slots=True, repr=False)
class Fixed(Shown):
    """The repair and what came of it; `done` is the job alone where nothing was to be written. `why` says of a file
    that nothing repairs why that is so."""

    suggestion: Suggestion
    done: Job | Written
    why: str = ""
    report: Report | None = None
    """On what a loader makes of it, where one was asked."""

    @property
    def stays(self) -> tuple[str, ...]:
        """The keys of the model that what was written, or would be, leaves at their initial values."""
        if self.report is not None:
            outcome = self.report.outcome
            whole = {key for key, item in outcome.filled.items() if item.whole or item.by == "base"}
            return tuple(key for key in outcome.model.shapes() if key not in whole)
        if isinstance(self.done, Written) and self.done.outcome is not None:
            return tuple(key for key in self.done.outcome.problem_keys("missing") if key not in self.done.left_out)
        job = self.done.job if isinstance(self.done, Written) else self.done
        held = {*job.keys, *job.left_out}
        tree = job.plan.tree
        return tuple(key for key in tree.shapes() if key not in held) if tree is not None else ()

    @property
    def whole(self) -> bool:
        """Whether all of the model is filled by what is certain, except for a head of another size."""
        head = self.suggestion.head
        new = set(head.keys) if head is not None else set()
        raised = self.report is not None and self.report.raises is not None
        return not self.suggestion.undecided and not raised and new.issuperset(self.stays)

    def _line(self) -> str:
        return self.to_text().partition("\n")[0]

    def _rendered(self, form: str) -> str:
        return rendered("render_fixed", form, self)
