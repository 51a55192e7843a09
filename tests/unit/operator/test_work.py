from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from podwire_operator import work
from podwire_operator.errors import ClusterError, NotLeading
from podwire_operator.work import Key, Task, WorkQueue

GAP_S = 0.05
A, B = Key(Task.MONITOR, "a"), Key(Task.MONITOR, "b")


def queue_of(run: Callable[[Key], Awaitable[float | None]], workers: int = 4) -> WorkQueue:
    return WorkQueue(run, workers=workers, gap_s=GAP_S, jitter=lambda: 1.0)


def serve(queue: WorkQueue, act: Callable[[], Awaitable[None]]) -> None:
    """While `act` goes on, at most 5 s."""

    async def both() -> None:
        serving = asyncio.create_task(queue.serve())
        try:
            await asyncio.wait_for(act(), 5)
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving

    asyncio.run(both())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def test_a_key_that_is_added_many_times_is_looked_at_once_and_once_more_for_what_came_meanwhile() -> None:
    seen: list[Key] = []
    release = asyncio.Event()

    async def run(key: Key) -> None:
        seen.append(key)
        await release.wait()

    queue = queue_of(run)

    async def act() -> None:
        for _ in range(10):
            queue.add(A)
        await until(lambda: seen == [A])
        for _ in range(10):
            queue.add(A)
        assert len(queue) == 1
        release.set()
        await until(lambda: seen == [A, A])
        await asyncio.sleep(3 * GAP_S)
        assert seen == [A, A]

    serve(queue, act)


def test_a_key_is_never_run_twice_at_a_time_and_not_too_often() -> None:
    times: list[float] = []
    running = 0

    async def run(_: Key) -> None:
        nonlocal running
        running += 1
        assert running == 1
        times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        running -= 1

    queue = queue_of(run)

    async def act() -> None:
        while len(times) < 4:
            queue.add(A)
            await asyncio.sleep(0.001)

    serve(queue, act)
    assert all(later - earlier >= GAP_S for earlier, later in itertools.pairwise(times))


def test_no_more_keys_run_at_once_than_there_are_workers() -> None:
    running: set[Key] = set()
    most = 0
    done = 0

    async def run(key: Key) -> None:
        nonlocal most, done
        running.add(key)
        most = max(most, len(running))
        await asyncio.sleep(0.01)
        running.discard(key)
        done += 1

    queue = queue_of(run, workers=3)

    async def act() -> None:
        for number in range(20):
            queue.add(Key(Task.MONITOR, str(number)))
        await until(lambda: done == 20)

    serve(queue, act)
    assert most == 3


def test_what_fails_is_tried_again_later_and_later_and_holds_nobody_up() -> None:
    times: list[float] = []
    others = 0

    async def run(key: Key) -> None:
        nonlocal others
        if key == B:
            others += 1
            return
        times.append(asyncio.get_running_loop().time())
        raise ZeroDivisionError

    queue = queue_of(run)

    async def act() -> None:
        queue.add(A)
        while len(times) < 3:
            queue.add(B)
            queue.add(A)  # news do not shorten it
            await asyncio.sleep(0.01)

    serve(queue, act)
    first, second = times[1] - times[0], times[2] - times[1]
    assert first >= work.FIRST_BACKOFF_S
    assert second >= 2 * work.FIRST_BACKOFF_S
    assert others > 10
    assert queue.failing == 1
    assert queue.errors_total[Task.MONITOR] == 3


@pytest.mark.parametrize(
    ("error", "longest_s"),
    [
        pytest.param(ClusterError("no answer"), work.LONGEST_OUTAGE_BACKOFF_S, id="no answer"),
        pytest.param(ClusterError("busy", 429), work.LONGEST_OUTAGE_BACKOFF_S, id="come again"),
        pytest.param(ClusterError("away", 503), work.LONGEST_OUTAGE_BACKOFF_S, id="not there for now"),
        pytest.param(ClusterError("no such kind", 404), work.LONGEST_OUTAGE_BACKOFF_S, id="a kind that is not there"),
        pytest.param(ClusterError("no", 403), work.LONGEST_BACKOFF_S, id="forbidden"),
        pytest.param(ZeroDivisionError(), work.LONGEST_BACKOFF_S, id="a bug"),
    ],
)
def test_an_outage_is_over_soon_and_a_refusal_is_not(error: Exception, longest_s: float) -> None:
    async def run(_: Key) -> None: ...

    queue = queue_of(run)
    waits = [queue._failed(A, error) for _ in range(20)]
    assert waits[0] == work.FIRST_BACKOFF_S
    assert waits[-1] == longest_s


def test_what_succeeds_again_has_failed_no_more() -> None:
    calls = 0

    async def run(_: Key) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ClusterError("no answer")

    queue = queue_of(run)

    async def act() -> None:
        queue.add(A)
        await until(lambda: calls == 2 and queue.failing == 0)

    serve(queue, act)


def test_what_failed_is_tried_at_once_when_the_world_has_changed() -> None:
    calls = 0

    async def run(_: Key) -> None:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise ClusterError("no such thing yet", 405)

    queue = queue_of(run)

    async def act() -> None:
        queue.add(A)
        for count in range(1, 4):
            await until(lambda wanted=count: calls == wanted and queue.failing == 1)  # type: ignore[misc]
            queue.relax()
        await until(lambda: calls == 4 and queue.failing == 0)

    began = time.monotonic()
    serve(queue, act)
    assert time.monotonic() - began < work.FIRST_BACKOFF_S


def test_a_look_can_ask_for_the_next_one() -> None:
    calls = 0

    async def run(_: Key) -> float | None:
        nonlocal calls
        calls += 1
        return 0.06 if calls < 3 else None

    queue = queue_of(run)

    async def act() -> None:
        queue.add(A)
        await until(lambda: calls == 3)
        assert len(queue) == 0

    serve(queue, act)


def test_a_replica_that_does_not_lead_any_more_has_not_failed() -> None:
    calls = 0

    async def run(_: Key) -> float | None:
        nonlocal calls
        calls += 1
        raise NotLeading("held back")

    queue = queue_of(run)

    async def act() -> None:
        queue.add(A)
        await until(lambda: calls == 1)
        await asyncio.sleep(0)
        assert (queue.failing, len(queue)) == (0, 0)

    serve(queue, act)


def test_what_runs_is_cut_off_when_it_ends() -> None:
    cut: list[Key] = []

    async def run(key: Key) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cut.append(key)

    queue = queue_of(run)

    async def act() -> None:
        queue.add(A)
        await until(lambda: queue.runs_total[Task.MONITOR] == 1)

    serve(queue, act)
    assert cut == [A]


def test_the_queue_has_a_bound_and_counts_what_fell_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_KEYS", 3)

    async def run(_: Key) -> None: ...

    queue = queue_of(run)
    for number in range(5):
        queue.add(Key(Task.MONITOR, str(number)))
        queue.add(Key(Task.MONITOR, "0"))
    assert (len(queue), queue.dropped_total) == (3, 2)
    queue.clear()
    assert len(queue) == 0
