"""Tensor operations between what renaming leaves over: packed, listed, transposed or squeezed on one side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ckptdiff.errors import UsageError
from ckptdiff.keys import block_of
from ckptdiff.renaming.rename_rules import RenameRule, apply_rules, escape, parse_parts
from ckptdiff.renaming.tensor_rules import TensorOp, TensorRule, parse_tensor_rule, plan_operations
from ckptdiff.suggesting.key_features import Unit
from ckptdiff.suggesting.key_patterns import SLOT, Path, Shape, slots
from ckptdiff.suggesting.pairing import Aligner
from ckptdiff.suggesting.rotary import turned
from ckptdiff.suggesting.suggestion import OperationFinding

_PACKS: dict[str, tuple[str, ...]] = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up"), "kv": ("k", "v")}
_PARTS = frozenset({"gate", "up", "down", "q", "k", "v", "o"})
_CAPTURES = "ijklm"
_TURNS = {("pairs", "halves"): "rotary_to_halves", ("halves", "pairs"): "rotary_to_pairs"}
_ORDERS = {"rotary_to_halves": "the halves", "rotary_to_pairs": "neighbouring pairs"}


@dataclass(frozen=True, slots=True)
class Recognised:
    """A finding with the keys of the checkpoint it takes and the keys of the model it makes."""

    finding: OperationFinding
    sources: tuple[str, ...]
    targets: tuple[str, ...]


def recognise(
    here: Mapping[str, Shape],
    there: Mapping[str, Shape],
    rules: Sequence[RenameRule],
    aligner: Aligner,
    fitting: Mapping[str, str],
    checkpoint: Mapping[str, Shape],
    heads: tuple[int, int] | None = None,
) -> tuple[list[Recognised], dict[str, str]]:
    """The operations that would make keys of `there`, which nothing fills, from keys of `here`, which go nowhere.

    `fitting` maps the keys of `checkpoint` that already fit, by their own name or a rename, to the model's; square
    matrices among them must be transposed where every other matrix of their block must. `heads` are the attention's,
    of queries and of keys, without which no rows are put into another order. With them come the square matrices of
    which it is not known whether they must be transposed, too.
    """
    search = _Search(dict(here), dict(there), aligner, dict(checkpoint))
    renamed = apply_rules(rules, here, strict=False).mapping
    squares, undecided = _squares(renamed, here, there, fitting, checkpoint)
    for old, new in squares.items():
        search.here[old] = search.there[new] = checkpoint[old]
    search.same_name({**renamed, **squares}, squares)
    for old, new in squares.items():
        search.here.pop(old, None)
        search.there.pop(new, None)
    if heads is not None and aligner.reordered:
        for source in aligner.sources:
            search.turned(source, heads)
    sources = [unit for unit in aligner.sources if search.free(unit, search.here)]
    targets = [unit for unit in aligner.targets if search.free(unit, search.there)]
    listed = [unit for unit in sources if unit.names & _PARTS and slots(unit.template.path)]
    for target in targets if listed else ():
        if target.names & _PARTS or "gate_up" in target.names:
            search.stacked(target, listed)
    parts = _siblings(targets)
    for source in sources if parts else ():
        search.unpacked(source, parts)
    parts = _siblings(sources)
    for target in targets if parts else ():
        search.packed(target, parts)
    return search.found, undecided


_Homes = dict[tuple[Path, str], dict[str, list[Unit]]]
"""Modules, with a role, that hold a q, k, v, gate or up: by that word."""


def _siblings(units: Sequence[Unit]) -> _Homes:
    homes: _Homes = {}
    for unit in units:
        if "norm" not in unit.names:
            for name in unit.last & {"q", "k", "v", "gate", "up"}:
                homes.setdefault((unit.module[:-1], unit.role), {}).setdefault(name, []).append(unit)
    return {home: siblings for home, siblings in homes.items() if len(siblings) > 1}


class _Search:
    def __init__(
        self, here: dict[str, Shape], there: dict[str, Shape], aligner: Aligner, whole: dict[str, Shape]
    ) -> None:
        self.here, self.there, self.aligner, self.whole = here, there, aligner, whole
        self._by_name: dict[str, list[str]] = {}
        """All keys by their last component, in their order."""
        for key in whole:
            self._by_name.setdefault(key.rpartition(".")[2], []).append(key)
        self.found: list[Recognised] = []

    @staticmethod
    def free(unit: Unit, keys: Mapping[str, Shape]) -> bool:
        return all(key in keys for key in unit.template.keys.values())

    def _take(self, texts: Sequence[str], confidence: str, reason: str) -> bool:
        """Plan the rules on what is left; keep them if every tensor they finally make is one the model lacks, and they
        take nothing of what fits."""
        rules = [parse_tensor_rule(text) for text in texts]
        try:
            plan, whole = (plan_operations(rules, self._named_so(rules, keys)) for keys in (self.here, self.whole))
            if plan != whole:
                return False
        except UsageError:
            return False
        taken = {key for operation in plan for key in operation.sources}
        final: dict[str, Shape] = {}
        for operation in plan:
            for key in operation.sources:
                final.pop(key, None)
            final.update(zip(operation.targets, operation.shapes, strict=True))
        if not final or any(self.there.get(key) != shape for key, shape in final.items()):
            return False
        sources = tuple(key for key in self.here if key in taken)
        for rule in rules:
            mine = tuple(key for operation in plan if _made_by(operation, rule) for key in operation.sources)
            self.found.append(
                Recognised(
                    OperationFinding(rule, confidence, len(mine), reason),
                    tuple(key for key in mine if key in sources),
                    tuple(sorted(final)),
                )
            )
        for key in sources:
            del self.here[key], self.whole[key]
        for key in final:
            del self.there[key]
        return True

    def _named_so(self, rules: Sequence[TensorRule], keys: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """The keys of which rules could take some, by the last components that they name."""
        last = {parse_parts(source, source)[-1] for rule in rules for source in rule.sources}
        if any(part.name for part in last):
            return keys
        return {key: keys[key] for part in last for key in self._by_name.get(part.text, ()) if key in keys}

    def same_name(self, renamed: Mapping[str, str], squares: Mapping[str, str]) -> None:
        """Transposed, squeezed or reshaped under the name renaming gives."""
        groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        for old, new in renamed.items():
            if new in self.there and old in squares:
                said = "transpose(0, 1)"
            else:
                said = _change(self.here[old], self.there[new]) if new in self.there else ""
            if said:
                source, target = _numbered(old, new)
                groups.setdefault((said, source, target), []).append((old, new))
        for (said, source, target), pairs in groups.items():
            certain = not said.startswith("reshape")
            many = f"{len(pairs)} tensors have" if len(pairs) > 1 else "the tensor has"
            reason = f"{many} the model's sizes in another arrangement"
            if pairs[0][0] in squares:
                reason = "square, it fits either way round, and every other matrix beside it is transposed"
            text = f"{said}: {source} -> {target}"
            if not self._take([text], "certain" if certain else "likely", reason):
                for old, new in pairs:
                    self._take([f"{said}: {escape(old)} -> {escape(new)}"], "likely", reason)

    def turned(self, source: Unit, heads: tuple[int, int]) -> None:
        """Queries or keys whose rows lie in another order: the one place that names and shapes give them."""
        operation = _TURNS.get(self.aligner.layouts)
        role = source.last & {"q", "k"}
        if operation is None or not turned(source) or len(role) != 1 or not self.free(source, self.here):
            return
        targets = [
            unit
            for unit in self.aligner.targets
            if unit.role == source.role
            and role <= unit.last
            and unit.template.signature() == source.template.signature()
            and self.free(unit, self.there)
            and self._near(source, unit.module)
        ]
        texts = _texts([source, targets[0]]) if len(targets) == 1 else None
        if texts is not None:
            count = heads["k" in role]
            reason = f"the other layout turns {_ORDERS[operation]} of each of {count} heads"
            self._take([f"{operation}({count}): {texts[0]} -> {texts[1]}"], "certain", reason)

    def _near(self, source: Unit, target: Path) -> bool:
        """Whether `target` lies where the closest relatives of `source` went, as far as any went anywhere."""
        for depth in range(len(source.module) - 1, 0, -1):
            image = self.aligner.forth.image(source.module[:depth])
            if image:
                return target[: len(image)] == image
        return True

    def unpacked(self, source: Unit, homes: _Homes) -> None:
        """One packed tensor of the checkpoint, several of the model: split."""
        if not self.free(source, self.here) or (self.aligner.reordered and turned(source)):
            return
        for pack, names in self._packs_of(source):
            for parts in self._parts(names, source.role, homes, self.there):
                if not self._near(source, parts[0].module):
                    continue
                pieces = [next(iter(part.template.shapes.values())) for part in parts]
                dim = _concat_dim(pieces, next(iter(source.template.shapes.values())))
                texts = _texts([source, *parts])
                if dim is None or texts is None:
                    continue
                sizes = [piece[dim] for piece in pieces]
                numbers = f"{dim}" if len(set(sizes)) == 1 else f"{dim}; " + ", ".join(map(str, sizes))
                text = f"split({numbers}): {texts[0]} -> {', '.join(texts[1:])}"
                if self._take([text], *self._verdict(source, pack, names, "holds", dim)):
                    return

    def packed(self, target: Unit, homes: _Homes) -> None:
        """Several tensors of the checkpoint, one packed one of the model: concat."""
        if not self.free(target, self.there) or (self.aligner.reordered and turned(target)):
            return
        for pack, names in self._packs_of(target):
            for parts in self._parts(names, target.role, homes, self.here):
                if not self._near(parts[0], target.module):
                    continue
                pieces = [next(iter(part.template.shapes.values())) for part in parts]
                dim = _concat_dim(pieces, next(iter(target.template.shapes.values())))
                texts = _texts([target, *parts])
                if dim is None or texts is None:
                    continue
                text = f"concat({dim}): {', '.join(texts[1:])} -> {texts[0]}"
                if self._take([text], *self._verdict(target, pack, names, "takes", dim)):
                    return

    def stacked(self, target: Unit, sources: Sequence[Unit]) -> None:
        """Experts listed in the checkpoint, stacked in the model; gate and up possibly side by side in one tensor."""
        if not self.free(target, self.there):
            return
        shape = next(iter(target.template.shapes.values()))
        near = [
            unit
            for unit in sources
            if len(slots(unit.template.path)) == len(slots(target.template.path)) + 1
            and self.free(unit, self.here)
            and self._near(unit, target.module)
        ]
        for unit in near:
            single = next(iter(unit.template.shapes.values()))
            role = unit.names & _PARTS
            if (
                shape[1:] == single
                and role
                and role == target.names & {"gate", "up", "down", "q", "k", "v", "o", "gate_up"}
            ):
                texts = _texts([target, unit], counter=True)
                reason = f"{shape[0]} listed tensors of {list(single)} are one of {list(shape)}"
                if texts and self._take([f"stack(0): {texts[1]} -> {texts[0]}"], "certain", reason):
                    return
        if "gate_up" not in target.last or len(shape) != 3:
            return
        for gate in (unit for unit in near if "gate" in unit.last):
            for up in (unit for unit in near if "up" in unit.last and unit.module[:-1] == gate.module[:-1]):
                if (
                    up is gate
                    or _concat_dim([next(iter(unit.template.shapes.values())) for unit in (gate, up)], shape[1:]) != 0
                ):
                    continue
                texts = _texts([target, gate, up], counter=True)
                if texts is None:
                    continue
                half = [f"{texts[0]}.{word}" for word in ("gate", "up")]
                rules = [
                    f"stack(0): {texts[1]} -> {half[0]}",
                    f"stack(0): {texts[2]} -> {half[1]}",
                    f"concat(1): {half[0]}, {half[1]} -> {texts[0]}",
                ]
                reason = f"{shape[0]} listed experts, gate above up, are one tensor of {list(shape)}"
                if self._take(rules, "certain", reason):
                    return

    @staticmethod
    def _packs_of(unit: Unit) -> Iterator[tuple[str, tuple[str, ...]]]:
        for pack, names in _PACKS.items():
            if pack in unit.last:
                yield pack, names
        last = set(unit.spoken[-1])
        if "attn" in unit.names and {"in", "proj"} <= last:
            yield "in_proj", _PACKS["qkv"]
        elif not unit.last & set(_PACKS):
            if "mlp" in unit.names:
                yield "mlp", _PACKS["gate_up"]
            if "attn" in unit.names and not unit.last & {"q", "k", "v", "o"}:
                yield "attn", _PACKS["qkv"]

    def _parts(self, names: Sequence[str], role: str, homes: _Homes, keys: Mapping[str, Shape]) -> Iterator[list[Unit]]:
        """Sets of free sibling units, one for each name, in the order of `names`."""
        for (_, part_role), units in homes.items():
            if part_role == role and all(len(units.get(name, ())) == 1 for name in names):
                parts = [units[name][0] for name in names]
                if all(self.free(part, keys) for part in parts):
                    yield parts

    @staticmethod
    def _verdict(unit: Unit, pack: str, names: Sequence[str], verb: str, dim: int) -> tuple[str, str]:
        """Confidence and reason. Torch's in_proj, and tensors named in the order of their parts, have a known order."""
        component = unit.module[-1]
        known = pack == "in_proj" or component.lower().lstrip("w").removesuffix("_proj") in (
            "qkv",
            "gate_up",
            "kv",
            "c_attn",
        )
        listed = ", ".join(names)
        reason = f"{component} {verb} {listed} along dimension {dim}: the sizes add up"
        if not known:
            reason += f"; that they lie in the order {listed} is not said by its name"
        return ("certain" if known else "likely"), reason


def _squares(
    renamed: Mapping[str, str],
    here: Mapping[str, Shape],
    there: Mapping[str, Shape],
    fitting: Mapping[str, str],
    checkpoint: Mapping[str, Shape],
) -> tuple[dict[str, str], dict[str, str]]:
    """Square matrices that fit either way round, in blocks whose other matrices, two or more, all fit transposed only;
    and those of blocks where one does, or some do."""
    flipped: dict[str, int] = {}
    for old, new in renamed.items():
        if new in there and _change(here[old], there[new]) == "transpose(0, 1)":
            flipped[block_of(old)] = flipped.get(block_of(old), 0) + 1
    if not flipped:
        return {}, {}
    squares: dict[str, str] = {}
    straight: set[str] = set()
    for old, new in fitting.items():
        shape = checkpoint[old]
        if len(shape) == 2 and block_of(old) in flipped:
            if shape[0] == shape[1]:
                squares[old] = new
            elif "emb" not in old:
                straight.add(block_of(old))
    decided = {old: new for old, new in squares.items() if flipped[block_of(old)] > 1 and block_of(old) not in straight}
    return decided, {old: new for old, new in squares.items() if old not in decided}


def _made_by(operation: TensorOp, rule: TensorRule) -> bool:
    return operation.rule == rule


def _change(have: Shape, want: Shape) -> str:
    if len(have) == 2 and have[::-1] == want and have != want:
        return "transpose(0, 1)"
    if prod(have) != prod(want) or have == want:
        return ""
    for dim in range(max(len(have), len(want))):
        if len(have) == len(want) + 1 and have[dim] == 1 and have[:dim] + have[dim + 1 :] == want:
            return f"squeeze({dim})"
        if len(want) == len(have) + 1 and want[dim] == 1 and want[:dim] + want[dim + 1 :] == have:
            return f"unsqueeze({dim})"
    return f"reshape({', '.join(map(str, want))})"


def _numbered(old: str, new: str) -> tuple[str, str]:
    """Both names with the numbers they share, in order, captured."""
    old_parts, new_parts = old.split("."), new.split(".")
    old_numbers = [place for place, part in enumerate(old_parts) if part.isdecimal()]
    new_numbers = [place for place, part in enumerate(new_parts) if part.isdecimal()]
    same = [old_parts[place] for place in old_numbers] == [new_parts[place] for place in new_numbers]
    capture = same and len(old_numbers) <= len(_CAPTURES)
    left, right = [escape(part) for part in old_parts], [escape(part) for part in new_parts]
    if capture:
        for name, here, there in zip(_CAPTURES, old_numbers, new_numbers, strict=False):
            left[here] = right[there] = f"{{{name}}}" if here else f"{{{name}:int}}"
    return ".".join(left), ".".join(right)


def _concat_dim(pieces: Sequence[Shape], whole: Shape) -> int | None:
    """The dimension along which `pieces` make `whole`: the first that does; None if none."""
    for dim in range(len(whole)):
        if (
            all(
                len(piece) == len(whole) and piece[:dim] + piece[dim + 1 :] == whole[:dim] + whole[dim + 1 :]
                for piece in pieces
            )
            and sum(piece[dim] for piece in pieces) == whole[dim]
        ):
            return dim
    return None


def _texts(units: Sequence[Unit], *, counter: bool = False) -> list[str] | None:
    """The templates as patterns with common captures; None where their slots differ.

    With `counter`, all but the first have one slot more, the last, which is captured as `n`.
    """
    wanted = len(slots(units[0].template.path))
    out = []
    for number, unit in enumerate(units):
        path = unit.template.path
        extra = 1 if counter and number else 0
        if len(slots(path)) != wanted + extra or wanted > len(_CAPTURES):
            return None
        names = [*_CAPTURES[:wanted], *(["n"] * extra)]
        parts = []
        for place, part in enumerate(path):
            before, slot, after = part.partition(SLOT)
            capture = names.pop(0) + ("" if place else ":int") if slot else ""
            parts.append(f"{escape(before)}{{{capture}}}{escape(after)}" if slot else escape(part))
        out.append(".".join(parts))
    return out
