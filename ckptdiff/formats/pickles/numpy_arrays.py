"""Arrays of numpy in a pickle, as inert values."""

from __future__ import annotations

from ckptdiff.formats.pickles.stand_ins import Global, Instance

# numpy's type codes: as numpy.dtype is pickled (`f8`) and the torch dtype torch.from_numpy gives.
_NUMPY_NAMES = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u8": "uint64",
    "u4": "uint32",
    "u2": "uint16",
    "u1": "uint8",
    "b1": "bool",
    "c8": "complex64",
    "c16": "complex128",
}


def array_shape_and_dtype(value: object) -> tuple[tuple[int, ...], str] | None:
    """Shape and dtype of a pickled numpy array, None for anything else or another dtype.

    numpy pickles an array as `_reconstruct(ndarray, (0,), b'b')` with the state (version, shape, dtype, fortran, data),
    and with protocol 5 as `_frombuffer(buffer, dtype, shape, order)`.
    """
    if type(value) is not Instance or type(value.cls) is not Global:
        return None
    if value.cls.name == "_reconstruct" and type(value.state) is tuple and len(value.state) == 5:
        shape, dtype = value.state[1], value.state[2]
    elif value.cls.name == "_frombuffer" and type(value.args) is tuple and len(value.args) == 4:
        shape, dtype = value.args[2], value.args[1]
    else:
        return None
    return (shape, numpy_dtype(dtype)) if type(shape) is tuple else None


def numpy_dtype(value: object) -> str:
    """The name of a pickled `numpy.dtype`, "object" where torch has no such dtype."""
    if type(value) is Instance and type(value.args) is tuple and value.args and type(value.args[0]) is str:
        return _NUMPY_NAMES.get(value.args[0], "object")
    return "object"
