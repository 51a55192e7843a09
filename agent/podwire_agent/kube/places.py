"""Services, what is behind them, nodes and namespaces, as far as the agent uses them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import msgspec

from podwire_agent.kube.objects import PROTOCOLS, Meta, kept_labels, readable

SERVICE_LABEL = "kubernetes.io/service-name"
"""Of an EndpointSlice."""
ZONE_LABEL = "topology.kubernetes.io/zone"
"""Of a Node."""

_NODE_ADDRESSES = frozenset({"InternalIP", "ExternalIP"})


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """A Namespace as the agent keeps it."""

    name: str
    labels: tuple[str, ...]
    """Key, value, key, value, ..."""

    def label_map(self) -> dict[str, str]:
        """The labels by key."""
        return dict(zip(self.labels[::2], self.labels[1::2], strict=True))


class _WirePort(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int = 0


class _ServiceSpec(msgspec.Struct, frozen=True, gc=False):
    addresses: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    external: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")
    ports: tuple[_WirePort, ...] = ()


class _Ingress(msgspec.Struct, frozen=True, gc=False):
    ip: str = ""


class _LoadBalancer(msgspec.Struct, frozen=True, gc=False):
    ingress: tuple[_Ingress, ...] = ()


class _ServiceStatus(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    load_balancer: _LoadBalancer = _LoadBalancer()


class WireService(Meta, frozen=True, gc=False):
    """A Service as the server sends it."""

    spec: _ServiceSpec = _ServiceSpec()
    status: _ServiceStatus = _ServiceStatus()


class Port(msgspec.Struct, frozen=True, gc=False):
    """Of a Service, or of what is behind it: the name joins the two."""

    name: str
    protocol: int
    """IANA's number."""
    port: int
    node_port: int = 0
    """At every node, of a Service; 0: none."""


class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service as the agent keeps it."""

    namespace: str
    name: str
    addresses: tuple[bytes, ...]
    """Within the cluster, 16 bytes each; none of a headless one."""
    outer_addresses: tuple[bytes, ...] = ()
    """Of its load balancer, and externalIPs."""
    ports: tuple[Port, ...] = ()


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """Of an EndpointSlice."""

    addresses: tuple[str, ...] = ()


class WireSlice(Meta, frozen=True, gc=False, rename="camel"):
    """An EndpointSlice as the server sends it."""

    address_type: str = ""
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[_WirePort, ...] | None = None


class Slice(msgspec.Struct, frozen=True, gc=False):
    """An EndpointSlice as the agent keeps it."""

    namespace: str
    service: str
    """The service's name; "" where it is none's."""
    addresses: tuple[bytes, ...]
    """16 bytes each, ready or not: conversations end later than readiness."""
    ports: tuple[Port, ...] = ()
    """Where they listen: a Service's targetPort, as it is resolved for these."""


class _NodeSpec(msgspec.Struct, frozen=True, gc=False):
    pod_cidrs: tuple[str, ...] = msgspec.field(default=(), name="podCIDRs")


class _NodeAddress(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    address: str = ""


class _NodeStatus(msgspec.Struct, frozen=True, gc=False):
    addresses: tuple[_NodeAddress, ...] = ()


class WireNode(Meta, frozen=True, gc=False):
    """A Node as the server sends it."""

    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class Node(msgspec.Struct, frozen=True, gc=False):
    """A Node as the agent keeps it."""

    uid: str
    name: str
    zone: str
    """"" where it is not told."""
    addresses: tuple[bytes, ...]
    """16 bytes each, inner and outer ones."""
    pod_cidrs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    """Key, value, key, value, ..."""

    def label_map(self) -> dict[str, str]:
        """The labels by key."""
        return dict(zip(self.labels[::2], self.labels[1::2], strict=True))


def keep_namespace(namespace: Meta) -> Namespace:
    """What is kept of it."""
    return Namespace(sys.intern(namespace.metadata.name), kept_labels(namespace.metadata))


def keep_service(service: WireService) -> Service:
    """What is kept of it."""
    spec = service.spec
    outer = (*(each.ip for each in service.status.load_balancer.ingress), *spec.external)
    return Service(
        namespace=sys.intern(service.metadata.namespace),
        name=sys.intern(service.metadata.name),
        addresses=readable(spec.addresses),  # "None" is none
        outer_addresses=readable(outer),
        ports=tuple(_ports(spec.ports)),
    )


def keep_slice(found: WireSlice) -> Slice:
    """What is kept of it; nothing of names, which a slice may have instead of addresses."""
    meta = found.metadata
    endpoints = found.endpoints or () if found.address_type in {"IPv4", "IPv6"} else ()
    addresses = readable(address for each in endpoints for address in each.addresses)
    service = sys.intern((meta.labels or {}).get(SERVICE_LABEL, ""))
    return Slice(sys.intern(meta.namespace), service, tuple(sorted(addresses)), tuple(_ports(found.ports or ())))


def keep_node(node: WireNode) -> Node:
    """What is kept of it."""
    meta = node.metadata
    addresses = (each.address for each in node.status.addresses if each.type in _NODE_ADDRESSES)
    return Node(
        uid=meta.uid,
        name=sys.intern(meta.name),
        zone=sys.intern((meta.labels or {}).get(ZONE_LABEL, "")),
        addresses=readable(addresses),
        pod_cidrs=node.spec.pod_cidrs,
        labels=kept_labels(meta),
    )


def _ports(ports: Iterable[_WirePort]) -> Iterator[Port]:
    """Those with a number: a slice's port without one stands for all, which tells nothing."""
    for each in ports:
        protocol = PROTOCOLS.get(each.protocol or "TCP")
        if each.port and protocol is not None:
            yield Port(sys.intern(each.name or ""), protocol, each.port, each.node_port)
