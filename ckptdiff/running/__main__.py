"""`python -m ckptdiff.running`: a pickled (target, fail_on) on standard input → its pickled result on standard output.

For `running.cluster`, whose targets run in a Python of their own.
"""

from __future__ import annotations

import os
import pickle
import sys

from ckptdiff.running.target import run_target

if __name__ == "__main__":
    target, fail_on = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by our own process
    answer = os.dup(1)
    os.dup2(2, 1)  # standard output is for the result alone
    with os.fdopen(answer, "wb") as file:
        pickle.dump(run_target(target, fail_on), file)
    sys.stderr.flush()
    os._exit(0)  # an answer counts, whatever the model's threads and exit handlers would still do
