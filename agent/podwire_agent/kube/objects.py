"""The objects of the cluster, as far as the agent uses them, and how they are read from the API server's JSON."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")
_Wire = TypeVar("_Wire", bound="Meta")

SERVICE_LABEL = "kubernetes.io/service-name"
"""Of an EndpointSlice."""

_V4_MAPPED = bytes(10) + b"\xff\xff"


class Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Of any object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    owner_references: tuple[Owner, ...] = ()


class Owner(msgspec.Struct, frozen=True, gc=False):
    """An entry of ownerReferences."""

    kind: str = ""
    name: str = ""
    controller: bool | None = None


class Meta(msgspec.Struct, frozen=True, gc=False):
    """Any object's metadata, nothing else of it."""

    metadata: Metadata = Metadata()


class NodeSelector(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Where `nodeSelector` is."""

    node_selector: dict[str, str] | None = None


class WireMonitor(Meta, frozen=True, gc=False, rename="camel"):
    """A NetworkMonitor; podwire_api reads its spec."""

    api_version: str = ""
    kind: str = ""
    spec: msgspec.Raw = msgspec.Raw(b"{}")


class MonitorNodes(msgspec.Struct, frozen=True, gc=False):
    """Of a NetworkMonitor's spec, what says which nodes it means."""

    nodes: NodeSelector | None = None


class Pool(Meta, frozen=True, gc=False):
    """An AgentPool."""

    spec: NodeSelector = NodeSelector()


class _PodIp(msgspec.Struct, frozen=True, gc=False):
    ip: str = ""


class _PodSpec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    node_name: str = ""
    host_network: bool = False


class _PodStatus(msgspec.Struct, frozen=True, gc=False):
    phase: str = ""
    addresses: tuple[_PodIp, ...] = msgspec.field(default=(), name="podIPs")


class WirePod(Meta, frozen=True, gc=False):
    """A Pod as the server sends it."""

    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A Pod as the agent keeps it: flat, and with the strings that repeat kept once."""

    uid: str
    namespace: str
    name: str
    node: str
    """The node's name; "" while the pod has none."""
    phase: str
    host_network: bool
    addresses: tuple[bytes, ...]
    """16 bytes in network order each, IPv4 mapped into IPv6."""
    owner_kind: str
    """Of its controller, such as ReplicaSet; "" where it has none."""
    owner_name: str
    labels: tuple[str, ...]
    """Key, value, key, value, ..."""
    deleted: bool
    """It is being deleted."""

    @property
    def ended(self) -> bool:
        """Its containers have ended for good; its addresses may be another pod's."""
        return self.phase in {"Succeeded", "Failed"}

    def label_map(self) -> dict[str, str]:
        """The labels by key."""
        return dict(zip(self.labels[::2], self.labels[1::2], strict=True))


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """A Namespace as the agent keeps it."""

    name: str
    labels: tuple[str, ...]
    """Key, value, key, value, ..."""

    def label_map(self) -> dict[str, str]:
        """The labels by key."""
        return dict(zip(self.labels[::2], self.labels[1::2], strict=True))


class _ServiceSpec(msgspec.Struct, frozen=True, gc=False):
    addresses: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")


class WireService(Meta, frozen=True, gc=False):
    """A Service as the server sends it."""

    spec: _ServiceSpec = _ServiceSpec()


class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service as the agent keeps it."""

    namespace: str
    name: str
    addresses: tuple[bytes, ...]
    """16 bytes each; none of a headless one."""


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """Of an EndpointSlice."""

    addresses: tuple[str, ...] = ()


class WireSlice(Meta, frozen=True, gc=False, rename="camel"):
    """An EndpointSlice as the server sends it."""

    address_type: str = ""
    endpoints: tuple[Endpoint, ...] | None = None


class Slice(msgspec.Struct, frozen=True, gc=False):
    """An EndpointSlice as the agent keeps it."""

    namespace: str
    service: str
    """The service's name; "" where it is none's."""
    addresses: tuple[bytes, ...]
    """16 bytes each, ready or not: conversations end later than readiness."""


class WireConfigMap(Meta, frozen=True, gc=False):
    """A ConfigMap as the server sends it."""

    data: dict[str, str] | None = None


class ListMeta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Of a list, or one page of it."""

    resource_version: str = ""
    next_page: str = msgspec.field(default="", name="continue")
    remaining_item_count: int = 0
    """Behind this page."""


class Page(msgspec.Struct, Generic[_Wire], gc=False):
    """One page of a list."""

    metadata: ListMeta
    items: list[_Wire]


class Event(msgspec.Struct, gc=False):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class Failure(msgspec.Struct, gc=False):
    """What an ERROR event holds: meta/v1 Status."""

    code: int = 500
    message: str = ""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How one kind of object is listed, watched and kept."""

    name: str
    """As messages call it."""
    path: str
    query: dict[str, str]
    page: Callable[[bytes], tuple[ListMeta, list[tuple[str, T]]]]
    """A page of the list: its metadata, and each object with its uid."""
    one: Callable[[msgspec.Raw], tuple[Metadata, T]]
    """The object of an event."""


def kind(name: str, path: str, wire: type[_Wire], keep: Callable[[_Wire], T], **query: str) -> Kind[T]:
    """Objects decoded as `wire`, kept as `keep` makes them; `query` narrows list and watch."""
    pages: msgspec.json.Decoder[Page[_Wire]] = msgspec.json.Decoder(Page[wire])  # type: ignore[valid-type] # a value
    one = msgspec.json.Decoder(wire)

    def read_page(body: bytes) -> tuple[ListMeta, list[tuple[str, T]]]:
        page = pages.decode(body)
        return page.metadata, [(item.metadata.uid, keep(item)) for item in page.items]

    def read_one(raw: msgspec.Raw) -> tuple[Metadata, T]:
        item = one.decode(raw)
        return item.metadata, keep(item)

    return Kind(name, path, query, read_page, read_one)


def address_bytes(text: str) -> bytes:
    """16 bytes in network order, IPv4 mapped into IPv6. OSError if it is no address."""
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text)
    return _V4_MAPPED + socket.inet_pton(socket.AF_INET, text)


def keep_pod(pod: WirePod) -> Pod:
    """What is kept of it."""
    meta = pod.metadata
    intern = sys.intern
    owner = next((each for each in meta.owner_references if each.controller), None)
    return Pod(
        uid=meta.uid,
        namespace=intern(meta.namespace),
        name=meta.name,
        node=intern(pod.spec.node_name),
        phase=intern(pod.status.phase),
        host_network=pod.spec.host_network,
        addresses=tuple(address_bytes(each.ip) for each in pod.status.addresses if each.ip),
        owner_kind=intern(owner.kind) if owner else "",
        owner_name=intern(owner.name) if owner else "",
        labels=_labels(meta),
        deleted=meta.deletion_timestamp is not None,
    )


def keep_namespace(namespace: Meta) -> Namespace:
    """What is kept of it."""
    return Namespace(sys.intern(namespace.metadata.name), _labels(namespace.metadata))


def keep_service(service: WireService) -> Service:
    """What is kept of it."""
    addresses = tuple(address_bytes(each) for each in service.spec.addresses if each not in {"", "None"})
    return Service(sys.intern(service.metadata.namespace), service.metadata.name, addresses)


def keep_slice(found: WireSlice) -> Slice:
    """What is kept of it; nothing of names, which a slice may have instead of addresses."""
    meta = found.metadata
    endpoints = found.endpoints or () if found.address_type in {"IPv4", "IPv6"} else ()
    addresses = {address_bytes(address) for each in endpoints for address in each.addresses}
    return Slice(sys.intern(meta.namespace), (meta.labels or {}).get(SERVICE_LABEL, ""), tuple(sorted(addresses)))


def _labels(meta: Metadata) -> tuple[str, ...]:
    labels: list[str] = []
    for key, value in (meta.labels or {}).items():
        labels += (sys.intern(key), sys.intern(value))
    return tuple(labels)
