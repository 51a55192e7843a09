"""Waiting for what takes its time: polls with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    condition: Callable[[], T],
    what: str,
    timeout_s: float = 30.0,
    *,
    every_s: float = 0.1,
    passing: tuple[type[Exception], ...] = (),
) -> T:
    """Ask `condition` until it answers something true, which is returned.

    Errors of the types in `passing` count as "not yet". TimeoutError after `timeout_s`, with the last answer or error.
    """
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            if answer := condition():
                return answer
            last = answer
        except passing as error:
            last = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}; last: {last!r}")
        time.sleep(every_s)
