"""A small cluster for the tests of correlation: who is who, what is translated, and what passes each interface.

Plain loops over dictionaries: what the agent does by columns is held against this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.networks import packed
from podwire_agent.core.questions import Vantage
from podwire_agent.core.table import REPORT
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import TUPLE, EndKind, NearBy, Records

TCP, UDP, ICMP = 6, 17, 1
ETH0 = 2
FROM_POD, TO_POD = FlowDirection
CLUSTER = "10."


@dataclass(frozen=True)
class MadeEntity:
    kind: EndKind
    namespace: str = ""
    name: str = ""
    workload_kind: str = ""
    workload: str = ""
    node: str = ""
    zone: str = ""


@dataclass(frozen=True)
class MadeWorkload:
    namespace: str = ""
    name: str = ""
    kind: str = "Unknown"


@dataclass(frozen=True)
class MadeService:
    name: str
    address: str
    port: int
    target: int
    backends: tuple[str, ...]
    namespace: str = "shop"
    protocol: int = TCP
    node_port: int = 0


@dataclass(frozen=True)
class MadePod:
    name: str
    address: str
    node: str
    ifindex: int = 0
    namespace: str = "shop"
    host_ports: tuple[int, ...] = ()
    """Declared; a pod that has some is in its node's network."""

    @property
    def workload(self) -> str:
        return self.name.partition("-")[0]


@dataclass(frozen=True)
class Cluster:
    nodes: dict[str, tuple[str, str]]
    """Name to address and zone."""
    pods: tuple[MadePod, ...]
    services: tuple[MadeService, ...] = ()

    def pod(self, name: str) -> MadePod:
        return next(pod for pod in self.pods if pod.name == name)


SHOP = Cluster(
    nodes={"n1": ("192.168.0.1", "a"), "n2": ("192.168.0.2", "a"), "n3": ("192.168.0.3", "b")},
    pods=(
        MadePod("web-1", "10.1.0.1", "n1", 11),
        MadePod("web-2", "10.1.0.2", "n1", 12),
        MadePod("db-1", "10.2.0.1", "n2", 21),
        MadePod("db-2", "10.3.0.1", "n3", 31),
        MadePod("cache-1", "10.3.0.2", "n3", 32, namespace="data"),
        MadePod("exporter-1", "192.168.0.2", "n2", host_ports=(9100,)),
    ),
    services=(
        MadeService("db", "10.96.0.1", 5432, 15432, ("db-1", "db-2")),
        MadeService("cache", "10.96.0.2", 6379, 16379, ("cache-1",), namespace="data", node_port=30379),
        MadeService("web", "10.96.0.3", 80, 8080, ("web-1",)),
        MadeService("dns", "10.96.0.4", 53, 5353, ("db-2",), protocol=UDP),
    ),
)


class MadeWorld:
    """What the agent of a node sees of a cluster."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self.cluster = cluster
        self.entities: list[MadeEntity] = [MadeEntity(EndKind.UNKNOWN)]
        self.services = cluster.services
        self._by_address: dict[str, int] = {}
        self._by_port: dict[tuple[str, int], int] = {}
        self._by_interface: dict[int, int] = {}
        self.index: dict[str, int] = {}
        for name, (address, zone) in cluster.nodes.items():
            self._by_address[address] = self._add(MadeEntity(EndKind.NODE, name=name, node=name, zone=zone))
        for pod in cluster.pods:
            zone = cluster.nodes[pod.node][1]
            entity = MadeEntity(EndKind.POD, pod.namespace, pod.name, "Deployment", pod.workload, pod.node, zone)
            index = self._add(entity)
            for port in pod.host_ports:
                self._by_port[pod.address, port] = index
            if not pod.host_ports:
                self._by_address[pod.address] = index
            if pod.node == node and pod.ifindex:
                self._by_interface[pod.ifindex] = index
        for service in cluster.services:
            self._add(MadeEntity(EndKind.SERVICE, service.namespace, service.name))
        self._add(MadeEntity(EndKind.EXTERNAL))
        zones, nodes = sorted({zone for _, zone in cluster.nodes.values()}), [*cluster.nodes]
        self.workloads = list(dict.fromkeys(map(_workload, self.entities)))
        self.workload_of = np.array([self.workloads.index(_workload(each)) for each in self.entities], np.int32)
        self.node_of = np.array([nodes.index(each.node) if each.node else -1 for each in self.entities], np.int32)
        self.zone_of = np.array([zones.index(each.zone) if each.zone else -1 for each in self.entities], np.int32)

    def _add(self, entity: MadeEntity) -> int:
        self.entities.append(entity)
        self.index[entity.name] = len(self.entities) - 1
        return len(self.entities) - 1

    def far(
        self,
        addresses: NDArray[np.uint8],
        ports: NDArray[np.uint16],
        protocols: NDArray[np.uint8],
        first_mono_ns: NDArray[np.uint64],
        last_mono_ns: NDArray[np.uint64],
    ) -> NDArray[np.int32]:
        assert len(addresses) == len(ports) == len(protocols) == len(first_mono_ns) == len(last_mono_ns)
        found = []
        for address, port, protocol in zip(texts(addresses), ports.tolist(), protocols.tolist(), strict=True):
            service = self._service_at(address, port, protocol)
            if service >= 0:
                found.append(self.index[self.services[service].name])
            elif (address, port) in self._by_port:
                found.append(self._by_port[address, port])
            elif address in self._by_address:
                found.append(self._by_address[address])
            else:
                found.append(0 if address.startswith(CLUSTER) else len(self.entities) - 1)
        return np.array(found, np.int32)

    def near(
        self,
        ifindexes: NDArray[np.uint32],
        addresses: NDArray[np.uint8],
        first_mono_ns: NDArray[np.uint64],
        last_mono_ns: NDArray[np.uint64],
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        assert len(ifindexes) == len(addresses) == len(first_mono_ns) == len(last_mono_ns)
        near = np.array([self._by_interface.get(index, 0) for index in ifindexes.tolist()], np.int32)
        return near, np.where(near > 0, NearBy.INTERFACE, NearBy.NOTHING).astype(np.uint8)

    def service_at(
        self, addresses: NDArray[np.uint8], ports: NDArray[np.uint16], protocols: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        at = zip(texts(addresses), ports.tolist(), protocols.tolist(), strict=True)
        found = [self._service_at(*each) for each in at]
        return np.array(found, np.int32), np.array([self.services[i].port if i >= 0 else 0 for i in found], np.uint16)

    def _service_at(self, address: str, port: int, protocol: int) -> int:
        nodes = {each for each, _ in self.cluster.nodes.values()}
        for index, service in enumerate(self.services):
            at_node_port = address in nodes and port == service.node_port != 0
            if protocol == service.protocol and (at_node_port or (address, port) == (service.address, service.port)):
                return index
        return -1

    def _behind(self, address: str, port: int, protocol: int) -> list[int]:
        return [
            index
            for index, service in enumerate(self.services)
            if (port, protocol) == (service.target, service.protocol)
            and any(self.cluster.pod(each).address == address for each in service.backends)
        ]

    def service_behind(
        self, addresses: NDArray[np.uint8], ports: NDArray[np.uint16], protocols: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        candidates = [
            self._behind(*each) for each in zip(texts(addresses), ports.tolist(), protocols.tolist(), strict=True)
        ]
        found = [each[0] if len(each) == 1 else -2 if each else -1 for each in candidates]
        return np.array(found, np.int32), np.array([self.services[i].port if i >= 0 else 0 for i in found], np.uint16)

    def is_endpoint_port(
        self, addresses: NDArray[np.uint8], ports: NDArray[np.uint16], protocols: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        at = zip(texts(addresses), ports.tolist(), protocols.tolist(), strict=True)
        return np.array([bool(self._behind(*each)) for each in at], np.bool_)

    def only(
        self, services: NDArray[np.int32], ports: NDArray[np.uint16], protocols: NDArray[np.uint8]
    ) -> NDArray[np.int32]:
        assert len(services) == len(ports) == len(protocols)
        backends = [self.services[index].backends for index in services.tolist()]
        return np.array([self.index[each[0]] if len(each) == 1 else -1 for each in backends], np.int32)


def _workload(entity: MadeEntity) -> MadeWorkload:
    match entity.kind:
        case EndKind.POD:
            return MadeWorkload(entity.namespace, entity.workload, entity.workload_kind)
        case EndKind.UNKNOWN:
            return MadeWorkload()
        case _:
            return MadeWorkload(entity.namespace, entity.name, entity.kind.name.capitalize())


@dataclass(frozen=True)
class Tuple:
    """Who sends to whom, in words."""

    src: str
    src_port: int
    dst: str
    dst_port: int
    protocol: int = TCP

    @property
    def back(self) -> Tuple:
        return Tuple(self.dst, self.dst_port, self.src, self.src_port, self.protocol)


@dataclass(frozen=True)
class MadeTranslated:
    found: NDArray[np.bool_]
    is_reply: NDArray[np.bool_]
    original: Records
    translated: Records
    dnat: NDArray[np.bool_]
    snat: NDArray[np.bool_]


class MadeTranslations:
    """Of one node: pairs of the original and the translated tuple."""

    def __init__(self, pairs: Iterable[tuple[Tuple, Tuple]] = ()) -> None:
        self._known: dict[Tuple, tuple[bool, Tuple, Tuple]] = {}
        for original, translated in pairs:
            for form in (original, translated):
                self._known[form] = (False, original, translated)
                self._known[form.back] = (True, original, translated)

    def of(
        self, tuples: Records, first_mono_ns: NDArray[np.uint64], last_mono_ns: NDArray[np.uint64]
    ) -> MadeTranslated:
        assert len(tuples) == len(first_mono_ns) == len(last_mono_ns)
        known = [self._known.get(each) for each in tuples_in_words(tuples)]
        found = [each or (False, NOBODY, NOBODY) for each in known]
        return MadeTranslated(
            np.array([each is not None for each in known], np.bool_),
            np.array([reply for reply, _, _ in found], np.bool_),
            tuples_of([original for _, original, _ in found]),
            tuples_of([translated for _, _, translated in found]),
            np.array([(o.dst, o.dst_port) != (t.dst, t.dst_port) for _, o, t in found], np.bool_),
            np.array([(o.src, o.src_port) != (t.src, t.src_port) for _, o, t in found], np.bool_),
        )


NOBODY = Tuple("0.0.0.0", 0, "0.0.0.0", 0, 0)  # noqa: S104 (no place to listen)


@dataclass(frozen=True)
class MadeCovers:
    """Whose interfaces the monitor watches."""

    world: MadeWorld
    pods: frozenset[str]
    nodes: frozenset[str] = frozenset()
    """Those whose own interfaces are watched."""

    def arrives(self, receivers: NDArray[np.int32], tuples: Records, kinds: NDArray[np.uint8]) -> NDArray[np.bool_]:
        assert len(receivers) == len(tuples) == len(kinds)
        return np.array([self._has_a_watched_veth(index) for index in receivers.tolist()], np.bool_)

    def leaves(self, senders: NDArray[np.int32], tuples: Records, kinds: NDArray[np.uint8]) -> NDArray[np.bool_]:
        assert len(senders) == len(tuples) == len(kinds)
        entities = self.world.entities
        return np.array(
            [self._has_a_watched_veth(index) or entities[index].node in self._of(index) for index in senders.tolist()],
            np.bool_,
        )

    def _of(self, index: int) -> frozenset[str]:
        entity = self.world.entities[index]
        own_network = entity.kind is EndKind.POD and not self.world.cluster.pod(entity.name).host_ports
        return frozenset() if own_network else self.nodes

    def _has_a_watched_veth(self, index: int) -> bool:
        entity = self.world.entities[index]
        if entity.kind is EndKind.SERVICE:
            service = next(each for each in self.world.services if each.name == entity.name)
            return all(self._has_a_watched_veth(self.world.index[each]) for each in service.backends)
        return entity.kind is EndKind.POD and entity.name in self.pods


@dataclass(frozen=True)
class Crossing:
    """A flow as it passes an interface of a node."""

    node: str
    ifindex: int
    direction: FlowDirection
    seen: Tuple
    packets: int = 10
    bytes: int = 1000
    syn: bool = False
    syn_ack: bool = False
    kind: FlowKind = FlowKind.FLOW_WHOLE


def report(crossings: Sequence[Crossing]) -> Records:
    """core.table.REPORT."""
    flows = np.zeros(len(crossings), REPORT)
    tuples = tuples_of([crossing.seen for crossing in crossings])
    for name in ("src_address", "dst_address", "src_port", "dst_port", "protocol"):
        flows["key"][name] = tuples[name]
    flows["key"]["ifindex"] = [crossing.ifindex for crossing in crossings]
    flows["key"]["kind"] = [crossing.kind for crossing in crossings]
    for name in ("direction", "packets", "bytes"):
        flows[name] = [getattr(crossing, name) for crossing in crossings]
    flows["seen_syn"] = [crossing.syn for crossing in crossings]
    flows["seen_syn_ack"] = [crossing.syn_ack for crossing in crossings]
    return flows


def texts(addresses: NDArray[np.uint8]) -> list[str]:
    """(n, 16) in words."""
    parsed = [ip_address(bytes(each)) for each in addresses]
    return [str(getattr(each, "ipv4_mapped", None) or each) for each in parsed]


def tuples_of(tuples: Sequence[Tuple]) -> Records:
    """core.questions.TUPLE."""
    made = np.zeros(len(tuples), TUPLE)
    for row, each in zip(made, tuples, strict=True):
        row["src_address"], row["dst_address"] = list(packed(each.src)), list(packed(each.dst))
        row["src_port"], row["dst_port"], row["protocol"] = each.src_port, each.dst_port, each.protocol
    return made


def tuples_in_words(tuples: Records) -> list[Tuple]:
    """Of core.questions.TUPLE."""
    return [
        Tuple(src, src_port, dst, dst_port, protocol)
        for src, src_port, dst, dst_port, protocol in zip(
            texts(tuples["src_address"]),
            tuples["src_port"].tolist(),
            texts(tuples["dst_address"]),
            tuples["dst_port"].tolist(),
            tuples["protocol"].tolist(),
            strict=True,
        )
    ]


@dataclass
class Network:
    """What conversations leave at the interfaces of a cluster, and in the kernels of its nodes."""

    cluster: Cluster
    crossings: list[Crossing] = field(default_factory=list)
    translations: dict[str, list[tuple[Tuple, Tuple]]] = field(default_factory=dict)

    def talk(
        self,
        original: Tuple,
        translated: Tuple | None = None,
        *,
        at: str = "",
        client: tuple[str, int],
        server: tuple[str, int],
        sizes: tuple[int, int] = (1000, 5000),
        syn: bool = True,
    ) -> None:
        """A conversation, and its answers. `client`, `server`: node and ifindex of the veth; 0: the node's own
        processes, "": outside. `at`: the node that translates.
        """
        wire = translated or original
        if translated is not None:
            self.translations.setdefault(at, []).append((original, translated))
        at = at or client[0]
        opens = syn and original.protocol == TCP
        for node, first, last in self._legs(client, server, at, original, wire):
            for ifindex, direction, seen in (first, last):
                if ifindex:
                    self.crossings += [
                        Crossing(node, ifindex, direction, seen, sizes[0] // 100, sizes[0], syn=opens),
                        Crossing(
                            node, ifindex, _turned(direction), seen.back, sizes[1] // 100, sizes[1], syn_ack=opens
                        ),
                    ]

    def _legs(
        self, client: tuple[str, int], server: tuple[str, int], at: str, original: Tuple, wire: Tuple
    ) -> Iterable[tuple[str, tuple[int, FlowDirection, Tuple], tuple[int, FlowDirection, Tuple]]]:
        """The nodes on the way, and through which interface the request comes in and goes out."""
        way = [node for node, _ in groupby(node for node in (client[0], at, server[0]) if node)]
        translated = False
        for place, node in enumerate(way):
            before = wire if translated else original
            translated = translated or node == at
            after = wire if translated else original
            comes = (client[1], FROM_POD, before) if not place and node == client[0] else (ETH0, TO_POD, before)
            last = place == len(way) - 1
            goes = (server[1], TO_POD, after) if last and node == server[0] else (ETH0, FROM_POD, after)
            yield node, comes, goes

    def seen_on(self, node: str, interfaces: frozenset[int]) -> list[Crossing]:
        """What a monitor of these interfaces counts there."""
        return [each for each in self.crossings if each.node == node and each.ifindex in interfaces]


def _turned(direction: FlowDirection) -> FlowDirection:
    return TO_POD if direction is FROM_POD else FROM_POD


def vantage(node: str, world: MadeWorld | None = None, *, host: bool = False) -> Vantage:
    """Of the agent on a node."""
    plain = Vantage(node, frozenset({ETH0}) if host else frozenset())
    return replace(plain, backends=world)
