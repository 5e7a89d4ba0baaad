"""What the arrays of a run are called: as numpy's, to whoever asks."""

from __future__ import annotations

import numpy as np


class ArrayKind(type(np.ndarray)):  # type: ignore[misc]
    """A class that equals numpy's and is called like it: `ndarray` where code asks, `numpy.ndarray` in errors of C."""

    def __init__(cls, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        type.__dict__["__name__"].__set__(cls, "numpy.ndarray")
        cls.__qualname__, cls.__module__ = np.ndarray.__qualname__, np.ndarray.__module__

    @property
    def __name__(cls) -> str:
        return np.ndarray.__name__

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is np.ndarray

    def __hash__(cls) -> int:
        return hash(np.ndarray)
