"""What the bench prints: figures beside their budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure."""

    name: str
    measured: float
    unit: str
    budget: float | None
    """At most; None where the figure only explains another one."""
    detail: str
    """How it came about, in words."""

    @property
    def ratio(self) -> float | None:
        """Measured to budget: 1 is just kept."""
        return None if self.budget is None else self.measured / self.budget

    @property
    def verdict(self) -> str:
        """In a word; "" where there is no budget."""
        return "" if self.ratio is None else "ok" if self.ratio <= 1 else "over"


HEADINGS = ("figure", "measured", "budget", "ratio", "", "how")


def table(figures: Sequence[Figure]) -> str:
    """All figures, a line each, in columns."""
    rows = [HEADINGS, *(_cells(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _cells(figure: Figure) -> tuple[str, ...]:
    budget = "" if figure.budget is None else f"{figure.budget:g} {figure.unit}"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    return figure.name, f"{figure.measured:.3g} {figure.unit}", budget, ratio, figure.verdict, figure.detail
