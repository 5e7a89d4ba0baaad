"""Two checkpoints → their Difference: paired, compared, and put into classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint.checkpoint import Checkpoint
from ckptdiff.contents.spreading import Progress
from ckptdiff.difference import partners
from ckptdiff.difference.beside import beside
from ckptdiff.difference.comparing import Pair, compare_pairs
from ckptdiff.difference.difference import Basis, Change, Difference, Side, Verdict
from ckptdiff.difference.locks import Lock
from ckptdiff.difference.same_file import same_bytes, same_place
from ckptdiff.errors import UsageError
from ckptdiff.spelling import Metavar, call, option
from ckptdiff.tensors import TensorInfo

if TYPE_CHECKING:
    from ckptdiff.difference.checksummed import FirstLook
    from ckptdiff.difference.figures import Figures, Tolerance
    from ckptdiff.keys import Globs


_LONG = 1 << 29
"""Bytes of a side whose reading may take longer than a moment."""


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """How two checkpoints are compared. `quick` looks at checksums alone, `keys` chooses keys of either side."""

    values: bool = True
    quick: bool = False
    atol: float = 0.0
    rtol: float = 0.0
    keys: Globs | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    """A's keys under the names that the user's rules give them."""
    progress: Progress | None = None
    scheduler: str | None = None
    tell: Callable[[str], None] | None = None
    """Told what checksums say, before the values are read."""
    histograms: bool = False
    """Whether to count how large the changes of each tensor are."""


def difference(a: Checkpoint | Lock, b: Checkpoint | Lock, options: DiffOptions) -> Difference:
    """What differs between A and B. Raises CkptdiffError where a file cannot be read or has no values to look at."""
    return _Diff(a, b, options).run()


class _Diff:
    def __init__(self, a: Checkpoint | Lock, b: Checkpoint | Lock, options: DiffOptions) -> None:
        self.a, self.b, self.options = a, b, options
        chosen = options.keys
        self.here, self.there = (
            {key: tensor for key, tensor in side.tensors.items() if chosen is None or chosen(str(key))}
            for side in (a, b)
        )
        self.basis: Basis = "values"
        self.doubts: list[str] = []
        self._digests: dict[int, Mapping[str, str]] = {}

    def run(self) -> Difference:
        a, b, options = self.a, self.b, self.options
        self.basis = self._basis()
        known = self.basis != "headers"
        if known and same_place(a, b) and not options.renamed:
            return self._all_equal("same file")
        pairing = partners.by_names(self.here, self.there, options.renamed)
        proved: set[str] = set()
        constants = None
        if self.basis in ("values", "digests"):
            constants = self._constant(a), self._constant(b)
            digests = self._digested(a), self._digested(b)
            proved = partners.by_content(pairing, self.here, self.there, digests, constants)
        partners.by_likeness(pairing, self.here, self.there, proved, constants)
        other_shape, alike = [], []
        for key, other in pairing.pairs.items():
            before, after = self.here[key], self.there[other]
            if before.shape == after.shape and before.layout == after.layout:
                alike.append(Pair(key, other, before, after))
            else:
                other_shape.append((key, before.shape, after.shape))
        changes, nan = self._changes([pair for pair in alike if pair.key not in proved])
        changed = {key: change for key, (change, is_close) in changes.items() if not is_close}
        close = {key: change for key, (change, is_close) in changes.items() if is_close}
        difference = Difference(
            a=_side(a, self.here),
            b=_side(b, self.there),
            verdict="same values",
            equal=tuple(p.key for p in alike if p.key not in changes and p.key == p.other),
            renamed=tuple((key, other) for key, other in pairing.pairs.items() if key != other),
            only_in_a=tuple(pairing.left(self.here)),
            only_in_b=tuple(pairing.wanted(self.there)),
            other_shape=tuple(other_shape),
            changed=changed,
            close=close,
            evidence=pairing.evidence,
            nan=nan,
            tensors_a=self.here,
            tensors_b=self.there,
            beside=() if isinstance(a, Lock) or isinstance(b, Lock) else beside(a, b),
            basis=self.basis,
        )
        difference = replace(difference, verdict=self._verdict(difference))
        if self.basis == "values" and (
            difference.changed or difference.other_shape or difference.only_in_a or difference.only_in_b
        ):
            from ckptdiff.difference.explaining import explained

            assert isinstance(a, Checkpoint)
            assert isinstance(b, Checkpoint)
            difference = explained(difference, a, b)
        return replace(difference, doubts=tuple(self.doubts))

    def _basis(self) -> Basis:
        a, b, options = self.a, self.b, self.options
        if not options.values:
            return "headers"
        if isinstance(a, Lock) or isinstance(b, Lock):
            if options.quick:
                raise UsageError(f"{option('quick')} looks at checksums, which a lock has none of.", "Leave it out.")
            return "digests"
        for side in (a, b):
            if side.live is None and side.kind.values == "none":
                self.doubts.append(
                    f"{side.path} says what would be saved, and holds no values: only names and shapes count"
                )
                return "headers"
        return "checksums" if options.quick else "values"

    def _all_equal(self, verdict: Verdict) -> Difference:
        return Difference(
            _side(self.a, self.here), _side(self.b, self.there), verdict, equal=tuple(self.here), basis=self.basis,
            tensors_a=self.here, tensors_b=self.there,
        )  # fmt: skip

    def _verdict(self, difference: Difference) -> Verdict:
        if difference.only_in_a or difference.only_in_b or difference.other_shape:
            return "different structure"
        if difference.differing:
            return "different values"
        if self.basis == "headers":
            return "same structure"
        whole = self.options.keys is None and not (
            difference.changed or difference.close or difference.renamed or difference.beside
        )
        if whole and self.basis == "values":
            assert isinstance(self.a, Checkpoint)
            assert isinstance(self.b, Checkpoint)
            if same_bytes(self.a, self.b):
                return "same file"
        return "same values"

    def _digested(self, side: Checkpoint | Lock) -> Callable[[list[str]], Mapping[str, str]]:
        def digests(keys: list[str]) -> Mapping[str, str]:
            if isinstance(side, Lock):
                return {key: side.digests[key] for key in keys}
            from ckptdiff.contents.digests import digests_of

            return digests_of(side, keys).tensors

        return digests

    @staticmethod
    def _constant(side: Checkpoint | Lock) -> Callable[[str], bool]:
        if isinstance(side, Lock):  # what it is made of is not known; its digest is unique on its side
            return lambda key: side.tensors[key].numel <= 1
        return partners.constancy(side)

    def _changes(self, alike: list[Pair]) -> tuple[dict[str, tuple[Change, bool]], dict[str, int]]:
        """The change of each pair that is not equal, with whether it is within the tolerance; and NaN of other bits."""
        if self.basis == "headers":
            return _by_headers(alike), {}
        if self.basis == "digests":
            return self._by_digests(alike), {}
        assert isinstance(self.a, Checkpoint)
        assert isinstance(self.b, Checkpoint)
        if self.basis == "checksums":
            from ckptdiff.difference.checksummed import differing

            unequal, doubt = differing(self.a, self.b, alike)
            self.doubts.append(doubt)
            return {p.key: (Change(p.key, p.other, p.before, p.after), False) for p in unequal}, {}
        from ckptdiff.difference.quantizers import same_quantizer

        tolerance = self._tolerance()
        measured = self._compared(self.a, self.b, alike, tolerance, self._looked_at_first(alike))
        changes: dict[str, tuple[Change, bool]] = {}
        nan = {}
        for pair, figures in zip(alike, measured, strict=True):
            scaled = same_quantizer(pair.before, pair.after)
            if figures is None and scaled and pair.before.dtype == pair.after.dtype:
                continue
            if figures is not None and not figures.count and pair.before.dtype == pair.after.dtype and scaled:
                nan[pair.key] = figures.payloads
                continue
            change = change_of(pair, figures)
            if not scaled:
                change = replace(change, explained="its scale or zero point is another")
            is_close = bool(tolerance) and figures is not None and not figures.beyond and scaled
            changes[pair.key] = change, bool(is_close and change.cast != "exact")
        return changes, nan

    def _compared(
        self, a: Checkpoint, b: Checkpoint, alike: list[Pair], tolerance: Tolerance | None, look: FirstLook
    ) -> list[Figures | None]:
        if self.options.scheduler is None:
            figures = compare_pairs(a, b, alike, tolerance, self.options.progress, look.different)
            odd = look.contradicted(
                {pair.key for pair, measured in zip(alike, figures, strict=True) if measured is not None}
            )
            if odd:
                self.doubts.append(
                    f"the checksums in the files say otherwise of {', '.join(odd[:3])}{', …' if len(odd) > 3 else ''}: "
                    f"one of them is damaged (`{call('verify', Metavar('FILE'))}`)"
                )
            return figures
        from ckptdiff.difference.on_cluster import compare_on_cluster

        return compare_on_cluster(a, b, alike, tolerance, self.options.scheduler, self.options.progress)

    def _looked_at_first(self, alike: list[Pair]) -> FirstLook:
        """What the checksums in both files say, before a value is read."""
        from ckptdiff.difference.checksummed import first_look

        assert isinstance(self.a, Checkpoint)
        assert isinstance(self.b, Checkpoint)
        look = first_look(self.a, self.b, alike)
        told = len(look.different) + len(look.same)
        much = self.a.remotes or self.b.remotes or sum(pair.before.nbytes for pair in alike) > _LONG
        if told and much and self.options.tell is not None:
            self.options.tell(f"by their checksums {len(look.different):,} of {told:,} tensors differ; reading values")
        return look

    def _tolerance(self) -> Tolerance | None:
        options = self.options
        if not options.atol and not options.rtol and not options.histograms:
            return None
        from ckptdiff.difference.figures import Tolerance

        return Tolerance(options.atol, options.rtol, options.histograms)

    def _by_digests(self, alike: list[Pair]) -> dict[str, tuple[Change, bool]]:
        mine = self._digested(self.a)([pair.key for pair in alike])
        theirs = self._digested(self.b)([pair.other for pair in alike])
        return {
            pair.key: (Change(pair.key, pair.other, pair.before, pair.after), False)
            for pair in alike
            if mine[pair.key] != theirs[pair.other]
        }


def change_of(pair: Pair, figures: Figures | None) -> Change:
    """A pair's figures in words of the user's."""
    change = Change(pair.key, pair.other, pair.before, pair.after)
    if figures is None:
        return change if pair.before.numel else replace(change, count=0, cast="exact")
    from ckptdiff.difference.numerals import numeral

    cast = pair.before.dtype != pair.after.dtype
    kind = numeral(pair.before.dtype)
    index = None
    if figures.place >= 0 and pair.before.layout == "strided":
        several = kind.per_byte if kind.kind == "float" else 1  # the shape counts bytes
        index = _index(figures.place // several, pair.before.shape)
    relative = math.sqrt(figures.delta / figures.first) if figures.first and math.isfinite(figures.delta) else None
    both = math.sqrt(figures.first) * math.sqrt(figures.second)
    return replace(
        change,
        count=figures.inexact if cast else figures.count,
        max_abs=figures.largest,
        index=index,
        values=figures.pair,
        max_ulp=figures.steps if kind.kind in ("float", "complex") and not cast else None,
        rel_l2=relative if relative is not None and math.isfinite(relative) else None,
        cosine=max(-1.0, min(1.0, figures.product / both)) if both and math.isfinite(both) else None,
        norm=math.sqrt(figures.delta),
        norms=(math.sqrt(figures.first), math.sqrt(figures.second)),
        histogram=figures.histogram,
        nan=figures.nan,
        new_nan=figures.new_nan,
        new_inf=figures.new_inf,
        signed_zeros=figures.zeros,
        cast=None if not cast or figures.unrounded else "lossy" if figures.inexact else "exact",
    )


def _by_headers(alike: list[Pair]) -> dict[str, tuple[Change, bool]]:
    """Those of another dtype: what that does to their values is not looked at."""
    return {
        pair.key: (Change(pair.key, pair.other, pair.before, pair.after, explained="another dtype"), False)
        for pair in alike
        if pair.before.dtype != pair.after.dtype
    }


def _index(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        place, rest = divmod(place, size)
        index.append(rest)
    return tuple(reversed(index))


def _side(side: Any, tensors: Mapping[str, TensorInfo]) -> Side:
    if isinstance(side, Lock):
        return Side(side.path, "lock", len(tensors), _bytes(tensors))
    name = side.path or "a state dict in memory"
    return Side(name, side.format, len(tensors), _bytes(tensors), side.state_dict_key)


def _bytes(tensors: Mapping[str, TensorInfo]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values() if min(tensor.shape, default=0) >= 0)
