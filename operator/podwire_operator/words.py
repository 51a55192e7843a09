"""How a status speaks: a few names and a number, an agent's own words, figures to two digits."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 3
MAX_WORDS = 600
"""Of somebody else's message inside one of ours."""


def nodes(names: Sequence[str]) -> str:
    """`node n1`; `nodes n1, n2, n3 and 5 more`."""
    if len(names) == 1:
        return f"node {names[0]}"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"nodes {', '.join(names[:SHOWN])}{more}"


def labels(selector: Sequence[tuple[str, str]]) -> str:
    """`zone=a, disk=ssd`."""
    return ", ".join(f"{key}={value}" if value else key for key, value in selector)


def quoted(message: str) -> str:
    """Somebody's words on one line, cut, without a full stop of their own."""
    line = " ".join(message.split()).rstrip(".")
    return line if len(line) <= MAX_WORDS else f"{line[: MAX_WORDS - 3]}..."


def two_digits(number: int) -> int:
    """12345 -> 12000: what a column shows, and what a write is worth."""
    if number < 100:
        return number
    unit = int(10 ** (len(str(number)) - 2))
    return (number + unit // 2) // unit * unit
