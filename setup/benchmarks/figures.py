"""The arithmetic of figures that the standard library does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

MIB = 2**20

Figures = dict[str, Any]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the nearest-rank percentile, None of nothing."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else None


def column(rows: list[Figures], name: str, **only: object) -> list:
    """Return a column of those rows that have the values of `only`."""
    return [row[name] for row in rows if only.items() <= row.items()]


def unique(rows: list[Figures], name: str) -> list:
    return list(dict.fromkeys(column(rows, name)))


def middle(values: Sequence[float | None]) -> float | None:
    """Return the median of what is there, None of nothing."""
    present = [value for value in values if value is not None]
    return median(present) if present else None


def paired(
    combine: Callable[[float, float], float],
    first: Sequence[float | None],
    second: Sequence[float | None],
) -> float | None:
    """Return the median over the rounds of what each round's two figures make."""
    return middle(
        [
            None if one is None or other is None else combine(one, other)
            for one, other in zip(first, second, strict=True)
        ]
    )
