"""Durations as the resources write them: one to three numbers with a unit, such as 500ms, 30s or 1m30s."""

from __future__ import annotations

import re

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

_UNIT_NS = {"ms": NS_PER_MS, "s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S}
_PART = re.compile(r"([0-9]{1,4})(ms|s|m|h)")
DURATION = rf"({_PART.pattern}){{1,3}}"
"""What a duration looks like, as RE2 and Python's re both read it; of the whole text."""
_WHOLE = re.compile(DURATION)


def parse_duration(text: str) -> int:
    """The duration `text` in ns, exactly. ValueError if it is not one to three of 0-9999 with ms, s, m or h."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration such as 500ms, 30s or 1m30s")
    return sum(int(number) * _UNIT_NS[unit] for number, unit in _PART.findall(text))


def format_duration(ns: int) -> str:
    """`ns` in words a person would write, largest unit first: 90 s is 1m30s. ValueError if negative or not whole ms."""
    if ns < 0 or ns % NS_PER_MS:
        raise ValueError(f"{ns} ns is not a whole, non-negative number of milliseconds")
    parts = []
    for unit in ("h", "m", "s", "ms"):
        number, ns = divmod(ns, _UNIT_NS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"
