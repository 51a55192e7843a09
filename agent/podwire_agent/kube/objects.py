"""The objects of the cluster, as far as the agent uses them, and how they are read from the API server's JSON."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from podwire_agent.kube.workloads import workload_of

T = TypeVar("T")
_Wire = TypeVar("_Wire", bound="Meta")

PAGE = 250
"""Objects in a page of a list."""

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
"""As ports name them, and their IANA numbers."""

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


class _Exchange(msgspec.Struct, frozen=True, gc=False):
    port: int = 0


class _PoolSpec(NodeSelector, frozen=True, gc=False, rename="camel"):
    exchange: _Exchange = _Exchange()


class Pool(Meta, frozen=True, gc=False):
    """An AgentPool."""

    spec: _PoolSpec = _PoolSpec()


class _PodIp(msgspec.Struct, frozen=True, gc=False):
    ip: str = ""


class _ContainerPort(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    container_port: int = 0
    host_port: int = 0
    protocol: str = "TCP"
    host_ip: str = msgspec.field(default="", name="hostIP")


class _Container(msgspec.Struct, frozen=True, gc=False):
    ports: tuple[_ContainerPort, ...] | None = None


class _PodSpec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    node_name: str = ""
    host_network: bool = False
    containers: tuple[_Container, ...] = ()
    init_containers: tuple[_Container, ...] | None = None


class _PodStatus(msgspec.Struct, frozen=True, gc=False):
    phase: str = ""
    addresses: tuple[_PodIp, ...] = msgspec.field(default=(), name="podIPs")
    node_addresses: tuple[_PodIp, ...] = msgspec.field(default=(), name="hostIPs")
    start_time: str | None = msgspec.field(default=None, name="startTime")


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
    workload_kind: str
    """Of the workload that it belongs to, such as Deployment."""
    workload: str
    """Its name."""
    labels: tuple[str, ...]
    """Key, value, key, value, ..."""
    deleted: bool
    """It is being deleted."""
    node_ports: tuple[bytes, ...] = ()
    """What it serves at its node's addresses, see `port_bytes`: a pod on the host's network its declared ports, any
    other its host ports."""
    started_unix_s: int = 0
    """When its node took it on, before it had an address, by that node's clock; 0 where it is not known."""

    @property
    def ended(self) -> bool:
        """Its containers have ended for good; its addresses may be another pod's."""
        return self.phase in {"Succeeded", "Failed"}

    def label_map(self) -> dict[str, str]:
        """The labels by key."""
        return dict(zip(self.labels[::2], self.labels[1::2], strict=True))


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
    at_once: int = PAGE
    """Objects in a page: fewer where they are large."""


def kind(
    name: str, path: str, wire: type[_Wire], keep: Callable[[_Wire], T], at_once: int = PAGE, **query: str
) -> Kind[T]:
    """Objects decoded as `wire`, kept as `keep` makes them; `query` narrows list and watch."""
    pages: msgspec.json.Decoder[Page[_Wire]] = msgspec.json.Decoder(Page[wire])  # type: ignore[valid-type] # a value
    one = msgspec.json.Decoder(wire)

    def read_page(body: bytes) -> tuple[ListMeta, list[tuple[str, T]]]:
        page = pages.decode(body)
        return page.metadata, [(item.metadata.uid, keep(item)) for item in page.items]

    def read_one(raw: msgspec.Raw) -> tuple[Metadata, T]:
        item = one.decode(raw)
        return item.metadata, keep(item)

    return Kind(name, path, query, read_page, read_one, at_once)


def address_bytes(text: str) -> bytes:
    """16 bytes in network order, IPv4 mapped into IPv6. OSError if it is no address."""
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text)
    return _V4_MAPPED + socket.inet_pton(socket.AF_INET, text)


def readable(addresses: Iterable[str]) -> tuple[bytes, ...]:
    """16 bytes each, each once; what is no address is passed over: not every field is checked by the API server."""
    found: dict[bytes, None] = {}
    for each in addresses:
        with suppress(OSError):
            found[address_bytes(each)] = None
    return tuple(found)


def port_bytes(address: bytes, protocol: int, port: int) -> bytes:
    """A port at an address, as 19 bytes: the address's 16, the protocol, the port in network order."""
    return address + bytes((protocol, port >> 8, port & 0xFF))


def unix_s(timestamp: str) -> int:
    """Of a timestamp of the API server's; 0 where it is none."""
    try:
        return int(datetime.fromisoformat(timestamp).timestamp()) if timestamp else 0
    except ValueError:
        return 0


def keep_pod(pod: WirePod) -> Pod:
    """What is kept of it."""
    meta = pod.metadata
    intern = sys.intern
    owner = next(((each.kind, each.name) for each in meta.owner_references if each.controller), None)
    created_unix_s = unix_s(meta.creation_timestamp)
    workload_kind, workload = workload_of(meta.name, pod.spec.node_name, owner, meta.labels or {}, created_unix_s)
    addresses = readable(each.ip for each in pod.status.addresses)
    return Pod(
        uid=meta.uid,
        namespace=intern(meta.namespace),
        name=meta.name,
        node=intern(pod.spec.node_name),
        phase=intern(pod.status.phase),
        host_network=pod.spec.host_network,
        addresses=addresses,
        workload_kind=workload_kind,
        workload=workload,
        labels=kept_labels(meta),
        deleted=meta.deletion_timestamp is not None,
        node_ports=tuple(dict.fromkeys(_node_ports(pod, addresses))),
        started_unix_s=unix_s(pod.status.start_time or "") or created_unix_s,
    )


def _node_ports(pod: WirePod, addresses: tuple[bytes, ...]) -> Iterator[bytes]:
    for container in (*pod.spec.containers, *(pod.spec.init_containers or ())):
        for each in container.ports or ():
            number = each.host_port or (each.container_port if pod.spec.host_network else 0)
            protocol = PROTOCOLS.get(each.protocol)
            if not number or protocol is None:
                continue
            at = addresses
            if each.host_ip.strip("0.:"):  # one of the node's, and not all of them
                at = readable([each.host_ip])
            elif not pod.spec.host_network:
                at = readable(one.ip for one in pod.status.node_addresses)
            yield from (port_bytes(address, protocol, number) for address in at)


def kept_labels(meta: Metadata) -> tuple[str, ...]:
    """Key, value, key, value, ...; those that repeat are kept once."""
    labels: list[str] = []
    for key, value in (meta.labels or {}).items():
        labels += (sys.intern(key), sys.intern(value))
    return tuple(labels)
