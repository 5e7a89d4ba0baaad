"""From a plan to files and bytes: which tensors share memory, where their bytes come from, what each file holds.

Nothing here reads more than headers, so that `--dry-run` can show all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.pieces import Piece, extent, piece
from ckptdiff.errors import CheckpointError, UsageError
from ckptdiff.spelling import option
from ckptdiff.tensors import DTYPES, TensorInfo
from ckptdiff.writing.adaptations import DEQUANTIZE
from ckptdiff.writing.plan import FilterPlan, Keep
from ckptdiff.writing.steps import JOINS, Shape, Step, along, of_pieces, view

Shared = Literal["drop", "copy"]

DEFAULT_SHARD_SIZE = 5_000_000_000
"""What the Hugging Face libraries take when nothing is said."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_PLAIN_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the bytes of one block come about: tensors of the input, steps, a dtype; or a value of the model's.

    `keys` are the checkpoint's keys the tensors belong to, for state dicts in memory.
    """

    dtype: str
    shape: Shape
    tensors: tuple[TensorInfo, ...] = ()
    keys: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    fill: str = ""
    """The model's key whose initial value this is."""

    @property
    def nbytes(self) -> int:
        return TensorInfo(self.dtype, self.shape).nbytes


@dataclass(frozen=True, slots=True)
class Member:
    """One tensor in a block: its key and how it lies there, in elements; `stride` None for contiguous."""

    keep: Keep
    offset: int = 0
    stride: Shape | None = None
    parameter: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes written once, and the tensors that lie in them: several where they share memory.

    `ranges` are the input's bytes, one after the other, where no value changes; None where they must be computed.
    """

    recipe: Recipe
    members: tuple[Member, ...]
    ranges: tuple[Piece, ...] | None

    @property
    def nbytes(self) -> int:
        return self.recipe.nbytes


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file: its name in the output directory ("" for the output itself) and its blocks, in order."""

    name: str
    blocks: tuple[Block, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(block.nbytes for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole output. `aliases` maps tied keys that are written only under another name to that name."""

    plan: FilterPlan
    files: tuple[OutputFile, ...]
    directory: bool = False
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def written(self) -> tuple[str, ...]:
        """The keys of the tensors that the output holds, in the plan's order."""
        left_out = dict(self.aliases)
        return tuple(item.key for item in self.plan.tensors if item.key not in left_out)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, shared ones counted once."""
        return sum(file.nbytes for file in self.files)

    @property
    def blocks(self) -> Iterator[Block]:
        return (block for file in self.files for block in file.blocks)

    @property
    def copied(self) -> int:
        """Bytes that are copied as they are."""
        return sum(block.nbytes for block in self.blocks if block.ranges is not None)


def lay_out(plan: FilterPlan, *, directory: bool = False, shared: Shared | None = None, shard_size: int = 0) -> Layout:
    """The files of a plan's output.

    `shared` says what becomes of tied tensors in safetensors, which cannot hold them: `drop` writes the first by name
    and records the others in the metadata, as `safetensors.torch.save_model` does; `copy` writes each. By default each
    is written where there is a model, whose `load_state_dict` asks for every name, and else the first; never is one
    dropped that the model does not tie.
    `shard_size` is in bytes, 0 for the usual.

    Raises CheckpointError for a tensor that cannot be written.
    """
    recipes = {item.key: _recipe(plan, item) for item in plan.tensors}
    if plan.format == "torch":
        return Layout(plan, (OutputFile("", tuple(_tied_blocks(plan, recipes))),))
    _check_safetensors(plan)
    aliases: dict[str, str] = {}
    if (shared or ("drop" if plan.tree is None else "copy")) == "drop":
        aliases = _aliases(plan, recipes)
    blocks = [_block(plan, item, recipes[item.key]) for item in plan.tensors if item.key not in aliases]
    if not directory:
        # Wide elements first, so that each tensor begins at a multiple of its own element, as the library has it.
        blocks.sort(key=lambda block: -DTYPES[block.recipe.dtype].bits)
        return Layout(plan, (OutputFile("", tuple(blocks)),), aliases=tuple(aliases.items()))
    return Layout(plan, tuple(_shards(blocks, shard_size or DEFAULT_SHARD_SIZE)), True, tuple(aliases.items()))


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """`5GB`, `500MB`, `2GiB` or a number of bytes. Raises UsageError."""
    amount = _SIZE.fullmatch(text)
    size = 0
    if amount:
        number, unit, binary = amount.groups()
        size = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))
    if size < 1:
        raise UsageError(f"{text!r} is no size", "Write it like 5GB, 500MB or 2GiB.")
    return size


def _shards(blocks: Sequence[Block], size: int) -> Iterator[OutputFile]:
    """In order, each shard filled as far as `size` lets; a larger tensor has a shard of its own."""
    shards: list[list[Block]] = [[]]
    filled = 0
    for block in blocks:
        if shards[-1] and filled + block.nbytes > size:
            shards.append([])
            filled = 0
        shards[-1].append(block)
        filled += block.nbytes
    for number, shard in enumerate(shards, 1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        yield OutputFile(name, tuple(sorted(shard, key=lambda block: -DTYPES[block.recipe.dtype].bits)))


def _recipe(plan: FilterPlan, item: Keep) -> Recipe:
    if item.filled:
        return Recipe(item.dtype, item.shape, fill=item.key)
    tensors = []
    for source in item.sources:
        info = plan.checkpoint.entries[source]
        assert isinstance(info, TensorInfo)
        _check_readable(plan, source, info, dequantized=bool(item.steps) and item.steps[0].name == DEQUANTIZE)
        tensors.append(info)
    if any(info.pieces for info in tensors):
        return _of_pieces(item, tensors)
    if len(tensors) == 1:
        info, steps = view(tensors[0], item.steps)
        return Recipe(item.dtype, item.shape, (info,), item.sources, steps)
    return Recipe(item.dtype, item.shape, tuple(tensors), item.sources, item.steps)


def _of_pieces(item: Keep, tensors: Sequence[TensorInfo]) -> Recipe:
    """How a block comes about of tensors that are stored in several, one behind the other in some dimension."""
    taken = [along(info) for info in tensors]
    parts = tuple(part for _, pieces in taken for part in pieces)
    keys = tuple(key for key, (_, pieces) in zip(item.sources, taken, strict=True) for _ in pieces)
    return Recipe(item.dtype, item.shape, parts, keys, of_pieces(item.steps, [(dim, len(own)) for dim, own in taken]))


def ensure_joined(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for tensors that lie in pieces, which nothing here joins."""
    if checkpoint.kind.values == "in pieces":
        raise CheckpointError(
            f"{checkpoint.path} is a distributed checkpoint, whose tensors lie in pieces",
            "Join them first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR FILE.",
        )


def _check_readable(plan: FilterPlan, key: str, info: TensorInfo, *, dequantized: bool) -> None:
    ensure_joined(plan.checkpoint)
    if info.is_meta and plan.checkpoint.live is None:
        raise CheckpointError(
            f"{plan.checkpoint.path}: the tensor {key!r} is on the meta device, so the file has no values of it",
            f"Leave it out with {option('drop')}, or save the model after its weights were loaded or initialised.",
        )
    what = ""
    if info.layout != "strided":
        what = f"has the layout {info.layout}"
    elif info.type_name not in _PLAIN_TYPES:
        what = f"is a {info.type_name}"
    elif DTYPES[info.dtype].kind == "quantized" and not dequantized:
        what = f"is quantized ({info.dtype})"
    elif info.storage is None and info.numel and plan.checkpoint.live is None and along(info)[0] is None:
        what = "has no bytes in the file"
    if what:
        raise CheckpointError(
            f"{plan.checkpoint.path}: the tensor {key!r} {what}, which cannot be copied",
            f"Leave it out with {option('drop')}, or save it as a plain dense tensor.",
        )


def _check_safetensors(plan: FilterPlan) -> None:
    for item in plan.tensors:
        halves = item.dtype == "float4_e2m1fn_x2" and not item.shape  # it counts single values, and there is a pair
        if DTYPES[item.dtype].code is None or halves:
            raise CheckpointError(
                f"{plan.checkpoint.path}: the tensor {item.key!r} is {item.dtype}, which safetensors cannot hold",
                f"Write a .pth, or leave it out with {option('drop')}.",
            )
        try:
            item.key.encode()
        except UnicodeEncodeError:
            raise CheckpointError(
                f"{plan.checkpoint.path}: the key {item.key!r} is no valid text, which safetensors cannot hold",
                f"Write a .pth, or leave it out with {option('drop')}.",
            ) from None
        if item.key == "__metadata__":
            raise CheckpointError(
                f"{plan.checkpoint.path}: safetensors keeps the name '__metadata__' for itself",
                f"Write a .pth, or leave it out with {option('drop')}.",
            )


def _block(plan: FilterPlan, item: Keep, recipe: Recipe) -> Block:
    return Block(recipe, (Member(item),), _ranges(plan, recipe))


def _ranges(plan: FilterPlan, recipe: Recipe) -> tuple[Piece, ...] | None:
    """The input's bytes that are the block's, if there are such."""
    if recipe.fill or plan.checkpoint.live is not None:
        return None
    joins = recipe.steps and recipe.steps[0].name in JOINS and recipe.steps[0].numbers[0] == 0
    if len(recipe.steps) > bool(joins):
        return None
    ranges = []
    for info in recipe.tensors:
        if not info.numel:
            continue
        part = piece(info, plan.checkpoint.byteorder)
        if part is None or info.dtype != recipe.dtype:
            return None
        ranges.append(part)
    return tuple(ranges)


# Shared memory


def _aliases(plan: FilterPlan, recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """Keys of tensors that are another one, wholly: key → the key it is written under, the first by name.

    Tensors that merely overlap are written apart: nothing is lost, where the library would drop one of them.
    """
    slots = plan.tree.keys() if plan.tree is not None else {}
    groups: dict[object, list[str]] = {}
    for key, recipe in recipes.items():
        info = recipe.tensors[0] if len(recipe.tensors) == 1 and not recipe.steps else None
        if info is None or info.storage is None or not info.numel:
            continue
        target = slots[key].identity if key in slots else key if plan.tree is not None else None
        same = (info.storage.file, info.storage.id, info.offset, info.shape, info.stride, info.dtype, recipe.dtype)
        groups.setdefault((same, target), []).append(key)
    return {key: min(keys) for keys in groups.values() for key in keys if key != min(keys)}


def _tied_blocks(plan: FilterPlan, recipes: Mapping[str, Recipe]) -> Iterator[Block]:
    """Blocks for a format that keeps ties: tensors whose bytes overlap lie in one."""
    parameters = {
        key
        for key, recipe in recipes.items()
        if len(recipe.tensors) == 1 and recipe.tensors[0].type_name == "torch.nn.parameter.Parameter"
    }
    # What was cut out of a tensor on purpose stands alone.
    untouched = {item.key: recipes[item.key] for item in plan.tensors if not item.steps}
    together: dict[str, tuple[str, ...]] = {}
    for keys in (*_overlapping(untouched), *_filled_twins(plan)):
        together.update(dict.fromkeys(keys, keys))
    items = {item.key: item for item in plan.tensors}
    done: set[str] = set()
    for key, item in items.items():
        if key in done:
            continue
        keys = together.get(key, (key,))
        done.update(keys)
        recipe = recipes[key]
        members = [Member(item, 0, None, key in parameters)]
        if len(keys) > 1 and not recipe.fill:
            recipe, members = _span([items[tied] for tied in keys], recipes, parameters)
        elif len(keys) > 1:
            members = [Member(items[tied]) for tied in keys]
        yield Block(recipe, tuple(members), _ranges(plan, recipe))


def _filled_twins(plan: FilterPlan) -> list[tuple[str, ...]]:
    """Filled keys that are one parameter of the model."""
    slots = plan.tree.keys() if plan.tree is not None else {}
    groups: dict[int, list[str]] = {}
    for key in plan.filled:
        groups.setdefault(slots[key].identity, []).append(key)
    return [tuple(keys) for keys in groups.values() if len(keys) > 1]


def _overlapping(recipes: Mapping[str, Recipe]) -> Iterator[tuple[str, ...]]:
    """Groups of keys whose tensors overlap in a storage, in order; only those that are copied or converted alike."""
    storages: dict[object, list[tuple[int, int, str]]] = {}
    for key, recipe in recipes.items():
        info = recipe.tensors[0] if len(recipe.tensors) == 1 and not recipe.steps else None
        if info is not None and info.storage is not None and info.numel:
            storage = (info.storage.file, info.storage.id, info.dtype, recipe.dtype)
            storages.setdefault(storage, []).append((*extent(info), key))
    order = {key: place for place, key in enumerate(recipes)}
    for spans in storages.values():
        if len(spans) < 2:
            continue
        group: list[str] = []
        reach = -1
        for start, end, key in (*sorted(spans), (1 << 63, 0, "")):
            if start >= reach:
                if len(group) > 1:
                    yield tuple(sorted(group, key=order.__getitem__))
                group = []
            group.append(key)
            reach = max(reach, end)


def _span(items: Sequence[Keep], recipes: Mapping[str, Recipe], parameters: set[str]) -> tuple[Recipe, list[Member]]:
    """One stretch of a storage, and the tensors in it as they lie there."""
    infos = [recipes[item.key].tensors[0] for item in items]
    start = min(extent(info)[0] for info in infos)
    end = max(extent(info)[1] for info in infos)
    whole = infos[0]._replace(shape=(end - start,), stride=None, offset=start)
    members = [
        Member(item, info.offset - start, info.stride, item.key in parameters)
        for item, info in zip(items, infos, strict=True)
    ]
    first = recipes[items[0].key]
    return Recipe(first.dtype, (end - start,), (whole,), first.keys), members
