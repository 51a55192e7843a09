"""Who talks to whom: the two ends of each flow, its service, which end is the server, and where its counts go.

The near end of a flow on a pod's veth is the pod behind the interface; the far end is told by its address. Where the
kernel has translated the flow (conntrack), both ends are those that talk to each other, whatever addresses are seen
here; else an address that is a service's stands for the service. What cannot be told stays Unknown.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.fragments import siblings
from podwire_agent.core.placing import place
from podwire_agent.core.questions import Covers, Flags, Indexes, Ports, Translations, Vantage, World
from podwire_agent.core.talk import Talk, kinds_of, without_port
from podwire_agent.model import EndKind, JoinedBy, NearBy, Records, Role, RoleBy

ENDS = np.dtype(
    [
        ("src", "i4"),
        ("dst", "i4"),
        ("service", "i4"),
        ("server_port", "u2"),
        ("role", "u1"),
        ("role_by", "u1"),
        ("joined_by", "u1"),
        ("near_by", "u1"),
        ("placed", "u1"),
        ("protocol", "u1"),
        ("tells_tcp", "u1"),
        ("zero", "u1", (3,)),
    ]
)
"""The ends of a flow. src, dst: of World.entities. service: of World.services, -1: none is known. server_port: the
service's port, else the server's, on both directions; 0 without ports. role, role_by, joined_by, near_by, placed: of
the enums in model.py. tells_tcp: what the flow tells of TCP connections is counted here, wherever its bytes are."""

TUNNEL_PROTOCOLS = np.array([4, 41, 47, 50, 51], np.uint8)
"""IPIP, IPv6 in IPv4, GRE, ESP, AH."""

TUNNEL_PORTS = np.array([4500, 4789, 6081, 6784, 8472, 51820, 51821], np.uint16)
"""UDP between nodes: IPsec (RFC 3948), VXLAN (RFC 7348), Geneve (RFC 8926), Weave, VXLAN as Linux numbered it first,
and WireGuard as Calico, Cilium and Flannel do."""


UNTOLD = Vantage()
"""All interfaces are pods' veths."""


def correlate(
    flows: Records, world: World, translations: Translations, covers: Covers, vantage: Vantage = UNTOLD
) -> Records:
    """core.table.REPORT (n,) -> ENDS (n,). `flows` need key, direction, bytes, times and the TCP flags only."""
    return ends_of(Talk.of(flows, translations), flows, world, covers, vantage)


def ends_of(talk: Talk, flows: Records, world: World, covers: Covers, vantage: Vantage = UNTOLD) -> Records:
    """The same of flows whose translations are looked up."""
    ends = np.zeros(len(flows), ENDS)
    if not len(flows):
        return ends
    ends["protocol"] = talk.protocol
    times = talk.first_mono_ns, talk.last_mono_ns
    far = world.far(talk.far_address, talk.far_port, talk.protocol, *times)
    ifindexes: NDArray[np.uint32] = np.ascontiguousarray(flows["key"]["ifindex"])
    near, near_by = world.near(ifindexes, talk.near_address, *times)
    host = vantage.on_host(ifindexes)
    out = np.zeros(len(flows), np.bool_)
    if host.any():
        near, near_by, out = _of_the_node(talk, host, near, near_by, far, world, vantage)
    ends["near_by"] = near_by
    services, service_ports, addressed = _services(talk, world)
    ends["joined_by"][services >= 0] = JoinedBy.CONNTRACK
    ends["joined_by"][addressed] = JoinedBy.ADDRESS
    if vantage.backends is not None and addressed.any():
        at = np.flatnonzero(addressed)
        only = vantage.backends.only(services[at], service_ports[at], talk.protocol[at])
        guessed = at[only >= 0]
        far = far.copy()
        far[guessed] = only[only >= 0]
        ends["joined_by"][guessed] = JoinedBy.GUESS
    ends["src"] = np.where(talk.to_pod, far, near)
    ends["dst"] = np.where(talk.to_pod, near, far)
    _judge_roles(ends, flows, talk, addressed, world)
    _guess_services(ends, talk, services, service_ports, world)
    ends["service"] = services
    ends["server_port"] = _server_ports(ends, talk, service_ports)
    place(ends, talk, addressed, host, out, covers, world)
    _join_fragments(ends, flows)
    return ends


def _of_the_node(
    talk: Talk,
    host: Flags,
    near: Indexes,
    near_by: NDArray[np.uint8],
    far: Indexes,
    world: World,
    vantage: Vantage,
) -> tuple[Indexes, NDArray[np.uint8], Flags]:
    """The near ends with those on the node's own interfaces, by their address; and what is left out of the latter."""
    near, near_by, out = near.copy(), near_by.copy(), np.zeros(len(host), np.bool_)
    at = np.flatnonzero(host)
    addresses, times = talk.near_address[at], talk.times(at)
    near[at] = world.far(addresses, talk.near_port[at], talk.protocol[at], *times)
    near_by[at] = np.where(near[at] > 0, NearBy.ADDRESS, NearBy.NOTHING)
    by_address = without_port(world, addresses, times)
    out[at] = _not_of_this_node(near[at], by_address, world, vantage) | _tunnels(at, far, talk, world)
    return near, near_by, out


def _not_of_this_node(near: Indexes, by_address: Indexes, world: World, vantage: Vantage) -> Flags:
    """Of flows on the node's own interfaces: what neither begins nor ends in the node's own network.

    A pod's packets were counted at its veth, those for a service go on to a backend, the rest nobody can tell.
    """
    nodes = ((i, each.name) for i, each in enumerate(world.entities) if each.kind == EndKind.NODE)
    here = next((i for i, name in nodes if name == vantage.node), 0)
    if not here:
        return np.ones(len(near), np.bool_)
    kinds = kinds_of(world)
    own_node: Flags = (world.node_of[near] == world.node_of[here]) & (world.node_of[near] >= 0)
    node_or_pod = (kinds[near] == EndKind.NODE) | (kinds[near] == EndKind.POD)
    left_out: Flags = ~(own_node & node_or_pod & (kinds[by_address] == EndKind.NODE))
    return left_out


def _tunnels(at: NDArray[np.intp], far: Indexes, talk: Talk, world: World) -> Flags:
    """Between nodes: what they carry was counted at the pods' veths."""
    protocol = talk.protocol[at]
    ports = np.isin(talk.near_port[at], TUNNEL_PORTS) | np.isin(talk.far_port[at], TUNNEL_PORTS)
    carries: Flags = np.isin(protocol, TUNNEL_PROTOCOLS) | ((protocol == 17) & ports)
    carries &= kinds_of(world)[far[at]] == EndKind.NODE
    return carries


def _services(talk: Talk, world: World) -> tuple[Indexes, Ports, Flags]:
    """The service that was addressed, its port, and whether it is all that is known of the far end."""
    addresses, ports, dnat = talk.far_address, talk.far_port, talk.dnat
    at = np.flatnonzero(dnat)
    if len(at):
        addresses, ports = addresses.copy(), ports.copy()
    addresses[at] = talk.translated.original["dst_address"][at]
    ports[at] = talk.translated.original["dst_port"][at]
    found, found_ports = world.service_at(addresses, ports, talk.protocol)
    known = (found >= 0) & talk.has_ports
    services: Indexes = np.where(known, found, np.int32(-1))
    return services, np.where(known, found_ports, np.uint16(0)), known & ~dnat


def _judge_roles(ends: Records, flows: Records, talk: Talk, addressed: Flags, world: World) -> None:
    """By the SYN, else by who has a service's port, else by the lower port."""
    role, role_by = np.zeros(len(flows), np.uint8), np.zeros(len(flows), np.uint8)
    undecided: Flags = talk.has_ports.copy()

    def decide(request: Flags, response: Flags, by: RoleBy) -> None:
        decided = undecided & (request ^ response)
        # Of those it is one or the other: the numbers are put in by arithmetic, which is faster than by index.
        np.add(role, (decided & request) * np.uint8(Role.REQUEST), out=role)
        np.add(role, (decided & response) * np.uint8(Role.RESPONSE), out=role)
        np.add(role_by, decided * np.uint8(by), out=role_by)
        np.logical_and(undecided, ~decided, out=undecided)

    decide(flows["seen_syn"] != 0, flows["seen_syn_ack"] != 0, RoleBy.SYN)
    is_reply = np.where(talk.dnat, talk.translated.is_reply, talk.to_pod)
    through_service = talk.dnat | addressed
    decide(through_service & ~is_reply, through_service & is_reply, RoleBy.SERVICE_PORT)
    at = np.flatnonzero(undecided)
    if len(at):
        to_endpoint, from_endpoint = np.zeros(len(flows), np.bool_), np.zeros(len(flows), np.bool_)
        to_endpoint[at] = world.is_endpoint_port(*talk.one_end(at, talk.to_pod[at]))
        from_endpoint[at] = world.is_endpoint_port(*talk.one_end(at, ~talk.to_pod[at]))
        decide(to_endpoint, from_endpoint, RoleBy.SERVICE_PORT)
        src_port, dst_port = talk.src_port, talk.dst_port
        decide(dst_port < src_port, src_port < dst_port, RoleBy.LOWER_PORT)
    ends["role"], ends["role_by"] = role, role_by


def _guess_services(ends: Records, talk: Talk, services: Indexes, service_ports: Ports, world: World) -> None:
    """In place: the server is behind one service only. Not where the kernel says that another address was meant."""
    at = np.flatnonzero((services < 0) & ~talk.dnat & (ends["role"] != Role.UNKNOWN))
    if not len(at):
        return
    near = (ends["role"][at] == Role.REQUEST) == talk.to_pod[at]
    found, found_ports = world.service_behind(*talk.one_end(at, near))
    known = found >= 0
    services[at[known]] = found[known]
    service_ports[at[known]] = found_ports[known]
    ends["joined_by"][at[known]] = JoinedBy.GUESS


def _server_ports(ends: Records, talk: Talk, service_ports: Ports) -> Ports:
    """0 where nobody is the server, unless both ends have the same port."""
    role = np.ascontiguousarray(ends["role"])
    near: Flags = (role == Role.REQUEST) == talk.to_pod
    own = np.where(near, talk.near_port, talk.far_port)
    known = talk.has_ports & ((role != Role.UNKNOWN) | (talk.near_port == talk.far_port))
    return np.where(ends["joined_by"] != JoinedBy.NOTHING, service_ports, np.where(known, own, np.uint16(0)))


def _join_fragments(ends: Records, flows: Records) -> None:
    """Later fragments have no ports, so nobody translates them: they go where the rest of their packets goes."""
    later, whole = siblings(flows)
    for name in ("src", "dst", "placed"):
        ends[name][later] = ends[name][whole]
