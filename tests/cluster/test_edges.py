"""Who talks to whom, as the agents of two nodes tell it of real pods: through services, whole, and once."""

from __future__ import annotations

import time

import pytest

from tests.cluster.edges import Edges
from tests.cluster.installation import Installation
from tests.cluster.polling import eventually
from tests.cluster.workloads import SERVICE_TCP, SERVICE_UDP, client_of_a_service

ASK = {"src_namespace": "default", "src_workload": "ask", "src_kind": "Deployment"}
SERVE = {"dst_namespace": "default", "dst_workload": "serve", "dst_kind": "Deployment"}


def turned(labels: dict[str, str]) -> dict[str, str]:
    """Of the way back."""
    other = {"src": "dst", "dst": "src"}
    return {f"{other[name[:3]]}{name[3:]}": value for name, value in labels.items()}


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("server_node", ["node-2", "node-1"], ids=["across nodes", "on one node"])
def test_a_deployment_calls_a_service_of_another(installed: Installation, family: int, server_node: str) -> None:
    with client_of_a_service(installed.cluster, "node-1", server_node) as pods, installed.monitor("talk") as name:
        edges = Edges(installed.cluster)
        sent = pods.send(5_000, size=300, rate=5_000, family=family)
        segments = pods.connect(5_000_000, family)
        locality = "same_node" if server_node == "node-1" else None
        datagrams = {**ASK, **SERVE, "protocol": "UDP", "server_port": SERVICE_UDP, "direction": "request"}
        there = {**ASK, **SERVE, "protocol": "TCP", "server_port": SERVICE_TCP, "direction": "request"}
        back = {**turned({**ASK, **SERVE}), "protocol": "TCP", "server_port": SERVICE_TCP, "direction": "response"}
        eventually(lambda: edges.read().packets(name, **datagrams) == sent.count, "every datagram is told of", 20)
        eventually(lambda: edges.read().packets(name, **there) == segments.sent, "every segment is told of", 20)
        eventually(lambda: edges.read().packets(name, **back) == segments.received, "every answer is told of", 20)
        time.sleep(2.2)  # two reports, in which nothing may come
        edges.read()
        assert edges.sums(name, **datagrams)["bytes"] == sent.bytes
        for labels, packets in ((datagrams, sent.count), (there, segments.sent), (back, segments.received)):
            [(row, counts)] = edges.rows(name, **labels).items()
            assert counts["packets"] == packets
            assert dict(row)["service"] == "door"
            if locality is not None:
                assert dict(row)["locality"] == locality
