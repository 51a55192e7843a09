"""Packets that are dropped between real pods are told lost, each once, and no others, whatever befalls the agents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from podwire_operator.words import two_digits
from tests.cluster.cluster import KubectlError
from tests.cluster.edges import Edges
from tests.cluster.installation import Installation
from tests.cluster.node import Node
from tests.cluster.polling import eventually
from tests.cluster.test_edges import ASK, SERVE
from tests.cluster.test_outages import kill
from tests.cluster.traffic import TCP_PORT, UDP_PORT, Pair
from tests.cluster.workloads import SERVICE_TCP, client_of_a_service

EXCHANGE_PORT = 9436
DATAGRAMS = {**ASK, **SERVE, "protocol": "UDP"}
SEGMENTS = {**ASK, **SERVE, "protocol": "TCP", "server_port": SERVICE_TCP}
TOLD_S = 60.0

_TRY = """
import socket, sys
try: socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=4)
except OSError: print("refused")
"""


@contextmanager
def dropping(node: Node, hook: str, *rule: str) -> Iterator[Callable[[], int]]:
    """Drop what the rule of nft says as long as this; how many that were until now."""
    node.exec("nft", "add", "table", "inet", hook)
    node.exec("nft", "add", "chain", "inet", hook, hook, f"{{ type filter hook {hook} priority 0 ; }}")
    node.exec("nft", "add", "rule", "inet", hook, hook, *rule, "counter", "drop")
    try:
        yield lambda: int(node.exec("nft", "list", "table", "inet", hook).split("counter packets ")[1].split()[0])
    finally:
        node.exec("nft", "delete", "table", "inet", hook)


def each_tenth() -> tuple[str, ...]:
    """Of the datagrams to the server."""
    return "udp", "dport", str(UDP_PORT), "numgen", "inc", "mod", "10", "==", "0"


def bursts(pods: Pair) -> int:
    """Datagrams with pauses between, each burst from a port of its own; how many."""
    total = 0
    for count in (1_000, 300, 2_000):
        total += pods.send(count, rate=20_000).count
        time.sleep(1.3)
    return total


def await_told(edges: Edges, name: str, sent: int, lost: int) -> None:
    """Until all are compared, and so many lost; never more."""

    def told() -> bool:
        found = edges.read().sums(name, **DATAGRAMS)
        assert found["lost"] <= lost, (found, lost)
        return (found["lost"], found["compared"]) == (lost, sent)

    eventually(told, f"{lost} of {sent} are told lost", TOLD_S)
    assert edges.packets(name, **DATAGRAMS) == sent - lost


@pytest.mark.parametrize("server_node", ["node-2", "node-1"], ids=["across nodes", "on one node"])
def test_lost_is_what_was_dropped_between_the_pods(installed: Installation, server_node: str) -> None:
    with client_of_a_service(installed.cluster, "node-1", server_node) as pods, installed.monitor("lossy") as name:
        edges = Edges(installed.cluster)
        with dropping(installed.cluster.node(server_node), "forward", *each_tenth()) as dropped:
            sent, lost = bursts(pods), dropped()
        assert lost == sent // 10
        await_told(edges, name, sent, lost)
        eventually(lambda: installed.status(name).get("lost") == str(two_digits(lost)), "the status tells of it", 60)


def test_without_loss_none_is_told(installed: Installation) -> None:
    with client_of_a_service(installed.cluster) as pods, installed.monitor("whole") as name:
        edges = Edges(installed.cluster)
        await_told(edges, name, bursts(pods), 0)
        eventually(lambda: installed.status(name).get("lost") == "0", "the status tells of it", 60)


def test_agents_that_are_killed_tell_no_other_loss_than_there_was(installed: Installation) -> None:
    with client_of_a_service(installed.cluster) as pods, installed.monitor("killed") as name:
        edges = Edges(installed.cluster)
        pods.send(100)  # both agents have a checkpoint, and have spoken
        await_told(edges, name, 100, 0)
        with dropping(installed.cluster.node("node-2"), "forward", *each_tenth()) as dropped:
            sending = pods.sending(30_000)
            for node in ("node-2", "node-1", "node-2"):
                time.sleep(3)
                kill(installed, installed.agent(node))
                eventually(lambda: len(installed.agents()) == 2, "both agents are there", 60, passing=(KubectlError,))
            sent, lost = sending.wait().count, dropped()
        await_told(edges, name, sent + 100, lost)


def test_half_a_minute_without_the_exchange_is_made_up_for(installed: Installation) -> None:
    with client_of_a_service(installed.cluster) as pods, installed.monitor("cut") as name:
        edges = Edges(installed.cluster)
        there = installed.cluster.node("node-2")
        with dropping(there, "forward", *each_tenth()) as dropped:
            with dropping(there, "input", "tcp", "dport", str(EXCHANGE_PORT)) as unheard:
                sending = pods.sending(30_000, rate=1_000)
                time.sleep(30)
                assert unheard() > 0
            sent, lost = sending.wait().count, dropped()
        await_told(edges, name, sent, lost)


def test_all_of_a_denied_connection_is_lost(installed: Installation) -> None:
    with client_of_a_service(installed.cluster) as pods, installed.monitor("denied") as name:
        edges = Edges(installed.cluster)
        with dropping(installed.cluster.node("node-2"), "forward", "tcp", "dport", str(TCP_PORT)) as dropped:
            said = pods.cluster.exec(pods.client, "python3", "-c", _TRY, pods.server_addresses[0], str(pods.tcp_port))
            assert "refused" in said
            tried = dropped()
        assert tried > 1

        def told() -> bool:
            found = edges.read().sums(name, **SEGMENTS)
            return (found["lost"], found["compared"]) == (tried, tried)

        eventually(told, f"{tried} segments are told lost", TOLD_S)
        assert edges.packets(name, **SEGMENTS) == 0
