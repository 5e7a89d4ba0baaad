"""The random generators of a process, put back to where they were after code that may draw from them."""

from __future__ import annotations

import contextlib
import pickle
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch

from ckptdiff.torch_private import without_modes


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put back those of torch's, Python's and numpy's global generators from which something was drawn meanwhile.

    Who drew cannot be told, so that numbers which another thread drew meanwhile from one of these are drawn again.
    """
    with without_modes():
        before = torch.get_rng_state()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    python = random.getstate()
    numpy: Any = getattr(sys.modules.get("numpy"), "random", None)
    numpys = b"" if numpy is None else pickle.dumps(numpy.get_state())
    try:
        yield
    finally:
        with without_modes():
            if not torch.equal(before, torch.get_rng_state()):
                torch.set_rng_state(before)
            for device, state in enumerate(cuda):
                if not torch.equal(state, torch.cuda.get_rng_state(device)):
                    torch.cuda.set_rng_state(state, device)
        if random.getstate() != python:
            random.setstate(python)
        if numpy is not None and pickle.dumps(numpy.get_state()) != numpys:
            numpy.set_state(pickle.loads(numpys))  # noqa: S301 - our own
