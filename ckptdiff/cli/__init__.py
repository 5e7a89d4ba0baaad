"""The command line: the only place that touches streams, exit codes and the environment."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import ckptdiff.torch_import  # noqa: F401 - for what it does
from ckptdiff.cli.flags import flags_here
from ckptdiff.cli.streams import emit, hush, option, report_error, show
from ckptdiff.errors import CkptdiffError
from ckptdiff.render.escape import lines
from ckptdiff.spelling import spelled

NO_ANSWER, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 yes, 1 no, 2 no answer, 130 interrupted.

    Whatever happens in a command ends here, code of the user's that calls `sys.exit` included.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from ckptdiff.cli.app import run

        with spelled(flags_here()):
            return run(given)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        hush(sys.stdout)
        return NO_ANSWER
    except BaseException as error:
        _debug()
        from ckptdiff.running.apart import failed

        return _fail(failed(error), given)


def _debug() -> None:
    if os.environ.get("CKPTDIFF_DEBUG") == "1":
        import traceback

        show("\n".join(lines(traceback.format_exc())))


def _fail(error: CkptdiffError, arguments: list[str]) -> int:
    """Tell an error where the format asks for it."""
    report_error(error, option(arguments, "--color"))
    if option(arguments, "--format") == "json":
        from ckptdiff.render import json

        with contextlib.suppress(CkptdiffError):  # standard output is what failed; standard error has been told
            emit(json.error(error))
    return NO_ANSWER
