"""How far another machine's clock is from ours, from requests and answers: four times each, as in NTP (RFC 5905)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

SAMPLES = 16
"""Kept of each peer."""
DELTA_NS = 100_000_000
"""The difference of two wall clocks and the path's delay together stay below this, or nothing is compared: it is how
much later what arrives is cut."""
DRIFT = 100e-6
"""How fast two monotonic clocks may come apart: NTP's bound on the slewing of one is 500 ppm, crystals are below 50."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request and its answer."""

    sent_ns: int
    """Ours."""
    received_ns: int
    """Theirs."""
    answered_ns: int
    """Theirs."""
    returned_ns: int
    """Ours."""

    @property
    def delay_ns(self) -> int:
        """There and back, without the time they took to answer."""
        return max(0, (self.returned_ns - self.sent_ns) - (self.answered_ns - self.received_ns))

    @property
    def offset_ns(self) -> int:
        """Their clock less ours, if both ways took as long."""
        return ((self.received_ns - self.sent_ns) + (self.answered_ns - self.returned_ns)) // 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """Their clock less ours, how far that may be off, and the path there and back at best."""

    offset_ns: int
    error_ns: int
    delay_ns: int


class ClockFilter:
    """Of one peer: the sample with the least delay says most, as long as it is young."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, sample: Sample) -> None:
        """The newest. Where those before contradict it, one of the clocks has jumped: they are forgotten."""
        former = self.estimate(sample.returned_ns)
        if former is not None:
            apart_ns = abs(sample.offset_ns - former.offset_ns)
            if apart_ns > former.error_ns + (sample.delay_ns + 1) // 2:
                self._samples.clear()
        self._samples.append(sample)

    def clear(self) -> None:
        """They have a new clock."""
        self._samples.clear()

    def estimate(self, now_ns: int) -> Estimate | None:
        """None before the first sample."""
        if not self._samples:
            return None

        def error_ns(sample: Sample) -> int:
            return sample.delay_ns // 2 + int(max(0, now_ns - sample.returned_ns) * DRIFT)

        best = min(self._samples, key=error_ns)
        return Estimate(best.offset_ns, error_ns(best), min(sample.delay_ns for sample in self._samples))


def clock_fits(wall_offset_ns: int, delay_ns: int) -> bool:
    """Whether two agents' cuts may be compared."""
    return abs(wall_offset_ns) + delay_ns <= DELTA_NS
