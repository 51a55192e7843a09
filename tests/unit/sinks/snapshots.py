"""Snapshots for the sinks' tests, made by hand."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from podwire_agent.core.rows import COUNTS
from podwire_agent.core.table import REPORT
from podwire_agent.layout import FlowDirection, FlowKind, UnsupportedReason
from podwire_agent.model import (
    Buffers,
    Edges,
    IfIndex,
    Labels,
    Ledger,
    Locality,
    MonitorUid,
    Records,
    Role,
    Seen,
    Snapshot,
    Traffic,
)
from tests.correlation import SHOP

UNIX_NS = 1_700_000_000_123_456_789
OFFSET_NS = 1_699_000_000_000_000_000


@dataclass(frozen=True)
class Flow:
    """A REPORT row in words."""

    src: str = "10.0.0.1"
    dst: str = "10.0.0.2"
    src_port: int = 40000
    dst_port: int = 80
    protocol: int = 6
    ifindex: int = 7
    direction: FlowDirection = FlowDirection.FROM_POD
    packets: int = 10
    bytes: int = 1000
    kind: FlowKind = FlowKind.FLOW_WHOLE
    estimated: int = 0
    first_mono_ns: int = 1_000_000_000_000_000
    last_mono_ns: int = 1_000_000_001_500_000


def address(text: str) -> Sequence[int]:
    """16 bytes, IPv4 mapped."""
    parsed = ipaddress.ip_address(text)
    mapped = parsed if parsed.version == 6 else ipaddress.ip_address(f"::ffff:{parsed}")
    return list(mapped.packed)


def report(*flows: Flow) -> Records:
    """The flows as the table gives them."""
    rows = np.zeros(len(flows), REPORT)
    for row, flow in zip(rows, flows, strict=True):
        key = row["key"]
        key["src_address"], key["dst_address"] = address(flow.src), address(flow.dst)
        for name in ("src_port", "dst_port", "ifindex", "protocol", "kind"):
            key[name] = getattr(flow, name)
        for name in ("direction", "packets", "bytes", "first_mono_ns", "last_mono_ns", "estimated"):
            row[name] = getattr(flow, name)
    return rows


def many(number: int) -> Records:
    """`number` different flows of a packet each, made fast."""
    rows = np.zeros(number, REPORT)
    rows[:] = report(Flow(packets=1, bytes=60))[0]
    rows["key"]["src_port"] = np.arange(number) % 60000
    rows["key"]["dst_address"][:, 12:] = np.arange(number, dtype=">u4").view("u1").reshape(-1, 4)
    return rows


def ledger(
    direction: FlowDirection = FlowDirection.FROM_POD, packets: int = 10, bytes_: int = 1000, name: str = "veth1"
) -> Ledger:
    """An account in which everything agrees: some ARP, the rest counted, 2 buffers before attach."""
    arp = Traffic(2, 84)
    unsupported = tuple(arp if r is UnsupportedReason.UNSUPPORTED_ARP else Traffic() for r in UnsupportedReason)
    cells = Seen(
        seen=Traffic(packets, bytes_) + arp, unsupported=unsupported, buffers=Buffers(packets + 2, bytes_ + 84)
    )
    return Ledger(
        interface=name,
        ifindex=IfIndex(7),
        direction=direction,
        cells=cells,
        counted=Traffic(packets, bytes_),
        counter=Buffers(packets + 4, bytes_ + 284),
        before_attach=(Buffers(2, 200), Buffers(2, 200)),
    )


def snapshot(flows: Records | None = None, *ledgers: Ledger, sequence: int = 100, final: bool = False) -> Snapshot:
    """A report of monitor "shop" on node "n1"."""
    return Snapshot(
        node="n1",
        monitor="shop",
        monitor_uid=MonitorUid("7c1a"),
        boot_id="b00t",
        sequence=sequence,
        time_unix_ns=UNIX_NS,
        unix_minus_mono_ns=OFFSET_NS,
        flows=report() if flows is None else flows,
        interface_names={IfIndex(7): "veth1"},
        ledgers=ledgers,
        final=final,
    )


def later(earlier: Snapshot, seconds: int, flows: Records) -> Snapshot:
    """The same monitor's next report."""
    return replace(
        earlier,
        flows=flows,
        time_unix_ns=earlier.time_unix_ns + seconds * 10**9,
        sequence=earlier.sequence + len(earlier.flows),
    )


def edges(*pairs: tuple[str, str], sequence: int | None = 500) -> Edges:
    """Rows between the workloads of these pods of tests.correlation.SHOP, of 100, 200, … bytes."""
    counts = np.zeros(len(pairs), COUNTS)
    counts["packets"], counts["bytes"] = np.arange(len(pairs)) + 1, 100 * (np.arange(len(pairs)) + 1)
    pods = [(SHOP.pod(src), SHOP.pod(dst)) for src, dst in pairs]
    labels = [
        Labels(
            src.namespace, src.workload, "Deployment", dst.namespace, dst.workload, "Deployment", "db", 5432, 6,
            Role.REQUEST, Locality.SAME_ZONE,
        )
        for src, dst in pods
    ]  # fmt: skip
    found = np.ones(len(pairs), np.uint8)
    return Edges(labels, counts, role_by=found, joined_by=found, near_by=found, sequence=sequence)
