"""What a watch of the cluster has once everything is listed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from podwire_agent.clock import SystemClock
from podwire_agent.kube.connection import Connection
from podwire_agent.kube.credentials import Credentials
from podwire_agent.kube.stopping import Stop
from podwire_agent.kube.view import MONITORS_PATH, NODES_AT_ONCE, NODES_PATH, PODS_PATH, POOLS_PATH, ClusterWatch
from podwire_api.names import API_VERSION


class Listing(Connection):
    """Has these objects, by path, and tells of no change."""

    def __init__(self, objects: Mapping[str, list[dict[str, Any]]]) -> None:
        super().__init__(Credentials("127.0.0.1", 1))
        self.objects = objects
        self.asked: list[tuple[str, dict[str, str]]] = []

    def request(self, method: str, path: str, **given: Any) -> bytes:  # noqa: ARG002 (as there)
        self.asked.append((path, dict(given["query"])))
        return json.dumps({"metadata": {"resourceVersion": "1"}, "items": self.objects.get(path, [])}).encode()

    @contextmanager
    def stream(self, path: str, _query: Mapping[str, str], stop: Stop, *_: Any) -> Iterator[Iterator[bytes]]:
        self.asked.append((path, {"watch": "1"}))

        def quiet() -> Iterator[bytes]:
            stop.wait(10)
            yield from ()

        yield quiet()


def eventually(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def node(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}}


def test_all_nodes_are_followed_and_only_our_own_decides() -> None:
    selecting = {"apiVersion": API_VERSION, "kind": "NetworkMonitor", "spec": {"nodes": {"nodeSelector": {"a": "1"}}}}
    connection = Listing(
        {
            NODES_PATH: [node("n2", a="2"), node("n1", a="1"), node("n3")],
            POOLS_PATH: [{"metadata": {"name": "default", "uid": "p"}, "spec": {}}],
            MONITORS_PATH: [{"metadata": {"name": "shop", "uid": "m", "generation": 1}, **selecting}],
            PODS_PATH: [],
        }
    )
    with ClusterWatch(connection, "n1", SystemClock()) as watch:
        eventually(lambda: watch.view() is not None and watch.pods_synced and watch.nodes_synced)
        view = watch.view()
        assert view is not None
        assert (view.node_labels, view.node_uid) == ({"a": "1"}, "uid-n1")
        assert [each.name for each in view.selecting()] == ["shop"]
        assert {each.name: each.labels for each in watch.nodes.all()} == {"n1": ("a", "1"), "n2": ("a", "2"), "n3": ()}
        assert watch.nodes_stale_since_mono_ns is None
        eventually(lambda: sum(query.get("watch") == "1" for _, query in connection.asked) == 4)
    [query] = [query for path, query in connection.asked if path == NODES_PATH and "limit" in query]
    assert query == {"limit": str(NODES_AT_ONCE)}


def test_without_its_node_an_agent_is_selected_by_nothing() -> None:
    with ClusterWatch(Listing({NODES_PATH: [node("n2")]}), "n1", SystemClock()) as watch:
        eventually(lambda: watch.view() is not None)
        view = watch.view()
        assert view is not None
        assert (view.node_labels, view.node_uid, view.selecting()) == (None, "", ())
