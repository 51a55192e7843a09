from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from podwire_agent.errors import ClusterError
from podwire_agent.kube import access
from podwire_agent.kube.access import (
    ACCESS_REVIEWS,
    ALLOWED_KEPT,
    ALLOWED_S,
    AWAY_S,
    REFUSED_KEPT,
    REFUSED_S,
    REVIEWS_AT_ONCE,
    STRANGERS_AT_ONCE,
    TOKEN_REVIEWS,
    Access,
    Verdict,
)

PROMETHEUS = "system:serviceaccount:monitoring:prometheus"


class Cluster:
    """Knows tokens and whose they are, and who may read; counts what it is asked."""

    def __init__(self) -> None:
        self.users = {"good": PROMETHEUS, "other": "system:serviceaccount:shop:web"}
        self.readers = {PROMETHEUS}
        self.failure: ClusterError | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.wait: Callable[[], object] = lambda: None

    def request(self, method: str, path: str, *, body: bytes | None = None, timeout_s: float = 10.0) -> bytes:
        assert (method, timeout_s) == ("POST", access.REVIEW_S)
        document = json.loads(body or b"")
        self.asked.append((path, document))
        self.wait()
        if self.failure is not None:
            raise self.failure
        spec = document["spec"]
        if path == TOKEN_REVIEWS:
            user = self.users.get(spec["token"])
            if user is None:
                return json.dumps({"status": {"error": "invalid bearer token"}}).encode()
            told = {"username": user, "groups": ["system:authenticated"], "extra": {"pod": ["p"]}}
            return json.dumps({"status": {"authenticated": True, "user": told}}).encode()
        assert path == ACCESS_REVIEWS
        return json.dumps({"status": {"allowed": spec["user"] in self.readers}}).encode()


class Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def who(cluster: Cluster, time: Time) -> Access:
    return Access(cluster, clock=time)


def test_the_cluster_is_asked_whose_the_token_is_and_whether_that_one_may_get_the_path(
    who: Access, cluster: Cluster
) -> None:
    assert who.verdict("good") is Verdict.ALLOWED
    (_, token_review), (_, access_review) = cluster.asked
    assert token_review == {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": "good"},
    }
    assert access_review["kind"] == "SubjectAccessReview"
    assert access_review["spec"] == {
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        "user": PROMETHEUS,
        "uid": "",
        "groups": ["system:authenticated"],
        "extra": {"pod": ["p"]},
    }


def test_a_token_that_nobody_knows_is_a_stranger_and_one_without_the_right_forbidden(
    who: Access, cluster: Cluster
) -> None:
    assert who.verdict("wrong") is Verdict.STRANGER
    assert [path for path, _ in cluster.asked] == [TOKEN_REVIEWS]
    assert who.verdict("other") is Verdict.FORBIDDEN


def test_a_yes_is_remembered_for_a_minute_and_asked_for_again_then(who: Access, cluster: Cluster, time: Time) -> None:
    assert who.verdict("good") is Verdict.ALLOWED
    time.now_s = ALLOWED_S - 0.1
    assert who.verdict("good") is Verdict.ALLOWED
    assert len(cluster.asked) == 2
    cluster.readers.clear()
    time.now_s = ALLOWED_S + 0.1
    assert who.verdict("good") is Verdict.FORBIDDEN


def test_a_no_is_remembered_for_some_seconds(who: Access, cluster: Cluster, time: Time) -> None:
    assert who.verdict("other") is Verdict.FORBIDDEN
    cluster.readers.add(cluster.users["other"])
    time.now_s = REFUSED_S - 0.1
    assert who.verdict("other") is Verdict.FORBIDDEN
    time.now_s = REFUSED_S + 0.1
    assert who.verdict("other") is Verdict.ALLOWED


def test_while_the_api_server_is_away_a_yes_holds_for_ten_minutes_and_nothing_else_is_known(
    who: Access, cluster: Cluster, time: Time
) -> None:
    assert who.verdict("good") is Verdict.ALLOWED
    assert who.verdict("other") is Verdict.FORBIDDEN
    cluster.failure = ClusterError(None, "no answer")
    time.now_s = AWAY_S - 0.1
    assert who.verdict("good") is Verdict.ALLOWED
    assert who.verdict("other") is Verdict.UNKNOWN
    assert who.verdict("new") is Verdict.UNKNOWN
    time.now_s = AWAY_S + 0.1
    assert who.verdict("good") is Verdict.UNKNOWN
    assert who.reviews() == {"allowed": 1, "forbidden": 1, "unknown": 4}
    cluster.failure = None
    assert who.verdict("good") is Verdict.ALLOWED


def test_an_answer_that_cannot_be_read_is_no_answer(who: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "request", lambda *_, **__: b"<html>")
    assert who.verdict("good") is Verdict.UNKNOWN


def test_a_flood_of_strangers_is_asked_about_slowly_and_the_known_are_asked_about_all_the_same(
    who: Access, cluster: Cluster, time: Time
) -> None:
    assert who.verdict("good") is Verdict.ALLOWED
    cluster.asked.clear()
    verdicts = [who.verdict(f"wrong-{number}") for number in range(1000)]
    assert len(cluster.asked) == verdicts.count(Verdict.STRANGER) == STRANGERS_AT_ONCE - 1
    assert set(verdicts[100:]) == {Verdict.UNKNOWN}
    time.now_s = ALLOWED_S + 1
    who._strangers, who._strangers_at_s = 0.0, time.now_s
    assert who.verdict("good") is Verdict.ALLOWED
    assert who.verdict("new") is Verdict.UNKNOWN
    assert who.reviews()["skipped"] == 1000 - STRANGERS_AT_ONCE + 1 + 1
    time.now_s += 1
    assert who.verdict("new") is Verdict.STRANGER


def test_what_is_remembered_is_bounded_and_holds_no_token(who: Access, cluster: Cluster, time: Time) -> None:
    for number in range(2 * REFUSED_KEPT):
        cluster.users[f"reader-{number}"] = PROMETHEUS
        who.verdict(f"reader-{number}")
        who.verdict(f"wrong-{number}")
        time.now_s += 1
    assert len(who._allowed) == ALLOWED_KEPT
    assert len(who._refused) == REFUSED_KEPT
    assert not any(b"reader" in digest or b"wrong" in digest for digest in (*who._allowed, *who._refused))
    before = len(cluster.asked)
    assert who.verdict(f"reader-{2 * REFUSED_KEPT - 1}") is Verdict.ALLOWED
    assert len(cluster.asked) == before


def test_scrapers_that_come_together_are_asked_about_once_and_few_at_a_time(who: Access, cluster: Cluster) -> None:
    together = threading.Barrier(12)
    now, most = 0, 0
    lock = threading.Lock()
    go_on = threading.Event()

    def wait() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        go_on.wait(0.05)
        with lock:
            now -= 1

    cluster.wait = wait
    found: list[Verdict] = []

    def scrape() -> None:
        together.wait()
        found.append(who.verdict("good"))

    threads = [threading.Thread(target=scrape) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Verdict.ALLOWED] * 12
    assert most <= REVIEWS_AT_ONCE
    assert len(cluster.asked) <= 2 * REVIEWS_AT_ONCE
