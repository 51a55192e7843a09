from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from podwire_agent.clock import SystemClock
from podwire_agent.errors import ClusterError
from podwire_agent.kube.agent_node import BURST, FIGURES_S, NODES_A_SECOND, AgentNodeWriter, merge_patch
from podwire_api.agentnode import AgentNodeStatus, MonitorOnNode
from tests.unit.kube.scripted import Server

GAP_S = 0.3
SELDOM_S = 600.0
NOTHING_S = 0.15
"""Long enough for a write that should not come to come."""


class Store:
    """The one object, and what goes wrong with it."""

    def __init__(self, *, exists: bool = True, failures: int = 0) -> None:
        self.exists = exists
        self.failures = failures
        self.slow = threading.Event()
        self.slow.set()

    def answer(self, method: str, path: str, document: Any) -> Any:
        self.slow.wait(5)
        if self.failures:
            self.failures -= 1
            raise ClusterError(None, "refused")
        if path == "/api/v1/nodes":
            return {"metadata": {}, "items": [{"metadata": {"name": "n1", "uid": "node-uid"}}]}
        if method == "POST":
            self.exists = True
        elif not self.exists:
            raise ClusterError(404, "not found")
        return document


@contextmanager
def writing(store: Store, interval_s: float = SELDOM_S) -> Iterator[tuple[AgentNodeWriter, Server]]:
    server = Server(store.answer)
    writer = AgentNodeWriter(server, "n1", SystemClock(), interval_s, gap_s=GAP_S)
    try:
        yield writer, server
    finally:
        writer.close(None)


def status(pool: str) -> AgentNodeStatus:
    return AgentNodeStatus(version="0.1.0", pool=pool)


def pools(server: Server) -> list[str]:
    return [document["status"]["pool"] for method, _, document in server.requests if method == "PATCH"]


def test_the_first_status_is_written_at_once_with_a_heartbeat() -> None:
    with writing(Store()) as (writer, server):
        writer.write(status("a"), urgent=False)
        assert server.wait_for(1)
        method, path, document = server.requests[0]
    assert (method, path) == ("PATCH", "/apis/podwire.dev/v1alpha1/agentnodes/n1/status")
    assert document["status"]["heartbeat"].endswith("Z")


def test_a_missing_object_is_made_and_belongs_to_its_node() -> None:
    with writing(Store(exists=False)) as (writer, server):
        writer.write(status("a"), urgent=True)
        assert server.wait_for(4)
    assert [method for method, _, _ in server.requests] == ["PATCH", "GET", "POST", "PATCH"]
    metadata = server.requests[2][2]["metadata"]
    (owner,) = metadata["ownerReferences"]
    assert metadata["name"] == "n1"
    assert owner == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "n1",
        "uid": "node-uid",
        "blockOwnerDeletion": False,
    }


def test_a_few_changes_go_at_once_then_the_last_of_many_after_the_gap() -> None:
    with writing(Store()) as (writer, server):
        for index in range(BURST):
            writer.write(status(f"first-{index}"), urgent=True)
            assert server.wait_for(index + 1)
        burst_s = time.monotonic()
        for index in range(20):
            writer.write(status(f"then-{index}"), urgent=True)
        assert server.wait_for(BURST + 1)
        assert GAP_S / 2 < time.monotonic() - burst_s < GAP_S * 3 + 5  # a busy machine
        assert not server.wait_for(BURST + 2, NOTHING_S)
    assert pools(server) == [*(f"first-{index}" for index in range(BURST)), "then-19"]


def test_figures_wait_for_their_time() -> None:
    with writing(Store(), interval_s=0.4) as (writer, server):
        writer.write(status("a"), urgent=False)
        assert server.wait_for(1)
        began_s = time.monotonic()
        writer.write(status("b"), urgent=False)
        writer.write(status("c"), urgent=False)
        assert server.wait_for(2)
        assert 0.3 < time.monotonic() - began_s < 2
    assert pools(server)[:2] == ["a", "c"]


def test_the_last_figures_are_repeated_as_a_sign_of_life() -> None:
    with writing(Store(), interval_s=0.1) as (writer, server):
        writer.write(status("a"), urgent=False)
        assert server.wait_for(3)
    assert set(pools(server)) == {"a"}


def test_the_interval_grows_with_the_number_of_nodes() -> None:
    def answer(method: str, path: str, document: Any) -> Any:
        items = [{"metadata": {"name": "n1", "uid": "node-uid"}}]
        return {"metadata": {"remainingItemCount": 1999}, "items": items} if method == "GET" else (path, document)

    server = Server(answer)
    writer = AgentNodeWriter(server, "n1", SystemClock())
    assert writer.interval_s == FIGURES_S
    writer.write(status("a"), urgent=False)
    assert server.wait_for(2)
    writer.close(None)
    assert writer.interval_s == 2000 / NODES_A_SECOND


def test_an_outage_is_survived_and_the_last_status_wins() -> None:
    with writing(Store(failures=2)) as (writer, server):
        writer.write(status("a"), urgent=True)
        assert server.wait_for(1)
        writer.write(status("b"), urgent=False)
        assert server.wait_for(3)
        assert not server.wait_for(4, NOTHING_S)
    assert pools(server)[-1] == "b"


def test_the_end_writes_the_last_status_whatever_was_written_before() -> None:
    server = Server(Store().answer)
    writer = AgentNodeWriter(server, "n1", SystemClock(), SELDOM_S, gap_s=SELDOM_S)
    for index in range(BURST + 2):
        writer.write(status(str(index)), urgent=True)
        server.wait_for(index + 1, NOTHING_S)
    writer.close(status("end"))
    assert pools(server)[-1] == "end"


def test_the_end_does_not_wait_for_a_server_that_is_away() -> None:
    store = Store()
    server = Server(store.answer)
    writer = AgentNodeWriter(server, "n1", SystemClock(), SELDOM_S)
    store.slow.clear()
    writer.write(status("a"), urgent=True)
    assert server.wait_for(1)
    began_s = time.monotonic()
    writer.close(status("end"))
    assert time.monotonic() - began_s < 4
    store.slow.set()


@pytest.mark.parametrize("field", ["heartbeat"])
def test_what_is_not_set_is_cleared(field: str) -> None:
    assert f'"{field}":null' in merge_patch(status("a")).decode()


def test_what_is_not_set_inside_a_list_is_left_out() -> None:
    patch = merge_patch(AgentNodeStatus(monitors=(MonitorOnNode(name="shop", uid="u"),))).decode()
    assert '"lost"' not in patch
    assert '"observedGeneration":0' in patch
