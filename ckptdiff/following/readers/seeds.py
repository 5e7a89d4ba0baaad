"""Random generators that code sets by what a file holds: what is drawn from then on is made of the file, too."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch

from ckptdiff.following.readers.named_files import Files
from ckptdiff.patches import Kept, Patches

_WORDS = 8
"""Numbers of a generator's state by which it is told."""


def read_seeds(patches: Patches, files: Files) -> None:
    """Seeds and states of the generators of torch, Python and numpy. (A `torch.Generator` is asked when it draws.)"""

    def noting(kept: Kept) -> Callable[..., object]:
        def setting(*args: object, **kwargs: object) -> object:
            for value in (*args, *kwargs.values()):
                _note(files, value)
            return kept.value(*args, **kwargs)

        return setting

    for function in (torch.random.manual_seed, torch.random.set_rng_state, random.Random.seed, random.Random.setstate):
        kept = Kept(None)
        kept.value = patches.function(function, noting(kept))
    if "numpy" in sys.modules:
        import numpy as np

        for name in ("seed", "default_rng"):
            kept = Kept(getattr(np.random, name))
            setting = noting(kept)
            patches.everywhere(kept, setting, in_modules=True)
            patches.attribute(np.random, name, setting)  # a module of numpy's own


def _note(files: Files, value: Any) -> None:
    """Have it known that a file's number or state tells what is drawn: the code has looked at it, as it were."""
    numbers = files.engine.numbers
    if isinstance(value, torch.Tensor):
        source = files.states.get(value.data_ptr())
    elif isinstance(value, tuple):  # of Python's generator: a version, words, and what is left of a pair
        words = value[1] if len(value) > 1 and isinstance(value[1], (list, tuple)) else ()
        found = {numbers.source_of(word) for word in islice(words, _WORDS)}
        source = None if None in found else next(iter(found), None)
    else:
        source = numbers.source_of(value)
    if source is not None:
        files.engine.looked[source] = None
