"""numpy arrays that files give."""

from __future__ import annotations

import numpy as np

from ckptdiff.following.arrays.array import Array
from ckptdiff.following.arrays.array_memory import all_labels, note
from ckptdiff.following.origins.labels import Origin
from ckptdiff.following.readers.named_files import STREAM, Files
from ckptdiff.following.readers.recognising import recognised_array


def from_file(files: Files, array: np.ndarray, file: str, key: str) -> np.ndarray:
    """An array that a file gave under a key ("" for the only one); one that the code had written there itself comes
    from where it did before."""
    if (file == STREAM or files.wrote(file)) and array.dtype.kind in "biufc":
        again = recognised_array(files, array)
        if again is None and file == STREAM:
            files.engine.looked[STREAM, ""] = None
        return array if again is None else again
    made = array.view(Array)
    made.engine = files.engine  # type: ignore[attr-defined]
    put(files, made, file, key)
    return made


def put(files: Files, array: np.ndarray, file: str, key: str) -> None:
    """Note that a file gave under a key what an array holds by now."""
    files.order.setdefault(file, []).append(key)
    files.engine.read[file, key] = None
    label = files.engine.labels.of(Origin(frozenset(((file, key),))))
    note(files.engine, array, [(0, array.size, label, 0)])


def noted_arrays(files: Files, value: object, file: str, path: str = "") -> object:
    """Every array in nested containers, as one that the file gave under its path."""
    if isinstance(value, Array) and not all_labels(value):  # that a library made, and read into
        put(files, value, file, path)
    if type(value) is np.ndarray and value.dtype != object:
        return from_file(files, value, file, path)
    if type(value) is np.ndarray:
        for place in np.ndindex(value.shape):
            at = "/".join(map(str, place))
            value[place] = noted_arrays(files, value[place], file, f"{path}/{at}".strip("/"))
    elif isinstance(value, dict):
        for name in list(value):
            value[name] = noted_arrays(files, value[name], file, f"{path}/{name}" if path else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            value[index] = noted_arrays(files, item, file, f"{path}/{index}" if path else str(index))
    elif type(value) is tuple:
        return tuple(
            noted_arrays(files, item, file, f"{path}/{index}" if path else str(index))
            for index, item in enumerate(value)
        )
    return value
