"""The machine's clocks."""

from __future__ import annotations

import time


class SystemClock:
    """See ports.Clock."""

    def unix_ns(self) -> int:
        """CLOCK_REALTIME, ns."""
        return time.time_ns()

    def mono_ns(self) -> int:
        """CLOCK_MONOTONIC, ns."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
