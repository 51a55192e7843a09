"""Where the errors of one monitor that nobody foresaw end: in its supervisor, never in a thread that serves others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from podwire_agent.errors import PodwireError

log = logging.getLogger(__name__)

Crashed = Callable[[Exception], None]
"""Told of such an error, in whatever thread it came up. Must not block."""


@contextmanager
def contained(attempt: str, crashed: Crashed) -> Iterator[None]:
    """What happens inside reaches `crashed`, and goes no further; a PodwireError is the caller's, as ever."""
    try:
        yield
    except PodwireError:
        raise
    except Exception as error:
        log.exception("%s failed in a way that nobody foresaw", attempt)
        crashed(error)
