"""Translated connections for tests: what the kernel would tell of them, and which one a flow is of, read plainly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from podwire_agent.core.translations import ONGOING_NS, SLACK_NS, Translated, Translations
from podwire_agent.model import CONNECTION, TUPLE, Records

Tuple = tuple[str, int, str, int]
"""Source and its port, destination and its port; TCP. Addresses are IPv4."""


@dataclass(frozen=True)
class Life:
    """As the table knows it."""

    original: Tuple
    translated: Tuple
    start_mono_ns: int
    end_mono_ns: int = ONGOING_NS
    zone: int = 0

    @property
    def translation(self) -> tuple[Tuple, Tuple]:
        """What becomes of it."""
        return self.original, self.translated


def turned(each: Tuple) -> Tuple:
    """The reply's."""
    return (each[2], each[3], each[0], each[1])


def covering(lives: Sequence[Life], seen: Tuple, first: int, last: int) -> Life | None:
    """The life that a flow belongs to, of `lives` in the order in which they began: one flow, one life at a time."""
    found: list[Life] = []
    for form in ("original", "translated"):
        mine = [
            life
            for life in lives
            if seen in (getattr(life, form), turned(getattr(life, form))) and life.start_mono_ns <= last + SLACK_NS
        ]
        began = [number for number, life in enumerate(mine) if life.start_mono_ns <= first + SLACK_NS]
        if not began:
            continue
        earliest, latest = mine[began[-1]], mine[-1]
        if last > latest.end_mono_ns + SLACK_NS or first > earliest.end_mono_ns + SLACK_NS:
            continue
        possible = [
            life
            for life in mine[: began[-1]]
            if life.end_mono_ns >= first
            and (
                life.zone != latest.zone
                or life.start_mono_ns >= earliest.start_mono_ns
                or first < earliest.start_mono_ns
            )
        ]
        if any(life.translation != latest.translation for life in [*possible, *mine[began[-1] :]]):
            return None
        found.append(latest)
    if len({life.translation for life in found}) == 1:
        return found[0]
    return None


def packed(each: Tuple) -> Records:
    """TUPLE ()."""
    made = np.zeros((), TUPLE)
    for part, address, port in (("src", each[0], each[1]), ("dst", each[2], each[3])):
        made[f"{part}_address"][10:12] = 255
        made[f"{part}_address"][12:] = [int(byte) for byte in address.split(".")]
        made[f"{part}_port"] = port
    made["protocol"] = 6
    return made


def tuples(seen: Sequence[Tuple]) -> Records:
    """TUPLE (n,)."""
    made = np.zeros(len(seen), TUPLE)
    for number, each in enumerate(seen):
        made[number] = packed(each)
    return made


def told(lives: Iterable[Life], after: int, until: int, *, ended: bool = False) -> Records:
    """CONNECTION (n,): they began, or ended, between these times."""
    lives = list(lives)
    made = np.zeros(len(lives), CONNECTION)
    for number, life in enumerate(lives):
        made["original"][number], made["translated"][number] = packed(life.original), packed(life.translated)
        made["zone"][number] = life.zone
    made["after_mono_ns"], made["until_mono_ns"], made["ended"] = after, until, ended
    return made


def ask(translations: Translations, seen: Sequence[Tuple], first: int, last: int) -> Translated:
    """All of one time."""
    times = [np.full(len(seen), time, np.uint64) for time in (first, last)]
    return translations.of(tuples(seen), *times)
