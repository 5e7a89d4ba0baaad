"""The globals that ordinary checkpoints name. Whatever else a pickle names is reported as unsafe.

"Ordinary" means: `torch.load(weights_only=True)` takes it, or it is inert data of the standard library, numpy or torch,
which torch refuses all the same. Nothing named is ever imported here, safe or not; the lists only decide what the user
is told.
"""

from __future__ import annotations

from collections.abc import Iterable

from ckptdiff.formats.pickles.constructors import BUILDERS, STORAGE_DTYPES
from ckptdiff.formats.pickles.stand_ins import Global
from ckptdiff.tensors import DTYPES

_BUILTINS = ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object", "range", "slice", "str", "tuple")

PLAIN = frozenset(
    (
        *(f"builtins.{name}" for name in _BUILTINS),
        "torch._tensor.Tensor",
        "torch._utils._rebuild_xla_tensor",
        "torch.tensor._rebuild_from_type_v2",
        "torch.autograd.variable.Variable",
        "torch.Generator",
        "torch.nn.parameter.Buffer",
        "torch.nn.parameter.UninitializedParameter",
        "torch.nn.parameter.UninitializedBuffer",
        "torch.storage._load_from_bytes",
        "collections.defaultdict",
        "collections.deque",
        "copyreg._reconstructor",
        "copyreg.__newobj__",
        "copyreg.__newobj_ex__",
        "argparse.Namespace",
        "datetime.date",
        "datetime.datetime",
        "datetime.time",
        "datetime.timedelta",
        "datetime.timezone",
        "decimal.Decimal",
        "fractions.Fraction",
        "uuid.UUID",
        "types.SimpleNamespace",
        "_io.BytesIO",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib.PurePath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.numeric._frombuffer",
        "numpy._core.numeric._frombuffer",
    )
)
"""Inert data that no release of torch takes of itself (torch/_weights_only_unpickler.py, _get_allowed_globals)."""

ORDINARY = PLAIN | frozenset(
    (
        *BUILDERS,
        *(f"torch.{name}" for name in DTYPES),
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "torch.device",
        "torch.Tensor",
        "torch._utils._rebuild_nested_tensor",
        "torch.per_tensor_affine",
        "torch.per_tensor_symmetric",
        "torch.per_channel_affine",
        "torch.per_channel_symmetric",
        "torch.per_channel_affine_float_qparams",
    )
)
_TENSOR_TYPES = frozenset(
    f"{prefix}{name[:-7]}{kind}"
    for prefix in ("", "cuda.", "sparse.", "cuda.sparse.")
    for name in STORAGE_DTYPES
    for kind in ("Storage", "Tensor")
)
# TorchScript's own classes, and the inert records of torch.distributed.checkpoint.
_OWN_CODE = ("__torch__.", "torch.jit._pickle.", "torch.distributed.checkpoint.metadata.",
             "torch.distributed.checkpoint.filesystem.")  # fmt: skip


def unsafe(named: Iterable[Global]) -> tuple[str, ...]:
    """Dotted names of the globals outside the ordinary set, each once, in order."""
    return tuple(
        item.path
        for item in named
        if item.path not in ORDINARY
        and not item.path.startswith("numpy.dtypes.")
        and not item.path.startswith(_OWN_CODE)
        and not (item.module in ("torch", "torch.storage", "torch.cuda") and item.name in STORAGE_DTYPES)
        and not (item.module.split(".")[0] == "torch" and item.path[len("torch.") :] in _TENSOR_TYPES)
    )


def plain(named: Iterable[Global]) -> tuple[str, ...]:
    """Dotted names of the globals that only make inert data and that `torch.load` refuses, each once, in order."""
    return tuple(item.path for item in named if item.path in PLAIN or item.path.startswith("numpy.dtypes."))
