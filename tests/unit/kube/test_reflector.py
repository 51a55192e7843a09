from __future__ import annotations

import pytest

from podwire_agent.errors import ClusterError
from podwire_agent.kube.objects import Meta, kind
from podwire_agent.kube.reflector import GONE_S, LAST_RETRY_S, Objects, Reflector, retry_s
from podwire_agent.kube.stopping import Stop
from tests.unit.kube.scripted import Answer, Lines, ScriptedConnection, event, item, page


class Waits(Stop):
    """Time passes only by waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 1_000_000_000
        self.waits: list[float] = []

    def wait(self, timeout_s: float) -> bool:
        if not self.is_set():
            self.waits.append(timeout_s)
            self.now_ns += int(timeout_s * 1e9)
        return self.is_set()

    def mono_ns(self) -> int:
        return self.now_ns

    def unix_ns(self) -> int:
        return self.now_ns


class Run:
    """One reflector through a script to its end."""

    def __init__(self, lists: list[Answer], watches: list[Lines]) -> None:
        self.time = Waits()
        self.connection = ScriptedConnection(self.time, lists, watches)
        self.objects = Objects[Meta]()
        self.states: list[tuple[bool, bool, bool]] = []
        self.history: list[list[str]] = []
        self.reflector = Reflector(
            self.connection,
            kind("things", "/things", Meta, lambda thing: thing, fieldSelector="a=b"),
            self.objects,
            self.time,
            self.time,
            self.note,
        )
        self.reflector.run()

    def note(self) -> None:
        one = self.reflector
        state = (one.stale_since_mono_ns is not None, one.gone, one.denied)
        if self.states[-1:] != [state]:
            self.states.append(state)
        self.history.append(self.names)

    @property
    def names(self) -> list[str]:
        return sorted(thing.metadata.name for thing in self.objects.all())

    @property
    def asked(self) -> list[str]:
        return [what for what, _ in self.connection.asked]


def test_pages_become_one_list() -> None:
    run = Run([page(item("a"), more="next"), page(item("b"), version=7)], [])
    assert run.names == ["a", "b"]
    assert run.history == [["a", "b"]]  # never half of it
    (_, first), (_, second), (_, watch) = run.connection.asked
    assert first == {"limit": "250", "fieldSelector": "a=b"}
    assert second["continue"] == "next"
    assert (watch["resourceVersion"], watch["fieldSelector"], watch["allowWatchBookmarks"]) == ("7", "a=b", "true")


def test_events_are_taken_in_order() -> None:
    added, deleted = event("ADDED", item("b", 2)), event("DELETED", item("a", 3))
    run = Run([page(item("a"))], [[added, event("MODIFIED", item("b", 4)), deleted]])
    assert run.names == ["b"]
    assert run.history == [["a"], ["a", "b"], ["a", "b"], ["b"]]


def test_a_watch_that_ended_is_resumed_where_it_was() -> None:
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "99"}})
    run = Run([page(item("a"))], [[event("ADDED", item("b", 5))], [bookmark], []])
    versions = [query["resourceVersion"] for what, query in run.connection.asked if what == "watch"]
    assert versions == ["1", "5", "99", "99"]
    assert run.asked.count("list") == 1


def test_a_lost_connection_is_stale_until_the_server_answers_again() -> None:
    lost = ClusterError(None, "connection reset")
    run = Run([page(item("a"))], [[event("ADDED", item("b", 5)), lost], lost, [event("ADDED", item("c", 6))]])
    assert run.names == ["a", "b", "c"]
    assert run.states == [(False, False, False), (True, False, False), (False, False, False)]
    assert run.asked.count("list") == 1


@pytest.mark.parametrize(
    "expired",
    [
        pytest.param(ClusterError(410, "too old resource version"), id="by its status"),
        pytest.param([event("ERROR", {"code": 410, "message": "too old resource version"})], id="by an event"),
    ],
)
def test_an_expired_version_is_listed_anew_soon(expired: Lines) -> None:
    run = Run([page(item("a")), page(item("b"), version=9)], [[event("ADDED", item("c", 2))], expired])
    assert run.names == ["b"]
    assert run.asked == ["list", "watch", "watch", "list", "watch"]
    assert (True, False, False) not in run.states  # the server is there
    assert sum(run.time.waits) <= 0.5 * 2  # one for the watch that ended at once


def test_versions_that_expire_again_and_again_are_no_storm() -> None:
    expired = ClusterError(410, "too old resource version")
    run = Run([page(item("a"))] * 9, [expired] * 9)
    assert sum(run.time.waits) > 25


def test_an_expired_page_begins_the_list_anew() -> None:
    run = Run([page(item("a"), more="next"), ClusterError(410, "expired"), page(item("b"))], [])
    assert run.names == ["b"]
    assert "continue" not in run.connection.asked[2][1]


def test_a_refusal_keeps_what_was_seen() -> None:
    run = Run([page(item("a"))], [ClusterError(403, "forbidden"), ClusterError(401, "unauthorized"), []])
    assert run.names == ["a"]
    assert run.states == [(False, False, False), (True, False, True), (False, False, False)]


def test_a_kind_that_stays_unknown_is_gone_and_empty() -> None:
    unknown = ClusterError(404, "404 page not found")
    run = Run([page(item("a")), *[unknown] * 8, page(item("b"))], [unknown])
    assert run.history[-1] == run.names == ["b"]
    assert [] in run.history
    assert run.states == [(False, False, False), (True, False, False), (False, True, False), (False, False, False)]


def test_a_kind_that_is_unknown_for_a_moment_is_not_gone() -> None:
    unknown = ClusterError(404, "404 page not found")
    run = Run([page(item("a")), unknown, page(item("a"))], [unknown])
    assert sum(run.time.waits) < GONE_S
    assert [] not in run.history
    assert all(not gone for _, gone, _ in run.states)


def test_an_answer_that_makes_no_sense_is_listed_anew() -> None:
    run = Run([page(item("a")), b"<html>", page(item("b"))], [[b"}{"], []])
    assert run.names == ["b"]
    assert (True, False, False) in run.states


def test_waits_grow_to_their_limit_and_shrink_with_success() -> None:
    refused = ClusterError(None, "refused")
    run = Run([*[refused] * 9, page(item("a"))], [[event("ADDED", item("b", 2)), refused]])
    grown, after = run.time.waits[:9], run.time.waits[9]
    assert grown[0] <= 0.5
    assert LAST_RETRY_S / 2 <= grown[-1] <= LAST_RETRY_S
    assert after <= 0.5


def test_waits_are_spread() -> None:
    assert (retry_s(1, lambda: 0.0), retry_s(1, lambda: 1.0)) == (0.5, 0.25)
    assert (retry_s(50, lambda: 0.0), retry_s(50, lambda: 1.0)) == (10.0, 5.0)


def test_watches_that_end_at_once_are_no_storm() -> None:
    run = Run([page(item("a"))], [[]] * 5)
    assert run.time.waits == [0.5] * 5
