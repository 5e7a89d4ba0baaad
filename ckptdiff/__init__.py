"""Will these weights load into this PyTorch model? If not, exactly why, and what is the smallest repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.checkpoint.checkpoint import Checkpoint as Checkpoint
    from ckptdiff.difference.difference import Difference as Difference
    from ckptdiff.errors import CkptdiffError as CkptdiffError
    from ckptdiff.judging.report import Report as Report
    from ckptdiff.verbs.check import check as check
    from ckptdiff.verbs.compare import compare as compare
    from ckptdiff.verbs.convert import convert as convert
    from ckptdiff.verbs.diff import diff as diff
    from ckptdiff.verbs.digest import digest as digest
    from ckptdiff.verbs.filter import filter as filter  # noqa: A004 - the command's own name
    from ckptdiff.verbs.fix import fix as fix
    from ckptdiff.verbs.inspect import inspect as inspect
    from ckptdiff.verbs.load import load as load
    from ckptdiff.verbs.lock import lock as lock
    from ckptdiff.verbs.rewrite import rewrite as rewrite
    from ckptdiff.verbs.snapshot import snapshot as snapshot
    from ckptdiff.verbs.suggest import suggest as suggest
    from ckptdiff.verbs.trace import trace as trace
    from ckptdiff.verbs.verify import verify as verify

__version__ = "0.1.0"

# Names are imported when they are first used (PEP 562), so that importing the package costs nothing.
_VERBS = (
    "check", "compare", "convert", "diff", "digest", "filter", "fix", "inspect", "load", "lock", "rewrite",
    "snapshot", "suggest", "trace", "verify",
)  # fmt: skip
_PUBLIC = {
    "Checkpoint": "ckptdiff.checkpoint.checkpoint",
    "CkptdiffError": "ckptdiff.errors",
    "Difference": "ckptdiff.difference.difference",
    "Report": "ckptdiff.judging.report",
    **{verb: f"ckptdiff.verbs.{verb}" for verb in _VERBS},
}

__all__ = [
    "Checkpoint",
    "CkptdiffError",
    "Difference",
    "Report",
    "__version__",
    "check",
    "compare",
    "convert",
    "diff",
    "digest",
    "filter",
    "fix",
    "inspect",
    "load",
    "lock",
    "rewrite",
    "snapshot",
    "suggest",
    "trace",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
