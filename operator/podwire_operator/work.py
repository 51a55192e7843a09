"""The work to do: keys, each queued at most once and run by one worker at a time, later and later where it fails."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

from podwire_operator.errors import ClusterError, NotLeading
from podwire_operator.logs import fields

log = logging.getLogger(__name__)

WORKERS = 4
GAP_S = 1.0
"""Between two runs of one key."""
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 300.0
LONGEST_OUTAGE_BACKOFF_S = 5.0
"""While the API server does not answer: when it is back, work goes on within this."""
JITTER = 0.2
MAX_KEYS = 20_000
"""Waiting at once; one more is dropped and counted. A full round adds every object's key again."""


class Task(StrEnum):
    """What is to be done."""

    MONITOR = "monitor"
    POOL = "pool"
    CERTIFICATES = "certificates"
    POOLS = "pools"
    """That there is one at all."""
    SILENCE = "silence"
    """Who has not been heard of for too long, or is again."""
    ROUND = "round"
    """Everything, once in a while."""


class Key(NamedTuple):
    """A task, and the object it is about."""

    task: Task
    name: str = ""


class WorkQueue:
    """Level-triggered: a key says what to look at, never what happened to it."""

    def __init__(
        self,
        run: Callable[[Key], Awaitable[float | None]],
        *,
        workers: int = WORKERS,
        gap_s: float = GAP_S,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(1 - JITTER, 1 + JITTER),
    ) -> None:
        """`run` looks at a key, and says after how many seconds it wants to see it again, if at all."""
        self._run = run
        self._workers = workers
        self._gap_s = gap_s
        self._clock = clock
        self._jitter = jitter
        self._due: dict[Key, float] = {}
        self._not_before: dict[Key, float] = {}
        """Of a key that ran lately or failed."""
        self._failures: dict[Key, int] = {}
        self._busy: set[Key] = set()
        self._news = asyncio.Event()
        self.runs_total = dict.fromkeys(Task, 0)
        self.errors_total = dict.fromkeys(Task, 0)
        self.dropped_total = 0

    def __len__(self) -> int:
        """Keys that wait."""
        return len(self._due)

    @property
    def failing(self) -> int:
        """Keys whose last run failed."""
        return len(self._failures)

    def add(self, key: Key, after_s: float = 0.0) -> None:
        """Look at the key after that time, or earlier if that is wanted already."""
        if key not in self._due and len(self._due) >= MAX_KEYS:
            self.dropped_total += 1
            return
        due = max(self._clock() + after_s, self._not_before.get(key, 0.0))
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._news.set()

    def clear(self) -> None:
        """Forget what waits, and past failures."""
        self._due.clear()
        self._failures.clear()
        self._not_before.clear()

    def relax(self) -> None:
        """What failed is tried at once: something has changed that concerns everything."""
        self._failures.clear()
        self._not_before.clear()
        self._due = dict.fromkeys(self._due, self._clock())
        self._news.set()

    async def serve(self) -> None:
        """Until cancelled; then what runs is cancelled too, and waited for."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                now = self._clock()
                for key in self._ready(now):
                    del self._due[key]
                    self._busy.add(key)
                    group.create_task(self._serve_one(key), name=f"{key.task} {key.name}")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), self._pause_s(now))

    def _ready(self, now: float) -> list[Key]:
        """As many as there are idle workers, the longest due first."""
        idle = self._workers - len(self._busy)
        due = sorted((due, key) for key, due in self._due.items() if due <= now and key not in self._busy)
        return [key for _, key in due[:idle]]

    def _pause_s(self, now: float) -> float | None:
        if len(self._busy) >= self._workers:
            return None
        waiting = [due for key, due in self._due.items() if key not in self._busy]
        return max(0.0, min(waiting) - now) if waiting else None

    async def _serve_one(self, key: Key) -> None:
        self.runs_total[key.task] += 1
        try:
            again_s = await self._run(key)
        except NotLeading:
            again_s = None
        except ClusterError as error:
            again_s = self._failed(key, error)
        except Exception as error:  # noqa: BLE001 the reconcile border: one bad object must not stop the others
            again_s = self._failed(key, error)
        else:
            self._failures.pop(key, None)
            self._rest(key, self._gap_s)
        finally:
            self._busy.discard(key)
            self._news.set()
        if again_s is not None:
            self.add(key, again_s)

    def _failed(self, key: Key, error: Exception) -> float:
        """How long until the next try; told once a failure that lasts, then only to whoever debugs."""
        self.errors_total[key.task] += 1
        count = self._failures[key] = self._failures.get(key, 0) + 1
        # A kind that is not there may come at any time, like an answer.
        outage = isinstance(error, ClusterError) and (error.unanswered or error.missing)
        longest_s = LONGEST_OUTAGE_BACKOFF_S if outage else LONGEST_BACKOFF_S
        again_s = float(min(longest_s, FIRST_BACKOFF_S * 2.0 ** min(count - 1, 16))) * self._jitter()
        self._rest(key, again_s)
        expected = isinstance(error, ClusterError)
        level = logging.WARNING if count == 1 or not expected else logging.DEBUG
        more = fields(task=key.task, object=key.name, failures=count, again_s=round(again_s, 1))
        log.log(level, "%s", error, exc_info=None if expected else error, extra=more)
        return again_s

    def _rest(self, key: Key, for_s: float) -> None:
        """Not before then, however often it is added; keys at rest for nothing are forgotten."""
        now = self._clock()
        self._not_before[key] = now + for_s
        if key in self._due:  # added while it ran
            self._due[key] = max(self._due[key], now + for_s)
        if len(self._not_before) > 2 * MAX_KEYS:
            self._not_before = {each: until for each, until in self._not_before.items() if until > now}
