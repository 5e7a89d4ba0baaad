"""What torch does with one tensor of an unusual kind: found by having it done, on copies or on something small."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckptdiff.errors import words_of
from ckptdiff.loaders.outcome import Raised
from ckptdiff.loaders.torch.given_values import PLAIN_NAMES, copied, empty_quantized
from ckptdiff.loaders.torch.meta_warnings import no_meta_warning
from ckptdiff.loaders.torch.shadows import is_plain, twin
from ckptdiff.model.extract import class_name, registered
from ckptdiff.model.tree import Slot
from ckptdiff.tensors import DTYPES, TensorInfo
from ckptdiff.torch_private import BASE_LOADER, own_buffers, own_parameters, reference_count


class Unknown(Exception):  # noqa: N818 - not an error but a sentence for the user
    """What torch would do cannot be found out; the text is a sentence that says why.

    `decides` says that copying may as well raise: nearly every class refuses to be copied into a plain tensor.
    """

    def __init__(self, why: str, *, decides: bool = False) -> None:
        super().__init__(why)
        self.decides = decides


def swaps_tensors() -> bool:
    """Whether torch is told to replace parameters on loading, not to copy into them."""
    return torch.__future__.get_swap_module_params_on_conversion()


def target_of(module: nn.Module, name: str, slot: Slot) -> torch.Tensor | None:
    """The parameter or buffer of a module that a slot describes, or None where a hook made another."""
    target: torch.Tensor | None = registered(module, name)
    if target is None or is_lazy(target) != slot.lazy:
        return None
    return target if slot.lazy or not slot.ordinary or tuple(target.shape) == slot.tensor.shape else None


def try_loading(
    prefix: str, name: str, entry: TensorInfo, slot: Slot, source: Any, target: Any, *, assign: bool, on_meta: bool
) -> list[str]:
    """The errors torch reports on loading one tensor into one parameter or buffer, in its own words.

    `source` and `target` are the values themselves where there are any, and are not touched. Otherwise, tensors of the
    same kind and of the same or a smaller size stand in. `on_meta` says whether the model's tensor is on the meta
    device in truth, and not only because it was built there: nearly everything can be copied into one that is. Raises
    Raised where torch raises out of the loader, Unknown where nothing can stand in.
    """
    absent = source is None or (isinstance(source, torch.Tensor) and source.is_meta and is_plain(source))
    valueless = absent or (assign and is_plain(source))
    plain = target is None or is_plain(target)
    small = valueless and plain and entry.shape == slot.tensor.shape
    made = _aliased(source, target) if slot.ordinary and not absent and target is not None else None
    if made is not None:
        source, target = made
    else:
        original = target
        if plain:
            target = _stand_in(slot.tensor, small, "meta" if on_meta else "cpu")
            if slot.kind == "parameter":
                target = nn.Parameter(target, requires_grad=slot.requires_grad)
        else:
            target = _copied_target(target)
        if small or source is None:
            valueless = entry.is_meta if source is None else source.is_meta
            source = _stand_in(entry, small, "meta" if valueless else "cpu")
        else:
            source = copied(source, real=True)
        if swaps_tensors() and original is not None:
            return _tried(prefix, name, source, target, slot, assign, entry if small else None, original)
    return _tried(prefix, name, source, target, slot, assign, entry if small else None, None)


def _tried(
    prefix: str,
    name: str,
    source: object,
    target: torch.Tensor,
    slot: Slot,
    assign: bool,
    small: TensorInfo | None,
    original: Any,
) -> list[str]:
    holder = nn.Module()
    members = own_parameters(holder) if slot.kind == "parameter" else own_buffers(holder)
    members[name] = target
    # torch refuses to swap a tensor that something else refers to.
    watched = weakref.ref(target) if original is not None and weakref.getweakrefs(original) else None
    if original is not None and watched is None and reference_count(original) > 1:
        raise Unknown("whether torch can swap a tensor that something else refers to is only known when it does.")
    errors: list[str] = []
    with no_meta_warning():
        arguments: Any = ({prefix + name: source}, prefix, {"assign_to_params_buffers": assign}, True, [], [], errors)
        try:
            BASE_LOADER(holder, *arguments)
        except Exception as error:
            raise Raised(words_of(error)) from error
    if small is not None:
        sizes = torch.Size(min(size, 2) for size in slot.tensor.shape)
        text = "whose dimensions in the model are {} and whose dimensions in the checkpoint are {}, an exception"
        true = text.format(torch.Size(slot.tensor.shape), torch.Size(small.shape))
        errors = [error.replace(text.format(sizes, sizes), true, 1) for error in errors]
    return errors


def _copied_target(target: torch.Tensor) -> torch.Tensor:
    try:
        return twin(target, real=True)
    except Exception as error:
        raise Unknown(f"a {class_name(type(target))} cannot be copied to try it: {error}") from error


def _aliased(source: object, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Copies of two plain tensors in one memory, if that is how they are: torch refuses to copy where they overlap."""
    if not (isinstance(source, torch.Tensor) and is_plain(source) and is_plain(target)):
        return None
    if source.is_meta or target.is_meta:
        return None
    if source.untyped_storage().data_ptr() != target.untyped_storage().data_ptr() or not source.numel():
        return None
    memory = target.untyped_storage().clone()  # type: ignore[no-untyped-call]
    views = []
    for tensor in (source, target):
        view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        views.append(view.set_(memory, tensor.storage_offset(), tensor.size(), tensor.stride()))
    return views[0], views[1]


def overlap(source: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether two tensors share memory without being the same elements in the same order."""
    if source is target or source.is_meta or target.is_meta:
        return False
    if source.untyped_storage().data_ptr() != target.untyped_storage().data_ptr():
        return False
    return (source.storage_offset(), source.stride(), source.dtype) != (
        target.storage_offset(), target.stride(), target.dtype,
    )  # fmt: skip


def _stand_in(info: TensorInfo, small: bool, device: str) -> torch.Tensor:
    """A tensor of the same kind with arbitrary values; if `small`, of at most two elements in each direction."""
    shape = tuple(min(size, 2) for size in info.shape) if small else info.shape
    dtype = getattr(torch, info.dtype, None)
    if dtype is None:
        raise Unknown(f"the installed torch has no dtype {info.dtype}.")
    if info.type_name not in PLAIN_NAMES:
        raise Unknown(f"how a {info.type_name} is copied only its own class knows.", decides=True)
    stride = info.stride and _stride(info, shape)
    if DTYPES[info.dtype].kind == "quantized":
        made = empty_quantized(info._replace(shape=shape), info.quantizer, [], device)
        if stride is None:
            return made
        count = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        memory = torch.empty(count * made.itemsize, dtype=torch.uint8, device=device).untyped_storage()
        return made.set_(memory, 0, shape, stride)
    if info.layout == "nested":
        return torch.nested.nested_tensor([torch.empty((1,) * (len(shape) - 1), dtype=dtype, device=device)])
    if info.layout == "sparse_coo":
        split = info.parts[0].shape[0] if info.parts and info.parts[0].shape else len(shape)
        indices = torch.empty((split, 0), dtype=torch.int64, device=device)
        empty = torch.empty((0, *shape[split:]), dtype=dtype, device=device)
        return torch.sparse_coo_tensor(indices, empty, shape, device=device)
    if info.layout != "strided":
        raise Unknown(f"how a tensor of layout {info.layout} is copied is not known.")
    if stride is None:
        return torch.empty(shape, dtype=dtype, device=device)
    if 0 in stride:
        single = [1 if step == 0 else size for size, step in zip(shape, stride, strict=True)]
        return torch.empty(single, dtype=dtype, device=device).expand(shape)
    return torch.empty_strided(shape, stride, dtype=dtype, device=device)


def _stride(info: TensorInfo, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides for a smaller shape that are in the same order as those of a tensor, with gaps where it has any."""
    strides = info.stride
    assert strides is not None
    if shape == info.shape:
        return strides
    order = sorted(range(len(shape)), key=lambda i: (strides[i], info.shape[i]))
    made = [0] * len(shape)
    step = true_step = 1
    for dimension in order:
        if strides[dimension] == 0:
            continue
        if info.shape[dimension] > 1 and strides[dimension] != true_step:
            step *= 2
        made[dimension] = step
        step *= shape[dimension]
        true_step = strides[dimension] * info.shape[dimension]
    return tuple(made)
