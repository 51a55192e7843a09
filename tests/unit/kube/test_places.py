"""Services, endpoint slices and nodes, from the API server's JSON to what is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from podwire_agent.core.networks import packed
from podwire_agent.kube.objects import kind
from podwire_agent.kube.places import (
    Node,
    Port,
    Service,
    Slice,
    WireNode,
    WireService,
    WireSlice,
    keep_node,
    keep_service,
    keep_slice,
)

SERVICES = kind("services", "/", WireService, keep_service)
SLICES = kind("slices", "/", WireSlice, keep_slice)
NODES = kind("nodes", "/", WireNode, keep_node, 50)


def kept(reader: Any, **document: Any) -> Any:
    _, [(_, found)] = reader.page(json.dumps({"metadata": {}, "items": [document]}).encode())
    return found


def test_a_service_is_kept_with_all_its_addresses_and_ports() -> None:
    found = kept(
        SERVICES,
        metadata={"name": "web", "namespace": "shop"},
        spec={
            "clusterIPs": ["10.96.0.7", "fd00:10::7"],
            "externalIPs": ["198.51.100.1"],
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http", "nodePort": 30080},
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353},
            ],
        },
        status={"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}, {"hostname": "lb.example.com"}]}},
    )
    assert found == Service(
        "shop",
        "web",
        (packed("10.96.0.7"), packed("fd00:10::7")),
        (packed("203.0.113.5"), packed("198.51.100.1")),
        (Port("http", 6, 80, 30080), Port("dns", 17, 53)),
    )


@pytest.mark.parametrize(
    "spec", [{"clusterIPs": ["None"]}, {"type": "ExternalName", "externalName": "a.example"}, {"externalIPs": ["x"]}]
)
def test_a_service_may_have_no_address(spec: dict[str, Any]) -> None:
    found = kept(SERVICES, metadata={"name": "a", "namespace": "b"}, spec=spec, status={"loadBalancer": {}})
    assert found == Service("b", "a", ())


def test_a_slice_has_the_ports_where_its_addresses_listen() -> None:
    found = kept(
        SLICES,
        metadata={"namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        addressType="IPv4",
        endpoints=[{"addresses": ["10.0.0.2"], "conditions": {"ready": False}}, {"addresses": ["10.0.0.1"]}],
        ports=[{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "any", "port": None}],
    )
    assert found == Slice("shop", "web", (packed("10.0.0.1"), packed("10.0.0.2")), (Port("http", 6, 8080),))
    empty = kept(SLICES, metadata={"namespace": "a"}, addressType="IPv4", endpoints=None, ports=None)
    assert empty == Slice("a", "", ())


def test_a_node_is_kept_with_its_zone_addresses_networks_and_labels() -> None:
    labels = {"topology.kubernetes.io/zone": "z1", "a": "b"}
    document: dict[str, Any] = {
        "spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24", "fd00:1::/64"]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "Hostname", "address": "n1"},
            ],
            "images": [{"names": ["a"], "sizeBytes": 1}],
        },
    }
    node = kept(NODES, metadata={"name": "n1", "uid": "u", "labels": labels}, **document)
    assert node.label_map() == labels
    addresses, networks = (packed("192.0.2.1"), packed("203.0.113.1")), ("10.0.1.0/24", "fd00:1::/64")
    assert node == Node("u", "n1", "z1", addresses, networks, node.labels)
    assert NODES.at_once == 50
