"""The agent's own words: what the edges hand to the core and the core to the sinks. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from typing import NewType

import numpy as np
from numpy.typing import NDArray

from podwire_agent.layout import FlowDirection

IfIndex = NewType("IfIndex", int)
"""An interface's index in the agent's network namespace."""

MonitorUid = NewType("MonitorUid", str)
"""A NetworkMonitor's metadata.uid; for a file the UUIDv5 of its name."""

Records = NDArray[np.void]
"""A structured numpy array; the docstring beside its use names the dtype."""


class HookPoint(StrEnum):
    """Where on an interface a program runs, as the kernel names it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class AttachKind(StrEnum):
    """By which mechanism a program sits at a hook point."""

    CLSACT = "clsact"
    TCX = "tcx"


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface as netlink tells it."""

    index: IfIndex
    name: str
    kind: str
    """IFLA_INFO_KIND: "veth", "bridge"; "" for hardware."""
    peer_index: int = 0
    """IFLA_LINK: the peer's ifindex, in the peer's namespace; 0 where there is none."""
    peer_netns_id: int | None = None
    """IFLA_LINK_NETNSID: the peer lives in another namespace; None: in this one, or no peer."""
    up: bool = False
    xdp: bool = False
    """An XDP program sits on the interface."""
    qdisc: str = ""
    """IFLA_QDISC: the root qdisc, "noqueue" on a veth left alone."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """Socket buffers and their bytes, as an interface counts them."""

    buffers: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """An interface's own counters (IFLA_STATS64), received and sent."""

    received: Buffers = Buffers()
    sent: Buffers = Buffers()

    def of(self, hook: HookPoint) -> Buffers:
        """The counter that moves with what passes `hook`."""
        return self.received if hook is HookPoint.INGRESS else self.sent


@dataclass(frozen=True, slots=True)
class Attached:
    """A program of ours at a hook point."""

    hook: HookPoint
    kind: AttachKind
    priority: int = 0
    """Of the TC filter; 0 for TCX."""
    note: str = ""
    """Why not clsact at priority 1, in words; "" where it is."""
    hidden_by: str = ""
    """The foreign program that runs before ours and may end the chain; "" where there is none."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Packets and bytes on the wire."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.packets + other.packets, self.bytes + other.bytes)

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.packets - other.packets, self.bytes - other.bytes)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the program's cells of one interface and direction hold (struct ledger), summed over CPUs."""

    seen: Traffic = Traffic()
    filtered: Traffic = Traffic()
    overflowed: Traffic = Traffic()
    unsupported: tuple[Traffic, ...] = ()
    """By layout.UnsupportedReason."""
    estimated: Traffic = Traffic()
    buffers: Buffers = Buffers()
    tagged_buffers: int = 0

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.seen + other.seen,
            self.filtered + other.filtered,
            self.overflowed + other.overflowed,
            tuple(a + b for a, b in zip_longest(self.unsupported, other.unsupported, fillvalue=Traffic())),
            self.estimated + other.estimated,
            Buffers(self.buffers.buffers + other.buffers.buffers, self.buffers.bytes + other.buffers.bytes),
            self.tagged_buffers + other.tagged_buffers,
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of one interface and direction, cumulative since attach."""

    interface: str
    ifindex: IfIndex
    direction: FlowDirection
    cells: Seen
    counted: Traffic
    """The sum of the flow records that were folded; never a cell of the program."""
    counter: Buffers | None
    """The interface's own counter now; None once the interface is gone."""
    before_attach: tuple[Buffers, Buffers]
    """What the interface had counted before we attached: at least, at most."""
    unverifiable: str = ""
    """Why the interface's counter cannot be compared with ours; "" where it can."""
    gone: bool = False

    @property
    def unsupported(self) -> Traffic:
        """All that could not be parsed, whatever the reason."""
        return sum(self.cells.unsupported, Traffic())

    @property
    def unaccounted(self) -> Traffic:
        """seen - (counted + filtered + unsupported + overflowed): zero when traffic is quiet and all is drained."""
        return self.cells.seen - (self.counted + self.cells.filtered + self.unsupported + self.cells.overflowed)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One report of one monitor, ready for the sinks. Frozen; sinks share it."""

    node: str
    monitor: str
    monitor_uid: MonitorUid
    boot_id: str
    sequence: int
    """Of the first flow; flow i has sequence + i. Repeated exactly when a report is repeated after a crash."""
    time_unix_ns: int
    unix_minus_mono_ns: int
    """Add to a CLOCK_MONOTONIC time of the flows to have wall-clock time."""
    flows: Records
    """core.table.REPORT dtype: this interval's counts, in the order of their sequence."""
    interface_names: dict[IfIndex, str] = field(default_factory=dict)
    ledgers: tuple[Ledger, ...] = ()
    final: bool = False
    """The last report before an orderly end."""


class RuleListName(StrEnum):
    """A list of rules, as the resource and the metrics call it."""

    BLACKLIST = "blacklist"
    WHITELIST = "whitelist"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a flow is filtered."""

    list: RuleListName
    rule: str
    """The blacklist's first rule that holds; "": no rule of the whitelist does."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Entries of a map: keys and values of shape (n,), each key once."""

    keys: Records | NDArray[np.uint32]
    values: Records

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, eq=False)
class RuleEntries:
    """A set of rules as the program reads it (bpf/match.bpf.h). An empty table: no rule asks."""

    blacklist: tuple[str, ...]
    """The names of its rules; their counters have the same indexes."""
    settings: Records
    """layout.RULE_SET of shape (1,), but for generation, half and edition."""
    interfaces: Table
    """ifindex -> layout.END_BITS."""
    addresses: Table
    """layout.ADDRESS -> layout.ADDRESS_BITS."""
    prefixes: Table
    """layout.PREFIX_KEY -> layout.ADDRESS_BITS."""
    ports: Table
    """0 to 65535 -> layout.RULE_BITS, or none."""
    protocols: Table
    """0 to 255 -> layout.RULE_BITS, or none."""
