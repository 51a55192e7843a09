"""A row as a line: workload to workload, through which service, how much, how much of it lost, how slow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np

from podwire_agent.model import (
    Edges,
    FailureReason,
    JoinedBy,
    Labels,
    Locality,
    NearBy,
    Role,
    RoleBy,
    Snapshot,
    UncomparedReason,
)
from podwire_agent.sinks.naming import protocol_name, rfc3339
from podwire_agent.sinks.words import BootId, Count, Port, Time

DirectionName = Literal["request", "response", "unknown"]
LocalityName = Literal["same_node", "same_zone", "cross_zone", "outside", "unknown"]
RoleByName = Literal["syn", "service_port", "lower_port"]
JoinedByName = Literal["conntrack", "address", "guess"]
NearByName = Literal["interface", "address"]

DIRECTION: dict[Role, DirectionName] = {Role.UNKNOWN: "unknown", Role.REQUEST: "request", Role.RESPONSE: "response"}
LOCALITY: dict[Locality, LocalityName] = {
    Locality.UNKNOWN: "unknown",
    Locality.SAME_NODE: "same_node",
    Locality.SAME_ZONE: "same_zone",
    Locality.CROSS_ZONE: "cross_zone",
    Locality.OUTSIDE: "outside",
}
ROLE_BY: dict[int, RoleByName] = {
    RoleBy.SYN: "syn",
    RoleBy.SERVICE_PORT: "service_port",
    RoleBy.LOWER_PORT: "lower_port",
}
JOINED_BY: dict[int, JoinedByName] = {
    JoinedBy.CONNTRACK: "conntrack",
    JoinedBy.ADDRESS: "address",
    JoinedBy.GUESS: "guess",
}
NEAR_BY: dict[int, NearByName] = {NearBy.INTERFACE: "interface", NearBy.ADDRESS: "address"}
FAILURES: dict[int, str] = {each: each.name.lower() for each in FailureReason}
UNCOMPARED: dict[int, str] = {each: each.name.lower() for each in UncomparedReason}


class EdgeLine(msgspec.Struct, tag="edge", tag_field="type"):
    """What went from one workload to another, in one direction, in one report's interval."""

    time: Annotated[Time, msgspec.Meta(description="When the report was made")]
    node: str
    src_namespace: str
    src_workload: str
    src_kind: Annotated[str, msgspec.Meta(description="Deployment …, or Pod, Service, Node, External, Unknown, Other")]
    dst_namespace: str
    dst_workload: str
    dst_kind: str
    service: Annotated[str, msgspec.Meta(description="Its name; empty where none is known")]
    server_port: Annotated[Port, msgspec.Meta(description="The service's, else the server's; in both directions")]
    protocol: Annotated[str, msgspec.Meta(description="As in a flow line; empty for everything without a row")]
    direction: DirectionName
    locality: LocalityName
    packets: Annotated[Count, msgspec.Meta(description="Packets on the wire in this interval")]
    bytes: Annotated[Count, msgspec.Meta(description="Bytes on the wire, Ethernet headers and tags included")]
    boot_id: BootId
    monitor: str
    sequence: Annotated[
        Count | msgspec.UnsetType,
        msgspec.Meta(description="Unique for a monitor, node and boot, over flows too; the same in a repeat"),
    ] = msgspec.UNSET
    since: Annotated[
        Time | msgspec.UnsetType,
        msgspec.Meta(description="Only in /v1/edges: all counts are those since then, and there is no sequence"),
    ] = msgspec.UNSET
    role_by: Annotated[
        RoleByName | msgspec.UnsetType,
        msgspec.Meta(description="How the direction was found, at worst"),
    ] = msgspec.UNSET
    joined_by: Annotated[
        JoinedByName | msgspec.UnsetType,
        msgspec.Meta(description="How the service was found, at worst"),
    ] = msgspec.UNSET
    near_by: Annotated[
        NearByName | msgspec.UnsetType,
        msgspec.Meta(description="How the end on this node was found, at worst"),
    ] = msgspec.UNSET
    lost: Annotated[
        Count | msgspec.UnsetType, msgspec.Meta(description="Packets that left and did not arrive; with compared")
    ] = msgspec.UNSET
    compared: Annotated[
        Count | msgspec.UnsetType, msgspec.Meta(description="Packets whose arrival was looked for; left out if none")
    ] = msgspec.UNSET
    uncompared: Annotated[
        dict[str, Count] | msgspec.UnsetType, msgspec.Meta(description="Packets that could not be, by reason")
    ] = msgspec.UNSET
    connections: Annotated[
        Count | msgspec.UnsetType, msgspec.Meta(description="TCP connections begun; left out if none")
    ] = msgspec.UNSET
    failures: Annotated[
        dict[str, Count] | msgspec.UnsetType, msgspec.Meta(description="TCP connections that failed, by reason")
    ] = msgspec.UNSET
    retransmits: Annotated[
        Count | msgspec.UnsetType, msgspec.Meta(description="TCP segments sent again; left out if none")
    ] = msgspec.UNSET
    latency: Annotated[
        dict[str, dict[int, Count]] | msgspec.UnsetType,
        msgspec.Meta(
            description="handshake, response: how many took more than 2^(i/4) s and at most 2^((i+1)/4) s, by i; "
            "left out if none"
        ),
    ] = msgspec.UNSET


def edge_lines(snapshot: Snapshot, chosen: Sequence[int] | None = None) -> Iterator[EdgeLine]:
    """The rows in their order, or those of these numbers in this order; none where the report has none."""
    edges = snapshot.edges
    if edges is None:
        return
    time = rfc3339(np.array([snapshot.time_unix_ns], np.int64))[0]
    column = {name: edges.counts[name].tolist() for name in edges.counts.dtype.names or ()}
    since = None if edges.since_unix_ns is None else rfc3339(edges.since_unix_ns)
    for i in range(len(edges.labels)) if chosen is None else chosen:
        labels = edges.labels[i]
        lost, compared = column["lost"][i], column["compared"][i]
        yield EdgeLine(
            time=time,
            node=snapshot.node,
            src_namespace=labels.src_namespace,
            src_workload=labels.src_workload,
            src_kind=labels.src_kind,
            dst_namespace=labels.dst_namespace,
            dst_workload=labels.dst_workload,
            dst_kind=labels.dst_kind,
            service=labels.service,
            server_port=labels.server_port,
            protocol=protocol_name(labels.protocol) if labels.protocol else "",
            direction=DIRECTION[labels.direction],
            locality=LOCALITY[labels.locality],
            packets=column["packets"][i],
            bytes=column["bytes"][i],
            boot_id=snapshot.boot_id,
            monitor=snapshot.monitor,
            sequence=msgspec.UNSET if edges.sequence is None else edges.sequence + i,
            since=msgspec.UNSET if since is None else since[i],
            role_by=ROLE_BY.get(edges.role_by[i], msgspec.UNSET),
            joined_by=JOINED_BY.get(edges.joined_by[i], msgspec.UNSET),
            near_by=NEAR_BY.get(edges.near_by[i], msgspec.UNSET),
            lost=lost if compared or lost else msgspec.UNSET,
            compared=compared if compared or lost else msgspec.UNSET,
            uncompared=_by_reason(column["uncompared"][i], UNCOMPARED),
            connections=column["connections"][i] or msgspec.UNSET,
            failures=_by_reason(column["failures"][i], FAILURES),
            retransmits=column["retransmits"][i] or msgspec.UNSET,
            latency=_latency(edges, labels),
        )


def _by_reason(counts: list[int], names: Mapping[int, str]) -> dict[str, int] | msgspec.UnsetType:
    return {names[reason]: count for reason, count in enumerate(counts) if count} or msgspec.UNSET


def _latency(edges: Edges, labels: Labels) -> dict[str, dict[int, int]] | msgspec.UnsetType:
    return {name: dict(buckets) for name, buckets in edges.latency.get(labels, {}).items()} or msgspec.UNSET
