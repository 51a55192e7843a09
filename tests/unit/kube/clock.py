"""Time that passes when a test says so."""

from __future__ import annotations

BOOT_UNIX_NS = 1_800_000_000_000_000_000


class Clock:
    """See ports.Clock. `ahead_s`: of the wall clock, before true time."""

    def __init__(self, now_s: float = 1000.0, ahead_s: float = 0.0) -> None:
        self.now_s = now_s
        self.ahead_s = ahead_s

    def unix_ns(self) -> int:
        return BOOT_UNIX_NS + int((self.now_s + self.ahead_s) * 1e9)

    def mono_ns(self) -> int:
        return int(self.now_s * 1e9)

    def unix_s_at(self, now_s: float) -> int:
        """In whole seconds, as the API server writes times."""
        return (BOOT_UNIX_NS + int(now_s * 1e9)) // 10**9
