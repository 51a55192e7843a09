from __future__ import annotations

from typing import Any

import pytest

from podwire_agent.errors import ClusterError
from podwire_agent.kube.succession import successor_expected
from podwire_agent.kube.view import MONITORS_PATH, NODES_PATH, POOLS_PATH, ClusterView
from tests.unit.kube.scripted import Server

NAMESPACE_PATH = "/api/v1/namespaces/podwire-system"
DAEMONSET_PATH = "/apis/apps/v1/namespaces/podwire-system/daemonsets/podwire-agent-default"


def objects(*items: Any) -> dict[str, Any]:
    return {"metadata": {}, "items": list(items)}


def monitor(**selector: str) -> dict[str, Any]:
    return {"metadata": {"name": "shop", "uid": "u"}, "spec": {"nodes": {"nodeSelector": selector}}}


SETTLED: dict[str, Any] = {
    NAMESPACE_PATH: {"metadata": {"name": "podwire-system"}},
    DAEMONSET_PATH: {"metadata": {"name": "podwire-agent-default"}},
    MONITORS_PATH: objects(monitor(zone="a")),
    POOLS_PATH: objects({"metadata": {"name": "default"}, "spec": {}}),
    NODES_PATH: objects({"metadata": {"name": "n1", "uid": "n", "labels": {"zone": "a"}}}),
}
DYING = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
UNKNOWN = ClusterError(404, "not found")


def expected(view: ClusterView | None = None, waits: list[float] | None = None, **changes: Any) -> tuple[bool, str]:
    answers = {**SETTLED, **{PATHS[name]: answer for name, answer in changes.items()}}

    def answer(_method: str, path: str, _document: Any) -> Any:
        found = answers[path]
        if isinstance(found, list):
            found = found.pop(0)
        if isinstance(found, ClusterError):
            raise found
        return found

    return successor_expected(
        Server(answer), view, "n1", "podwire-system", "default", (waits if waits is not None else []).append
    )


PATHS = {
    "namespace": NAMESPACE_PATH,
    "daemonset": DAEMONSET_PATH,
    "monitors": MONITORS_PATH,
    "pools": POOLS_PATH,
    "nodes": NODES_PATH,
}


def test_a_roll_out_has_a_successor() -> None:
    assert expected()[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"namespace": UNKNOWN}, "namespace podwire-system is gone", id="namespace gone"),
        pytest.param({"namespace": DYING}, "namespace podwire-system is being deleted", id="namespace deleted"),
        pytest.param({"daemonset": UNKNOWN}, "DaemonSet podwire-agent-default is gone", id="DaemonSet gone"),
        pytest.param({"daemonset": DYING}, "being deleted", id="DaemonSet deleted in the foreground"),
        pytest.param({"monitors": UNKNOWN}, "does not know", id="kind gone"),
        pytest.param({"pools": UNKNOWN}, "does not know", id="kind of pools gone"),
        pytest.param({"monitors": objects()}, "no monitor", id="no monitor"),
        pytest.param({"monitors": objects(monitor(zone="b"))}, "no monitor", id="monitor of other nodes"),
        pytest.param({"pools": objects()}, "no pool", id="no pool"),
        pytest.param({"nodes": objects()}, "node n1 is gone", id="node gone"),
    ],
)
def test_nobody_succeeds(changes: dict[str, Any], words: str) -> None:
    succeeds, why = expected(**changes)
    assert not succeeds
    assert words in why


def test_a_refusal_counts_only_if_it_stays() -> None:
    forbidden = ClusterError(403, "forbidden")
    waits: list[float] = []
    assert expected(monitors=[forbidden, SETTLED[MONITORS_PATH]], waits=waits)[0]
    assert waits == [5.0]
    succeeds, why = expected(monitors=[forbidden, ClusterError(401, "unauthorized")])
    assert not succeeds
    assert "unauthorized" in why


@pytest.mark.parametrize("status", [None, 429, 500, 503])
def test_a_server_that_does_not_answer_lets_the_successor_be_expected(status: int | None) -> None:
    assert expected(namespace=ClusterError(status, "overloaded"))[0]


def test_a_server_that_does_not_answer_leaves_the_last_word_to_the_view() -> None:
    succeeds, why = expected(ClusterView(version=1), namespace=ClusterError(None, "refused"))
    assert not succeeds
    assert "as last seen" in why


def test_all_pages_are_looked_at() -> None:
    first = {"metadata": {"continue": "next"}, "items": [monitor(zone="b")]}
    assert expected(monitors=[first, SETTLED[MONITORS_PATH]])[0]
