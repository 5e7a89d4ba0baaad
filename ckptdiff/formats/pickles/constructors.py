"""Calls a pickle may name whose outcome is known without making them: one row each in `BUILDERS`.

Every builder takes the argument tuple of the call and returns an inert value; a malformed argument raises one of
the plain exceptions that the machine turns into a sentence. A builder copies nothing long: a pickle can call it a
million times on the same million elements. Facts are from torch/_utils.py, torch/_tensor.py,
torch/storage.py and the `__reduce__` methods of the standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptdiff.formats.pickles.numpy_arrays import array_shape_and_dtype
from ckptdiff.formats.pickles.stand_ins import (
    Blob,
    Collection,
    Global,
    Instance,
    Mapping,
    OddKey,
    StorageRef,
    Tensor,
)
from ckptdiff.tensors import DTYPES, Quantizer, Size

# torch/storage.py, _dtype_to_storage_type_map; UntypedStorage counts in bytes (torch/serialization.py, _load).
STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}

MAX_BYTES = 4096
"""Longer byte strings are kept as their length only: none that long says anything about a tensor."""
MAX_LOCATION = 100
MAX_SIZES = 64
_SIZE = Global("torch", "Size")
_ENCODE = Global("builtins", "bytes")
_TENSOR = Global("torch", "Tensor")


def element_size(dtype: str) -> int:
    """Bytes that storages count one element of `dtype` as (torch/_utils.py, _element_size)."""
    return max(DTYPES[dtype].bits // 8, 1)


def location_name(value: object) -> str:
    """The device in a persistent id or a call: text, a `torch.device`, or what protocol 2 of Python 2 made of text."""
    if type(value) is Instance and type(value.args) is tuple and value.args:  # torch.device("cuda", 0)
        kind, *index = value.args[:2]
        value = f"{kind}:{index[0]}" if type(kind) is str and index and type(index[0]) is int else kind
    if type(value) is bytes:
        value = str(value, "ascii", "replace")
    return value if type(value) is str and len(value) <= MAX_LOCATION else "unknown"


def dtype_name(value: object) -> str:
    """The dtype a Global such as `torch.float32` names."""
    if type(value) is Global and value.module == "torch" and value.name in DTYPES:
        return value.name
    if type(value) is Global and value.module == "torch" and value.name[-1:].isdigit():
        raise UnknowableError(f"it has the dtype torch.{value.name}, which this release of ckptdiff does not know")
    raise ValueError("not a torch dtype")


Args = tuple[object, ...]
"""Of a call that a pickle makes: anything."""


class UnknowableError(Exception):
    """What the pickle does to a tensor has an outcome that is not followed here: the message says what."""


def sizes(value: object) -> Any:
    """Sizes or strides: torch takes a list as well, as it is at this moment."""
    return tuple(value) if type(value) is Size or (type(value) is list and len(value) <= MAX_SIZES) else value


# Attributes of a tensor that say what it is. torch can set the first few; the others it refuses.
_OWN = frozenset(
    ("data", "real", "imag", "names", "grad", "requires_grad", "__class__", "__dict__", "grad_dtype",
     "volatile", "output_nr", "name", "_version", "_base", "_cdata", "_grad_fn", "grad_fn", "is_leaf", "retains_grad",
     "_has_symbolic_sizes_strides", "_python_dispatch", "T", "H", "mT", "mH", "shape", "dtype", "layout", "device",
     "itemsize", "nbytes", "ndim", "is_cpu", "is_cuda", "is_ipu", "is_maia", "is_meta", "is_mkldnn", "is_mps",
     "is_mtia", "is_nested", "is_quantized", "is_sparse", "is_sparse_csr", "is_vulkan", "is_xla", "is_xpu", "_grad",
     "_backward_hooks", "_post_accumulate_grad_hooks")
)  # fmt: skip


def _check_state(state: object) -> None:
    """`_set_obj_state` gives a tensor attributes, which here are left out: none may be one that makes it another."""
    if state is None:
        return
    if type(state) is tuple and len(state) != 2:
        raise ValueError("an invalid state")
    for part in state if type(state) is tuple else (state,):
        if not part:
            continue
        if not isinstance(part, dict):
            raise ValueError("a tensor's state that is no dict")
        for name in part:
            if type(name) is not str:
                raise ValueError("an attribute whose name is no text")
            if name in _OWN:
                raise UnknowableError(f"a tensor's state sets {name!r}")


def _layout_name(value: object) -> str:
    name = value.path if type(value) is Global else value
    if not isinstance(name, str) or not name.startswith("torch."):
        raise ValueError("not a torch layout")
    return name[len("torch.") :]


def _tensor(args: Args) -> object:
    """`_rebuild_tensor(storage, offset, size, stride)` and `_v2`, which only adds what does not concern us."""
    storage = args[0]
    if type(storage) is not StorageRef:
        if type(storage) is Instance:  # the storage, too, was made by a call: plain pickle.dump does so
            return Instance(_TENSOR, args)
        raise ValueError("a tensor without a storage")
    offset, size, stride = args[1], sizes(args[2]), sizes(args[3])
    if type(offset) is not int or type(size) is not tuple or type(stride) is not tuple:
        raise TypeError("a tensor of no sizes")
    if any(type(part) is not int for part in (*size, *stride)):
        raise TypeError("a size that is no integer")
    return Tensor(storage, storage.dtype, size, stride, offset)


def _tensor_v2(args: Args) -> object:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`."""
    tensor = _tensor(args)
    if type(tensor) is Tensor:
        tensor.requires_grad = args[4] is not False
    return _lazy(tensor, args[6] if len(args) > 6 else None)


def _lazy(tensor: object, metadata: object) -> object:
    """The metadata says whether the values are still to be conjugated or negated: then they are not in the file as
    such."""
    if not metadata:
        return tensor
    if not isinstance(metadata, dict):
        raise TypeError("metadata that is no dict")
    if type(tensor) is Tensor and any(metadata.values()):
        return Tensor(None, tensor.dtype, tensor.shape, device=_device(tensor))
    return tensor


def _tensor_v3(args: Args) -> object:
    """`_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype)` over an untyped storage."""
    tensor = _tensor(args)
    if type(tensor) is Tensor:
        tensor.dtype = dtype_name(args[6])
    return _lazy(tensor, args[7] if len(args) > 7 else None)


def _parameter(args: Args) -> object:
    if type(args[0]) is not Tensor and type(args[0]) is not Instance:
        raise TypeError("a parameter of no tensor")
    return _retyped(args[0], "torch.nn.parameter.Parameter")


def _parameter_with_state(args: Args) -> object:
    _check_state(args[3])
    return _parameter(args)


def _retyped(value: object, type_name: str) -> object:
    """A copy, since the memo may hand out the original as well."""
    if type(value) is not Tensor:
        return value
    return Tensor(
        value.storage,
        value.dtype,
        value.shape,
        value.stride,
        value.offset,
        value.layout,
        type_name,
        value.parts,
        value.device,
        value.quantizer,
    )


def _from_type_v2(args: tuple[Any, ...]) -> object:
    """`_rebuild_from_type_v2(func, new_type, args, state)`: a subclass of Tensor, or one with attributes."""
    function, new_type = args[0], args[1]
    build = function.build if type(function) is Global else None
    if type(function) is Global and function.path == "torch.nested._internal.nested_tensor._rebuild_njt":
        build = _jagged
    value = build(args[2]) if build is not None else None
    if type(value) is not Tensor or type(new_type) is not Global:
        return Instance(new_type, args)
    _check_state(args[3])
    return _retyped(value, new_type.path)


def _sparse(args: tuple[Any, ...]) -> Tensor:
    """`_rebuild_sparse_tensor(layout, data)`; coo: (indices, values, size[, coalesced]), else (compressed, plain,
    values, size)."""
    layout = _layout_name(args[0])
    data = args[1]
    if len(data) != 4 and not (layout == "sparse_coo" and len(data) == 3):
        raise ValueError("another number of parts of a sparse tensor")
    parts, size = (data[:2], sizes(data[2])) if layout == "sparse_coo" else (data[:3], sizes(data[3]))
    if not all(map(_is_dense, parts)):
        raise ValueError("a sparse tensor of no dense tensors")
    if layout == "sparse_coo":
        indices, values = parts[0].shape, parts[1].shape
        # Dimensions that have indices come first, and each value is of the shape of all others.
        if len(indices) != 2 or len(size) < indices[0] or values != (indices[1], *size[indices[0] :]):
            raise ValueError("indices or values of another shape than the sparse tensor's")
    return Tensor(None, parts[-1].dtype, size, layout=layout, parts=tuple(parts), device=_device(parts[-1]))


def _is_dense(value: object) -> bool:
    """Whether a value is a tensor that is made of no others."""
    return type(value) is Tensor and value.layout == "strided" and not value.parts


def _quantized(args: tuple[Any, ...]) -> object:
    """`_rebuild_qtensor(storage, offset, size, stride, quantizer, requires_grad, hooks)`; the quantizer is (scheme,
    scale, zero point) or (scheme, scales, zero points, axis), in old files with lists for tensors."""
    tensor = _tensor(args)
    if type(tensor) is Tensor:
        scheme, scale, zero_point, *axis = args[4]
        name = scheme.name if type(scheme) is Global and scheme.module == "torch" else ""
        if name == "per_tensor_affine" and not axis and type(scale) is float and type(zero_point) is int:
            tensor.quantizer = Quantizer(name, scale, zero_point)
        elif name in _PER_CHANNEL and len(axis) == 1 and type(axis[0]) is int:
            tensor.quantizer = Quantizer(name, axis=axis[0])
            tensor.parts = (scale, zero_point) if _is_dense(scale) and _is_dense(zero_point) else ()
        else:
            raise ValueError("an unknown quantizer")
    return tensor


_PER_CHANNEL = ("per_channel_affine", "per_channel_affine_float_qparams")


def _nested(args: tuple[Any, ...]) -> Tensor:
    """`_rebuild_nested_tensor(buffer, sizes, strides, offsets)`, with a row of sizes for each component. It has no
    shape but a number of dimensions."""
    buffer, sizes = args[0], args[1]
    if not (_is_dense(buffer) and _is_dense(sizes) and type(sizes.shape) is tuple and len(sizes.shape) == 2):
        raise ValueError("a nested tensor of no tensors")
    if type(sizes.shape[1]) is not int or not 0 <= sizes.shape[1] < 64:
        raise ValueError("a nested tensor of no sensible sizes")
    return Tensor(None, buffer.dtype, (-1,) * (1 + sizes.shape[1]), layout="nested", device=_device(buffer))


def _jagged(args: tuple[Any, ...]) -> Tensor:
    """`_rebuild_njt({"values": …, "offsets": …})`: the components one after the other in one tensor."""
    values = args[0]["values"]
    if not _is_dense(values) or type(values.shape) is not tuple:
        raise ValueError("a nested tensor of no tensors")
    return Tensor(None, values.dtype, (-1,) * (1 + len(values.shape)), layout="nested", device=_device(values))


def _device(tensor: Any) -> str:
    device: str = tensor.storage.location if tensor.storage is not None and tensor.device == "cpu" else tensor.device
    return device


def _meta(args: Args) -> Tensor:
    return Tensor(None, dtype_name(args[0]), sizes(args[1]), sizes(args[2]), device="meta")


def _wrapper_subclass(args: Args) -> Tensor:
    layout = _layout_name(args[5])
    name = args[0].path if type(args[0]) is Global else "torch.Tensor"
    size, stride = sizes(args[2]), sizes(args[3])
    return Tensor(None, dtype_name(args[1]), size, stride, args[4], layout, name, device=location_name(args[6]))


def _from_cpu_tensor(args: Args) -> object:
    """`_rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad)`."""
    data = args[0]
    if type(data) is not Tensor:
        raise ValueError("no tensor")
    return _with_dtype(data, dtype_name(args[1]), location_name(args[2]))


def _with_dtype(data: Tensor, dtype: str, device: str) -> Tensor:
    if data.dtype == dtype and data.storage is not None and device != "meta":
        moved = Tensor(*(getattr(data, name) for name in ("storage", "dtype", "shape", "stride", "offset", "layout")))
        moved.device = device
        return moved
    # `.to(dtype)` makes another tensor, whose bytes are not in the file as such.
    return Tensor(None, dtype, data.shape, device=device)


def _from_numpy(args: Args) -> Tensor:
    """`_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)`."""
    array = array_shape_and_dtype(args[0])
    if array is None:
        raise ValueError("no numpy array")
    return Tensor(None, dtype_name(args[1]), array[0], device=location_name(args[2]))


def _mapping(type_name: str, first: int = 0) -> Callable[[Args], Mapping]:
    """A dict subclass whose argument number `first` may be a mapping or an iterable of pairs."""

    def build(args: Args) -> Mapping:
        mapping = Mapping()
        mapping.type_name = type_name
        mapping.attributes = None
        if len(args) > first + 1:
            raise TypeError("a dict of two arguments")
        if len(args) > first:
            source = args[first]
            if isinstance(source, dict):
                mapping.update(source)
            elif type(source) is list:
                for key, value in source:
                    mapping[key if type(key) is str else OddKey(key)] = value
            elif source != ():
                raise TypeError("a dict of what has no pairs")
        return mapping

    return build


def _size(args: tuple[Any, ...]) -> object:
    """`torch.Size(sizes)`, which is always pickled with a tuple."""
    plain = args and type(args[0]) is tuple and all(type(size) is int for size in args[0])
    return Size(args[0]) if plain else Instance(_SIZE, args)


def _collection(type_name: str) -> Callable[[Args], Collection]:
    def build(args: Args) -> Collection:
        items = args[0] if args and type(args[0]) is list else []
        return Collection(type_name, items)

    return build


def _encode(args: Args) -> object:
    """`_codecs.encode(text, 'latin1')`: how protocol 2 writes bytes."""
    if type(args[0]) is Blob:
        return Blob("bytes", args[0].length)
    if type(args[0]) is not str:
        raise ValueError("encode of no text")
    if args[1] not in ("latin1", b"latin1"):
        return Instance(_ENCODE, args)
    return args[0].encode("latin1") if len(args[0]) <= MAX_BYTES else Blob("bytes", len(args[0]))


def _bytes(args: Args) -> object:
    return b"" if not args else args[0]


def _list(args: Args) -> object:
    return args[0] if args and type(args[0]) is list else []


def _first(args: Args) -> object:
    return args[0]


def _taking(
    build: Callable[[Args], object], least: int, most: int, gradient: int | None = None
) -> Callable[[Args], object]:
    """The builder, which takes so many arguments; that at `gradient` says whether a gradient is required."""

    def checked(args: Args) -> object:
        if not least <= len(args) <= most:
            raise TypeError("another number of arguments")
        built = build(args)
        if gradient is not None:
            required = args[gradient]
            if type(required) is not bool:
                raise TypeError("whether a gradient is required is neither true nor false")
            if required and type(built) is Tensor and DTYPES[built.dtype].kind not in ("float", "complex"):
                raise ValueError("a gradient of what has none")
        return built

    return checked


_LAYOUTS = ("torch.strided", "torch.sparse_coo", "torch.sparse_csr", "torch.sparse_csc", "torch.sparse_bsr",
            "torch.sparse_bsc", "torch._mkldnn", "torch.jagged")  # fmt: skip


def _get_layout(args: Args) -> object:
    if len(args) != 1 or args[0] not in _LAYOUTS:
        raise ValueError("an unknown layout")
    return args[0]


BUILDERS: dict[str, Callable[[Args], object]] = {
    "torch._utils._rebuild_tensor": _taking(_tensor, 4, 4),
    "torch._utils._rebuild_tensor_v2": _taking(_tensor_v2, 6, 7, 4),
    "torch._utils._rebuild_tensor_v3": _taking(_tensor_v3, 7, 8, 4),
    "torch._utils._rebuild_qtensor": _taking(_quantized, 7, 7, 5),
    "torch._utils._rebuild_parameter": _taking(_parameter, 3, 3, 1),
    "torch._utils._rebuild_parameter_with_state": _taking(_parameter_with_state, 4, 4, 1),
    "torch.nn.parameter.Parameter": _parameter,
    "torch._utils._rebuild_sparse_tensor": _taking(_sparse, 2, 2),
    "torch._utils._rebuild_nested_tensor": _nested,
    "torch._utils._rebuild_meta_tensor_no_storage": _taking(_meta, 4, 4, 3),
    "torch._utils._rebuild_wrapper_subclass": _taking(_wrapper_subclass, 8, 8, 7),
    "torch._utils._rebuild_device_tensor_from_numpy": _taking(_from_numpy, 4, 4, 3),
    "torch._utils._rebuild_xla_tensor": _taking(_from_numpy, 4, 4, 3),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _taking(_from_cpu_tensor, 4, 4, 3),
    "torch._tensor._rebuild_from_type_v2": _taking(_from_type_v2, 4, 4),
    "torch.tensor._rebuild_from_type_v2": _taking(_from_type_v2, 4, 4),
    "torch.autograd.variable.Variable": _first,
    "torch.Size": _size,
    "torch.serialization._get_layout": _get_layout,
    "collections.OrderedDict": _mapping("collections.OrderedDict"),
    "collections.defaultdict": _mapping("collections.defaultdict", 1),
    "collections.Counter": _mapping("collections.Counter"),
    "builtins.dict": _mapping("dict"),
    "builtins.set": _collection("set"),
    "builtins.frozenset": _collection("frozenset"),
    "builtins.list": _list,
    "builtins.bytes": _bytes,
    "_codecs.encode": _encode,
}
