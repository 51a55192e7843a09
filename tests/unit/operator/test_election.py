from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from podwire_operator.election import LEASE_S, RENEW_WITHIN_S, Election, Lease
from tests.unit.operator.leases import FakeLeases, verify
from tests.unit.operator.made import Clock


class Part:
    """One replica's part in an election, step by step."""

    def __init__(self, store: FakeLeases, name: str, clock: Clock) -> None:
        self.clock = clock
        self.log: list[str] = []
        self.election = Election(
            store,
            name,
            lead=lambda: self.log.append("leads"),
            follow=lambda: self.log.append("follows"),
            clock=clock,
            wall=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )

    def step(self, times: int = 1) -> float:
        """A look; one second passes between two."""
        pause_s = 0.0
        for turn in range(times):
            if turn:
                self.clock.now += 1
            pause_s = run(self.election.step())
        return pause_s

    def leading(self) -> bool:
        return self.election.leading()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


@pytest.fixture
def store() -> FakeLeases:
    return FakeLeases()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_fake_does_what_a_store_must() -> None:
    run(verify(FakeLeases()))


def test_who_comes_first_leads_and_renews(store: FakeLeases, clock: Clock) -> None:
    one, two = Part(store, "one", clock), Part(store, "two", clock)
    one.step()
    two.step()
    assert one.leading()
    assert not two.leading()
    for _ in range(20):
        clock.now += 3
        one.step()
        two.step()
    assert one.log == ["leads"]
    assert two.log == []
    assert store.lease is not None
    assert (store.lease.holder, store.lease.transitions) == ("one", 0)


def test_a_lease_that_is_given_back_is_taken_at_the_next_look(store: FakeLeases, clock: Clock) -> None:
    one, two = Part(store, "one", clock), Part(store, "two", clock)
    one.step()
    two.step()
    run(one.election.release())
    assert one.log == ["leads", "follows"]
    assert store.lease == replace(store.lease, holder="", duration_s=1) if store.lease else False
    clock.now += 1
    two.step()
    assert two.leading()
    assert store.lease is not None
    assert (store.lease.holder, store.lease.transitions, store.lease.duration_s) == ("two", 1, LEASE_S)


def test_a_lease_that_nobody_renews_is_taken_after_its_time_and_not_before(store: FakeLeases, clock: Clock) -> None:
    one, two = Part(store, "one", clock), Part(store, "two", clock)
    one.step()
    two.step()
    clock.now += LEASE_S
    two.step()
    assert not two.leading()
    clock.now += 1
    two.step()
    assert two.leading()
    assert not one.leading()


def test_the_time_in_a_lease_is_never_read(store: FakeLeases, clock: Clock) -> None:
    long_ago = "1999-01-01T00:00:00.000000Z"
    store.lease = Lease("one", 15, 0, long_ago, long_ago, version="0")
    two = Part(store, "two", clock)
    two.step()
    assert not two.leading()  # one's clock may be wrong: first it is watched


def test_a_leader_that_cannot_renew_stops_before_anybody_may_follow_it(store: FakeLeases, clock: Clock) -> None:
    one = Part(store, "one", clock)
    one.step()
    store.broken = True
    clock.now += RENEW_WITHIN_S - 1
    one.step()
    assert one.leading()
    clock.now += 1
    assert not one.leading()  # at once, whenever somebody asks
    one.step()
    assert one.log == ["leads", "follows"]
    assert RENEW_WITHIN_S < LEASE_S


def test_a_leader_that_slept_asks_before_it_goes_on(store: FakeLeases, clock: Clock) -> None:
    one, two = Part(store, "one", clock), Part(store, "two", clock)
    one.step()
    two.step()
    clock.now += LEASE_S + 1
    two.step()
    assert two.leading()
    assert not one.leading()
    one.step()
    assert one.log == ["leads", "follows"]
    assert two.leading()


def test_an_outage_is_survived_and_the_same_replica_goes_on(store: FakeLeases, clock: Clock) -> None:
    one = Part(store, "one", clock)
    one.step()
    store.broken = True
    for _ in range(60):
        clock.now += 1
        one.step()
    store.broken = False
    clock.now += 1
    one.step()
    assert one.log == ["leads", "follows", "leads"]
    assert one.election.transitions_total == 2


def test_of_two_that_take_it_at_once_one_has_it(store: FakeLeases, clock: Clock) -> None:
    one, two = Part(store, "one", clock), Part(store, "two", clock)

    class Late:
        """Two reads what one has not written yet."""

        def __init__(self, read: Lease | None) -> None:
            self.seen = read

        async def read(self) -> Lease | None:
            return self.seen

        create, replace = store.create, store.replace

    two.election._store = Late(None)
    one.step()
    two.step()
    assert (one.leading(), two.leading()) == (True, False)
    assert store.writes == 1


def test_a_lease_that_somebody_else_took_ends_it(store: FakeLeases, clock: Clock) -> None:
    one = Part(store, "one", clock)
    one.step()
    assert store.lease is not None
    run(store.replace(replace(store.lease, holder="a person")))
    clock.now += 1
    one.step()
    assert one.log == ["leads", "follows"]


def test_a_replica_of_the_same_name_that_started_anew_goes_on_at_once(store: FakeLeases, clock: Clock) -> None:
    Part(store, "one", clock).step()
    clock.now += 2
    again = Part(store, "one", clock)
    again.step()
    assert again.leading()


def test_who_does_not_lead_has_nothing_to_give_back(store: FakeLeases, clock: Clock) -> None:
    one, two = Part(store, "one", clock), Part(store, "two", clock)
    one.step()
    two.step()
    run(two.election.release())
    assert store.lease is not None
    assert store.lease.holder == "one"


def test_a_leader_looks_seldom_and_others_often(store: FakeLeases, clock: Clock) -> None:
    one, two = Part(store, "one", clock), Part(store, "two", clock)
    assert one.step() > two.step()
    store.broken = True
    clock.now += 3
    assert one.step() == two.step()
