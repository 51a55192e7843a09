from __future__ import annotations

import json
from typing import Any

from podwire_agent.kube.objects import Pod, WirePod, address_bytes, keep_pod, kind, port_bytes
from podwire_agent.kube.pods import PodStore
from tests.unit.kube.clock import Clock

PODS = kind("pods", "/api/v1/pods", WirePod, keep_pod)


def pod(name: str, *addresses: str, node: str = "n1", phase: str = "Running", host_network: bool = False) -> Pod:
    document: dict[str, Any] = {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": name,
            "labels": {"app": "cart", "pod-template-hash": "5d"},
            "ownerReferences": [
                {"kind": "Other", "name": "no"},
                {"kind": "ReplicaSet", "name": "cart-5d", "controller": True},
            ],
        },
        "spec": {"nodeName": node, "hostNetwork": host_network, "containers": [{"name": "c"}]},
        "status": {"phase": phase, "podIPs": [{"ip": address} for address in addresses]},
    }
    _, [(_, kept)] = PODS.page(json.dumps({"metadata": {}, "items": [document]}).encode())
    return kept


def test_a_pod_is_kept_with_what_is_used_of_it() -> None:
    kept = pod("cart-1", "10.0.0.1", "fd00::1")
    assert (kept.namespace, kept.name, kept.node, kept.phase) == ("shop", "cart-1", "n1", "Running")
    assert (kept.workload_kind, kept.workload) == ("Deployment", "cart")
    assert kept.label_map() == {"app": "cart", "pod-template-hash": "5d"}
    assert kept.addresses == (bytes(10) + b"\xff\xff\x0a\x00\x00\x01", b"\xfd" + bytes(14) + b"\x01")
    assert not kept.deleted


def test_a_pod_without_status_or_owner_is_kept() -> None:
    _, [(uid, kept)] = PODS.page(b'{"metadata":{},"items":[{"metadata":{"uid":"u","name":"a"},"spec":{}}]}')
    assert (uid, kept.addresses, kept.workload_kind, kept.node) == ("u", (), "Pod", "")


def test_pods_are_found_by_text_and_by_bytes() -> None:
    store = PodStore("n1", Clock())
    store.put("a", pod("a", "10.0.0.1", "fd00::1"))
    assert store.by_address("10.0.0.1") is store.by_address("fd00::1") is store.by_address(address_bytes("10.0.0.1"))
    assert store.by_address("10.0.0.2") is None


def test_host_network_and_ended_pods_have_no_address_of_their_own() -> None:
    store = PodStore("n1", Clock())
    store.replace({"h": pod("h", "10.0.0.1", host_network=True), "e": pod("e", "10.0.0.2", phase="Succeeded")})
    assert store.by_address("10.0.0.1") is store.by_address("10.0.0.2") is None
    assert {each.name for each in store.on_this_node()} == {"h", "e"}


def test_an_address_belongs_to_the_pod_that_had_it_last() -> None:
    store = PodStore("n1", Clock())
    store.put("old", pod("old", "10.0.0.1"))
    store.put("new", pod("new", "10.0.0.1"))
    store.discard("old")
    found = store.by_address("10.0.0.1")
    assert found is not None
    assert found.name == "new"
    store.put("new", pod("new", "10.0.0.1", phase="Failed"))
    assert store.by_address("10.0.0.1") is None


def test_a_changed_address_replaces_the_former() -> None:
    store = PodStore("n1", Clock())
    store.put("a", pod("a"))
    store.put("a", pod("a", "10.0.0.1"))
    store.put("a", pod("a", "10.0.0.2"))
    assert store.by_address("10.0.0.1") is None
    assert store.by_address("10.0.0.2") is not None
    assert len(store) == 1


def test_pods_of_this_node_are_told_apart() -> None:
    store = PodStore("n1", Clock())
    store.replace({"a": pod("a"), "b": pod("b", node="n2")})
    store.put("c", pod("c"))
    store.discard("a")
    assert [each.name for each in store.on_this_node()] == ["c"]
    assert len(store) == 2


def host_pod(*, host_network: bool, **port: Any) -> Pod:
    document = {
        "metadata": {"name": "a", "uid": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "nodeName": "n1",
            "hostNetwork": host_network,
            "containers": [{"name": "c", "ports": [{"protocol": "TCP", **port}]}, {"name": "d"}],
            "initContainers": [{"name": "e", "ports": [{"protocol": "UDP", "containerPort": 53, "hostPort": 53}]}],
        },
        "status": {
            "podIPs": [{"ip": "192.0.2.1" if host_network else "10.0.0.1"}],
            "hostIPs": [{"ip": "192.0.2.1"}, {"ip": "fd00::1"}],
        },
    }
    _, [(_, kept)] = PODS.page(json.dumps({"metadata": {}, "items": [document]}).encode())
    return kept


def at_node(*ports: tuple[str, int, int]) -> set[bytes]:
    return {port_bytes(address_bytes(address), protocol, port) for address, protocol, port in ports}


def test_a_pod_on_the_hosts_network_has_the_ports_that_it_declares() -> None:
    found = host_pod(host_network=True, containerPort=9100)
    assert set(found.node_ports) == at_node(("192.0.2.1", 6, 9100), ("192.0.2.1", 17, 53))
    store = PodStore("n1", Clock())
    store.put("a", found)
    assert sorted(map(len, store.held().keys)) == [19, 19]


def test_another_pod_has_its_host_ports_at_every_address_of_its_node() -> None:
    found = host_pod(host_network=False, containerPort=80, hostPort=8080)
    both = [("192.0.2.1", 6, 8080), ("fd00::1", 6, 8080), ("192.0.2.1", 17, 53), ("fd00::1", 17, 53)]
    assert set(found.node_ports) == at_node(*both)
    bound = host_pod(host_network=False, containerPort=80, hostPort=8080, hostIP="192.0.2.1")
    assert at_node(("fd00::1", 6, 8080)).isdisjoint(bound.node_ports)
    assert not at_node(("192.0.2.1", 6, 80)) & set(host_pod(host_network=False, containerPort=80).node_ports)


def test_when_its_node_took_a_pod_on_is_kept_or_else_when_it_was_made() -> None:
    assert host_pod(host_network=True).started_unix_s == 1_767_225_600
    assert pod("a").started_unix_s == 0
