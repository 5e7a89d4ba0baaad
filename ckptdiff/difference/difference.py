"""What differs between two checkpoints, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ckptdiff.shown import Shown, rendered
from ckptdiff.tensors import TensorInfo

Verdict = Literal["same file", "same values", "different values", "different structure", "same structure"]
"""The last where no values were looked at: `values=False`."""
Basis = Literal["values", "digests", "checksums", "headers"]
Cast = Literal["exact", "lossy"]
Number = int | float | complex | bool
FailOn = Literal["values", "structure"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: what messages call it, its format, its tensors and their bytes."""

    name: str
    format: str
    tensors: int
    nbytes: int
    state_dict_key: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """How one tensor differs. `other` is its key in B, where that is another.

    `count` is None where it is known only that they differ: by their digests or checksums. NaN is NaN, of whatever
    bits; the two zeros are two. Of several values in a byte each is counted, and `index` is that of the byte.
    """

    key: str
    other: str
    before: TensorInfo
    after: TensorInfo
    count: int | None = None
    """Elements changed; between dtypes, those that are another number."""
    max_abs: int | float | None = None
    index: tuple[int, ...] | None = None
    """Of the largest change; where none has a size, of the first."""
    values: tuple[Number, Number] | None = None
    """Both values there."""
    max_ulp: int | None = None
    """Representable values between the two, by sign and magnitude; None but for floats of one dtype."""
    rel_l2: float | None = None
    """Norm of the change over that in A."""
    cosine: float | None = None
    norm: float | None = None
    """Norm of the change."""
    nan: int = 0
    """NaN on both sides."""
    new_nan: int = 0
    new_inf: int = 0
    signed_zeros: int = 0
    """Changed in nothing but the sign of a zero."""
    cast: Cast | None = None
    """Of another dtype: whether every value survives, or some are rounded. None where more than a cast happened."""
    explained: str | None = None
    """What was proved to have happened."""
    norms: tuple[float, float] | None = None
    """Of the tensor in A, and in B."""
    histogram: Mapping[int, int] = field(default_factory=dict)
    """Power of two → how many elements changed by so much, where that was asked for."""

    @property
    def numel(self) -> int:
        return self.before.numel

    @property
    def relative(self) -> float:
        """How large the change is, from 0 to 1, for ordering and colour."""
        if self.new_nan or self.new_inf:
            return 1.0
        if self.rel_l2 is not None:
            return min(self.rel_l2, 1.0)
        return 0.0 if self.cast == "exact" else 1.0


@dataclass(frozen=True, slots=True)
class Beside:
    """An entry beside the tensors that differs: of the container, the metadata, or a value that is no tensor."""

    where: Literal["container", "_metadata", "file metadata", "no tensor"]
    key: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, repr=False)
class Difference(Shown):
    """What differs between A and B. Each key of either is in one class; one that was renamed may have changed as well.

    `changed` and `close` are by A's key. Those that changed in nothing but an exact cast are in `changed` as well,
    with a `count` of 0.
    """

    a: Side
    b: Side
    verdict: Verdict
    equal: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    only_in_a: tuple[str, ...] = ()
    only_in_b: tuple[str, ...] = ()
    other_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    changed: Mapping[str, Change] = field(default_factory=dict)
    close: Mapping[str, Change] = field(default_factory=dict)
    """Changed by no more than `atol` and `rtol` allow."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """Of keys that only one side has, or in another shape: what was proved to have happened."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """What says that a key of A was renamed: its content, a rule, or what the names are like."""
    nan: Mapping[str, int] = field(default_factory=dict)
    """How many NaN a tensor that is equal has on both sides with other bits."""
    tensors_a: Mapping[str, TensorInfo] = field(default_factory=dict)
    tensors_b: Mapping[str, TensorInfo] = field(default_factory=dict)
    beside: tuple[Beside, ...] = ()
    digests: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """Of what differs, the digests on both sides, where they were asked for."""
    basis: Basis = "values"
    """What values were told apart by."""
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What of the options found nothing to do."""

    @property
    def same(self) -> bool:
        """Whether they are the same weights."""
        return self.verdict in ("same file", "same values", "same structure")

    def fails(self, fail_on: FailOn = "values") -> bool:
        """Whether they differ in what counts: in any value, or in their structure alone."""
        return self.verdict == "different structure" or (fail_on == "values" and self.verdict == "different values")

    @property
    def differing(self) -> dict[str, Change]:
        """Of `changed`, those that lost or got another value."""
        return {key: change for key, change in self.changed.items() if change.cast != "exact"}

    def _line(self) -> str:
        parts = [f"{len(self.equal)} equal"]
        parts += [f"{len(keys)} {what}" for keys, what in ((self.renamed, "renamed"), (self.changed, "changed"),
                  (self.close, "close"), (self.other_shape, "of other shape"), (self.only_in_a, "only in A"),
                  (self.only_in_b, "only in B")) if keys]  # fmt: skip
        return f"{self.verdict}; {', '.join(parts)}"

    def _rendered(self, form: str) -> str:
        return rendered("render_difference", form, self)
