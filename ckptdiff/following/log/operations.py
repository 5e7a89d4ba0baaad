"""What is known of torch's operations: which may be noted and carried out later, and where their results come from.

Only those stand here whose result's shape and whose errors follow from the shapes and dtypes of their inputs. All
others are carried out at once, on real values, so that what they return and raise is torch's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from ckptdiff.following.log.collectives import is_collective
from ckptdiff.following.log.memory import is_flat
from ckptdiff.torch_private import schema_of

Function = Callable[..., object]
"""An operation, `torch.ops.aten.add.Tensor` say."""
Args = tuple[object, ...]
Kwargs = dict[str, object]
"""What it is called with, and by name."""
Kind = Literal["copy", "fill", "clone", "cat", "pointwise", "whole", "nothing", "view", "placing", "other"]
"""How an operation's result comes from its inputs: element by element as it stands (`copy`, `clone`, `cat`), element
by element computed (`pointwise`), all of it from all of them (`whole`), not at all (`fill`; `nothing`: from the shape
alone); `view` gives another view of its input; `placing` puts elements where indices say; `other` is not known."""

DATA = frozenset(("self", "values", "src", "source", "input", "tensor", "weight", "other", "value"))
"""The arguments of a `placing` operation whose elements it places; the others say where."""
_PLACING = frozenset((
    "index", "index_select", "gather", "take", "flip", "roll", "masked_fill", "masked_scatter", "scatter", "index_copy",
    "index_put", "index_fill", "repeat", "repeat_interleave", "tril", "triu", "constant_pad_nd", "embedding", "where",
    "put", "take_along_dim", "rot90", "_index_put_impl", "masked_select", "diag_embed",
))  # fmt: skip

_POINTWISE = (
    "add", "sub", "rsub", "mul", "div", "true_divide", "neg", "abs", "sign", "sqrt", "rsqrt", "square", "reciprocal",
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tanh", "sigmoid", "relu", "erf", "erfinv",
    "clamp", "clamp_min", "clamp_max", "lerp", "addcmul", "addcdiv", "maximum", "minimum", "floor", "ceil", "round",
    "trunc", "sgn", "pow",
)  # fmt: skip
_TELLING = (
    "eq", "ne", "lt", "le", "gt", "ge", "isnan", "logical_and", "logical_or", "logical_xor", "logical_not",
    "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "__and__", "__or__", "__xor__",
)  # fmt: skip
"""Those done element by element whose results say which elements are meant: they are carried out at once."""
COMPARING = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "isnan"))
_PICKING = frozenset((
    "maximum.default", "minimum.default", "fmax.default", "fmin.default", "clamp.Tensor", "clamp_min.Tensor",
    "clamp_max.Tensor",
))  # fmt: skip
_WHOLE = ("mm", "bmm", "addmm", "baddbmm", "sum", "mean", "amax", "amin", "linalg_vector_norm", "outer")
_CLONES = ("clone", "_to_copy", "lift_fresh_copy", "contiguous")
_SHAPE_ONLY = (
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_empty",
    "new_zeros", "new_ones", "new_full", "new_empty_strided", "is_same_size",
)  # fmt: skip
_RANDOM_FILLS = (
    "normal_", "uniform_", "random_", "exponential_", "log_normal_", "cauchy_", "geometric_", "bernoulli_",
)  # fmt: skip

_MAKERS = frozenset(
    ("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
)
_DRAWING = {
    "rand.default": torch.ops.aten.uniform_.default,
    "randn.default": torch.ops.aten.normal_.default,
    "rand_like.default": torch.ops.aten.uniform_.default,
    "randn_like.default": torch.ops.aten.normal_.default,
}

HIDDEN_WRITES = {
    "native_batch_norm": (3, 4, 5), "cudnn_batch_norm": (3, 4, 5), "miopen_batch_norm": (3, 4, 5),
}  # fmt: skip
"""Arguments that an operation writes to though its schema is silent; the last one says whether it does."""

_STEPS = {
    "to_copy": "cast", "cat": "concat", "mm": "matmul", "bmm": "matmul", "addmm": "matmul", "addbmm": "matmul",
    "baddbmm": "matmul", "addmv": "matmul", "mv": "matmul", "rsub": "sub", "true_divide": "div", "sgn": "sign",
    "clamp_min": "clamp", "clamp_max": "clamp", "addcmul": "add", "addcdiv": "add", "vector_norm": "norm",
    "matrix_norm": "norm", "weight_norm_interface": "weight_norm", "index_put_impl": "index_put",
    "cdist_forward": "cdist", "convolution": "conv", "slow_conv2d_forward": "conv", "to_dense": "dense",
    "unique2": "unique", "local_scalar_dense": "item", "unsafe_index": "index", "unsafe_index_put": "index_put",
    "embedding_bag_forward_only": "embedding_bag", "index_copy": "index_copy",
}  # fmt: skip
"""What an operation is called among the steps between a file and a model, where not by its own name."""
_FAMILIES = (
    (re.compile(r"upsample_\w+"), "interpolate"),
    (re.compile(r"(constant|reflection|replication)_pad\w*"), "pad"),
    (re.compile(r"fft_\w+"), "fft"),
    (re.compile(r"(mkldnn_|cudnn_|slow_|thnn_|miopen_)?conv(olution|_\w+|\d\w*)?"), "conv"),
)
_INSIDE = re.compile(r"^(?:_+|native_|linalg_)+|(?:_ex|_impl|_copy)?_*$")
"""What operations have in their names that are inside of torch."""


def step_of(name: str) -> str:
    """An operation by the field's word for it: `pad` for `constant_pad_nd`."""
    if name.startswith("_foreach_"):
        name = name.removeprefix("_foreach_")
    word = _STEPS.get(name.strip("_"))
    if word is None:
        plain = _INSIDE.sub("", name) or name
        word = _STEPS.get(plain) or next((word for family, word in _FAMILIES if family.fullmatch(plain)), plain)
    return word


_NO_STEP = frozenset(("copy", "clone", "contiguous", "lift_fresh_copy", "fill", "zero"))


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of one overload of one operation."""

    name: str
    kind: Kind
    written: tuple[tuple[int, str], ...]
    """Position and name of every argument it writes to."""
    random: bool
    moves_storage: bool
    """Whether it may give a tensor another storage, or its storage another size."""
    looks: bool
    """Whether it hands a value to Python."""
    makes: bool
    """Whether it makes a tensor from a shape alone, filled with one value."""
    fill: Function | None
    """The operation that draws in place what this one draws into a new tensor; None for any other."""
    picks: bool
    """Whether each element of its result is one of those at its place, the largest say."""

    @property
    def step(self) -> str:
        return "" if self.name.rstrip("_") in _NO_STEP else step_of(self.name)


@cache
def traits(function: Any) -> Traits:
    """What is known of an operation, `torch.ops.aten.add.Tensor` say."""
    schema = schema_of(function)
    name = schema.name.partition("::")[2]
    written = tuple(
        (position, argument.name)
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    if not written and name.endswith("_") and is_collective(function):  # whose schemas are silent
        written = ((0, schema.arguments[0].name),)
    tags = function.tags
    return Traits(
        name,
        _kind(function, name, written),
        written,
        torch.Tag.nondeterministic_seeded in tags,
        torch.Tag.inplace_view in tags or name in ("resize_", "set_", "resize_as_", "set_data"),
        torch.Tag.data_dependent_output in tags or name in ("equal", "allclose", "is_nonzero"),
        schema.name.partition("::")[0] == "aten" and not written and name in _MAKERS,
        _DRAWING.get(str(function).removeprefix("aten.")),
        f"{name.rstrip('_')}.{schema.overload_name or 'default'}" in _PICKING,
    )


def _kind(function: Function, name: str, written: tuple[tuple[int, str], ...]) -> Kind:
    schema = schema_of(function)
    if schema.name.partition("::")[0] != "aten":
        return "other"
    if name == "copy_":
        return "copy"
    if name in ("fill_", "zero_") or name in _RANDOM_FILLS:
        return "fill"
    if name == "_unsafe_view" or any(
        result.alias_info is not None and not result.alias_info.is_write for result in schema.returns
    ):
        return "view"
    if name in _SHAPE_ONLY:
        return "nothing"
    if any(argument.name in ("out",) for argument in schema.arguments if argument.alias_info is not None):
        return "other"
    if len(written) > 1 or len(schema.returns) != 1 or str(schema.returns[0].type) != "Tensor":
        return "other"
    base = name.rstrip("_") if written else name
    if base in _PLACING:
        return "placing"
    if base in _POINTWISE or base in _TELLING or base in ("fmax", "fmin"):
        return "pointwise"
    if written:
        return "other"
    if name in _CLONES:
        return "clone"
    if name in ("cat", "stack"):
        return "cat"
    return "whole" if name in _WHOLE else "other"


def draws_into(function: object) -> bool:
    """Whether an operation fills the tensor it is given with random numbers, whatever the tensor held."""
    known = traits(function)
    return known.random and known.kind == "fill" and len(known.written) == 1


def may_be_noted(known: Traits, tensors: list[torch.Tensor]) -> bool:
    """Whether carrying out an operation later gives the same as now, errors included."""
    if known.kind in ("other", "view", "nothing", "placing") or known.random or known.name.rstrip("_") in _TELLING:
        return False
    if any(
        not is_flat(tensor)
        or tensor.is_nested
        or tensor.device.type != "cpu"
        or tensor.is_conj()
        or tensor.is_neg()
        or tensor.is_quantized
        for tensor in tensors
    ):
        return False
    if known.kind in ("copy", "fill", "clone", "cat"):
        return True
    # float8 and the like have few kernels, integers raise where they are divided or sent through floating functions.
    dtypes = {tensor.dtype for tensor in tensors}
    if not dtypes <= _ORDINARY:
        return False
    return known.kind != "whole" or len(dtypes) == 1


_ORDINARY = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))


def on_meta(function: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object]) -> torch.Tensor:
    """The shape, stride and dtype of an operation's result, as a tensor on the meta device."""
    if len(args) == 1 or (len(args) == 2 and type(args[1]) is int):
        joined = _joined_alike(traits(function).name, args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0))
        if joined is not None:
            return joined
    result: torch.Tensor = function(*map(_twin, args), **{name: _twin(item) for name, item in kwargs.items()})
    return result


def _joined_alike(name: str, tensors: Any, dim: object) -> torch.Tensor | None:
    """What `stack` and `cat` make of tensors that are all alike, of which a model has many; None for any others."""
    if name not in ("stack", "cat") or type(dim) is not int or type(tensors) not in (list, tuple) or not tensors:
        return None
    first = tensors[0]
    if not isinstance(first, torch.Tensor) or not 1 <= first.dim() <= 2 or not first.numel():
        return None
    size, dtype = first.size(), first.dtype
    stacked = name == "stack"
    rank = len(size) + stacked
    if not -rank <= dim < rank or any(
        tensor.size() != size or tensor.dtype != dtype or not tensor.is_contiguous() for tensor in tensors
    ):
        return None
    made = list(size)
    if stacked:
        made.insert(dim % rank, len(tensors))
    else:
        made[dim] *= len(tensors)
    return torch.empty(made, dtype=dtype, device="meta")


def _twin(argument: Any) -> object:
    if isinstance(argument, torch.Tensor):
        return torch.empty_strided(argument.size(), argument.stride(), dtype=argument.dtype, device="meta")
    if type(argument) in (list, tuple):
        return type(argument)(map(_twin, argument))
    return torch.device("meta") if isinstance(argument, torch.device) else argument
