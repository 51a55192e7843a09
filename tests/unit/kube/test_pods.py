from __future__ import annotations

import json
from typing import Any

from podwire_agent.kube.objects import Pod, WirePod, address_bytes, keep_pod, kind
from podwire_agent.kube.pods import PodStore

PODS = kind("pods", "/api/v1/pods", WirePod, keep_pod)


def pod(name: str, *addresses: str, node: str = "n1", phase: str = "Running", host_network: bool = False) -> Pod:
    document: dict[str, Any] = {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": name,
            "labels": {"app": "cart", "tier": "back"},
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
    assert (kept.owner_kind, kept.owner_name) == ("ReplicaSet", "cart-5d")
    assert kept.label_map() == {"app": "cart", "tier": "back"}
    assert kept.addresses == (bytes(10) + b"\xff\xff\x0a\x00\x00\x01", b"\xfd" + bytes(14) + b"\x01")
    assert not kept.deleted


def test_a_pod_without_status_or_owner_is_kept() -> None:
    _, [(uid, kept)] = PODS.page(b'{"metadata":{},"items":[{"metadata":{"uid":"u","name":"a"},"spec":{}}]}')
    assert (uid, kept.addresses, kept.owner_kind, kept.node) == ("u", (), "", "")


def test_pods_are_found_by_text_and_by_bytes() -> None:
    store = PodStore("n1")
    store.put("a", pod("a", "10.0.0.1", "fd00::1"))
    assert store.by_address("10.0.0.1") is store.by_address("fd00::1") is store.by_address(address_bytes("10.0.0.1"))
    assert store.by_address("10.0.0.2") is None


def test_host_network_and_ended_pods_have_no_address_of_their_own() -> None:
    store = PodStore("n1")
    store.replace({"h": pod("h", "10.0.0.1", host_network=True), "e": pod("e", "10.0.0.2", phase="Succeeded")})
    assert store.by_address("10.0.0.1") is store.by_address("10.0.0.2") is None
    assert {each.name for each in store.on_this_node()} == {"h", "e"}


def test_an_address_belongs_to_the_pod_that_had_it_last() -> None:
    store = PodStore("n1")
    store.put("old", pod("old", "10.0.0.1"))
    store.put("new", pod("new", "10.0.0.1"))
    store.discard("old")
    found = store.by_address("10.0.0.1")
    assert found is not None
    assert found.name == "new"
    store.put("new", pod("new", "10.0.0.1", phase="Failed"))
    assert store.by_address("10.0.0.1") is None


def test_a_changed_address_replaces_the_former() -> None:
    store = PodStore("n1")
    store.put("a", pod("a"))
    store.put("a", pod("a", "10.0.0.1"))
    store.put("a", pod("a", "10.0.0.2"))
    assert store.by_address("10.0.0.1") is None
    assert store.by_address("10.0.0.2") is not None
    assert len(store) == 1


def test_pods_of_this_node_are_told_apart() -> None:
    store = PodStore("n1")
    store.replace({"a": pod("a"), "b": pod("b", node="n2")})
    store.put("c", pod("c"))
    store.discard("a")
    assert [each.name for each in store.on_this_node()] == ["c"]
    assert len(store) == 2
