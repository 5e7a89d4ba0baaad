"""What was counted of a tensor's numbers, as a plain value: whoever is told of it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorValues:
    """What the values of one matched tensor are.

    `lost` counts those that do not survive the cast to the model's dtype: between floating-point dtypes the finite ones
    that are out of its range, elsewhere those that become another number. `first_…` is the place of the first one in
    row-major order, -1 where there is none.
    """

    nan: int = 0
    inf: int = 0
    first_non_finite: int = -1
    lost: int = 0
    first_lost: int = -1
