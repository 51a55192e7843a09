"""The C library's heap, kept small."""

from __future__ import annotations

import ctypes as ct

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
THRESHOLD_BYTES = 128 << 10


def give_back() -> None:
    """Have large arrays go back to the kernel when they are freed.

    glibc begins so, but raises both thresholds after the first large free, and then keeps what a busy tick took.
    Elsewhere (musl has no mallopt) nothing is done.
    """
    mallopt = getattr(ct.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
    mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
    mallopt(M_ARENA_MAX, 1)


def trim() -> None:
    """Give back what lies free between what is in use, after something large: the thresholds see the end only."""
    malloc_trim = getattr(ct.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
