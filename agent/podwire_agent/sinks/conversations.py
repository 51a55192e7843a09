"""Flows joined to conversations as a pod sees them: what it sends and what it gets in one row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import Records, Traffic
from podwire_agent.sinks.naming import AddressTexts, protocol_name

IDENTITY = np.dtype(
    [
        ("ifindex", "u4"),
        ("protocol", "u1"),
        ("kind", "u1"),
        ("pod", "u1", (16,)),
        ("pod_port", ">u2"),
        ("peer", "u1", (16,)),
        ("peer_port", ">u2"),
    ]
)
CONVERSATION = np.dtype(
    [("identity", IDENTITY), ("packets", "u8", (2,)), ("bytes", "u8", (2,))]  # index: FlowDirection
)
"""Packets and bytes on the wire, by layout.FlowDirection."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row in words."""

    ifindex: int
    protocol: str
    pod: str
    peer: str
    sent: Traffic
    """By the pod."""
    received: Traffic


def conversations(flows: Records) -> Records:
    """CONVERSATION rows of REPORT rows, in no particular order."""
    rows = np.zeros(len(flows), CONVERSATION)
    key, identity = flows["key"], rows["identity"]
    to_pod = flows["direction"] == FlowDirection.TO_POD
    for field in ("ifindex", "protocol", "kind"):
        identity[field] = key[field]
    identity["pod"] = np.where(to_pod[:, None], key["dst_address"], key["src_address"])
    identity["peer"] = np.where(to_pod[:, None], key["src_address"], key["dst_address"])
    identity["pod_port"] = np.where(to_pod, key["dst_port"], key["src_port"])
    identity["peer_port"] = np.where(to_pod, key["src_port"], key["dst_port"])
    for field in ("packets", "bytes"):
        rows[field][np.arange(len(flows)), to_pod.astype(np.intp)] = flows[field]
    return merge(rows)


def merge(rows: Records) -> Records:
    """CONVERSATION rows with one row an identity; packets and bytes added exactly."""
    raw = np.ascontiguousarray(rows["identity"]).view(f"V{IDENTITY.itemsize}").ravel()
    _, first, group = np.unique(raw, return_index=True, return_inverse=True)
    merged = np.zeros(len(first), CONVERSATION)
    merged["identity"] = rows["identity"][first]
    for field in ("packets", "bytes"):
        np.add.at(merged[field], group.ravel(), rows[field])
    return merged


def largest(rows: Records, limit: int) -> Records:
    """The `limit` rows with the most bytes both ways, the largest first."""
    order = np.argsort(rows["bytes"].sum(axis=1), kind="stable")[::-1]
    return rows[order[:limit]]


def in_words(rows: Records, texts: AddressTexts) -> Iterator[Conversation]:
    """For people; meant for a handful of rows."""
    identity = rows["identity"]
    for row, pod, peer in zip(rows, texts.column(identity["pod"]), texts.column(identity["peer"]), strict=True):
        key = row["identity"]
        fragment = key["kind"] == FlowKind.FLOW_LATER_FRAGMENT
        sent, received = (Traffic(int(row["packets"][d]), int(row["bytes"][d])) for d in FlowDirection)
        yield Conversation(
            int(key["ifindex"]),
            protocol_name(int(key["protocol"])) + (" frag" if fragment else ""),
            _end(pod, int(key["pod_port"])),
            _end(peer, int(key["peer_port"])),
            sent,
            received,
        )


def _end(address: str, port: int) -> str:
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
