"""The agent's own words: what the edges hand to the core and the core to the sinks. Pure data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from itertools import zip_longest
from typing import NamedTuple, NewType, Protocol

import numpy as np
from numpy.typing import NDArray

from podwire_agent.layout import FlowDirection

IfIndex = NewType("IfIndex", int)
"""An interface's index in the agent's network namespace."""

MonitorUid = NewType("MonitorUid", str)
"""A NetworkMonitor's metadata.uid; for a file the UUIDv5 of its name."""

Records = NDArray[np.void]
"""A structured numpy array; the docstring beside its use names the dtype."""


TUPLE = np.dtype(
    [
        ("src_address", "u1", (16,)),
        ("dst_address", "u1", (16,)),
        ("src_port", ">u2"),
        ("dst_port", ">u2"),
        ("protocol", "u1"),
        ("zero", "u1", (3,)),
    ]
)
"""Who sends to whom, as it is in a packet. IPv4 addresses are mapped (::ffff:a.b.c.d), `zero` is zero: two are the
same where their bytes are."""

CONNECTION = np.dtype(
    [
        ("original", TUPLE),
        ("translated", TUPLE),
        ("after_mono_ns", "u8"),
        ("until_mono_ns", "u8"),
        ("zone", "u2"),
        ("ended", "u1"),
        ("zero", "u1", (5,)),
    ]
)
"""What the kernel tells of a connection that it translates (conntrack): that it has begun, or ended, after one time
and not after the other. Both tuples run from client to server: as the client sends, and as the server receives."""


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
    """The sum of the flow records that were folded; never a cell of the program. Falls by what rules filter of it that
    could not be asked earlier."""
    counter: Buffers | None
    """The interface's own counter now; None once the interface is gone."""
    before_attach: tuple[Buffers, Buffers]
    """What the interface had counted before we attached: at least, at most."""
    unverifiable: str = ""
    """Why the interface's counter cannot be compared with ours; "" where it can."""
    gone: bool = False
    held: Traffic = Traffic()
    """The part of what was counted that the rules have not been asked about: nobody knows yet whose it is."""

    @property
    def unsupported(self) -> Traffic:
        """All that could not be parsed, whatever the reason."""
        return sum(self.cells.unsupported, Traffic())

    @property
    def unaccounted(self) -> Traffic:
        """seen - (counted + filtered + unsupported + overflowed): zero when traffic is quiet and all is drained."""
        return self.cells.seen - (self.counted + self.cells.filtered + self.unsupported + self.cells.overflowed)


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


class EndKind(IntEnum):
    """What is known to be at one end of a flow."""

    UNKNOWN = 0
    """An address of the cluster's that is not in view, or whose owner changed while the flow was counted."""
    POD = 1
    SERVICE = 2
    """A service whose backend is not known."""
    NODE = 3
    """A node's own processes."""
    EXTERNAL = 4
    """Outside the cluster."""


class Role(IntEnum):
    """Which way a flow runs between client and server."""

    UNKNOWN = 0
    REQUEST = 1
    RESPONSE = 2


class RoleBy(IntEnum):
    """How the role was found."""

    NOTHING = 0
    SYN = 1
    """The client's first packet was seen."""
    SERVICE_PORT = 2
    """One end is a service's port, or an endpoint's."""
    LOWER_PORT = 3


class JoinedBy(IntEnum):
    """How the service of a flow was found."""

    NOTHING = 0
    """No service is known."""
    CONNTRACK = 1
    """The kernel's own translation."""
    ADDRESS = 2
    """The flow has the service's address, and its backend is not known."""
    GUESS = 3
    """The server is behind one service only."""


class NearBy(IntEnum):
    """How the pod at the near end was found."""

    NOTHING = 0
    INTERFACE = 1
    ADDRESS = 2
    """By the first source address: the last resort."""


class Placed(IntEnum):
    """Where a flow's counts go."""

    ROW = 0
    """Into a row of this agent's."""
    ELSEWHERE = 1
    """They are counted where the same packets pass another interface: mostly at the receiver, seldom at the sender."""
    LEFT_OUT = 2
    """Into no row: on an interface of the host, and not to be correlated, or counted at a veth already."""


class Locality(IntEnum):
    """How far apart the two ends are."""

    UNKNOWN = 0
    SAME_NODE = 1
    SAME_ZONE = 2
    CROSS_ZONE = 3
    OUTSIDE = 4
    """One end is not in the cluster."""


class UncomparedReason(IntEnum):
    """Why packets from pod to pod were not compared at both ends."""

    UNWATCHED = 0
    """The receiver's interface is not watched, or cannot be."""
    NO_START = 1
    """An end did not see the flow from its start or from a common pause."""
    FRAGMENT = 2
    """Later fragments have no ports."""
    TRANSLATED = 3
    """The address was rewritten on the way, and how is not known."""
    FILTERED = 4
    """The rules measure one end alone."""
    OVERFLOW = 5
    """A table of flows was full."""
    CLOCK = 6
    """The two nodes' clocks are too far apart, or the path is too long."""
    UNREACHABLE = 7
    """The receiver's agent could not be asked."""


class FailureReason(IntEnum):
    """Why a TCP connection failed."""

    REFUSED = 0
    """A RST answered the SYN."""
    TIMED_OUT = 1
    """Nothing answered the SYN."""
    RESET = 2
    """A RST ended an established connection."""


class Entity(Protocol):
    """One end of a flow, in words."""

    @property
    def kind(self) -> EndKind:
        """What it is."""

    @property
    def namespace(self) -> str:
        """Of a pod or a service."""

    @property
    def name(self) -> str:
        """Of the pod, the service, the node, or the external network."""

    @property
    def workload_kind(self) -> str:
        """Of a pod's owner."""

    @property
    def workload(self) -> str:
        """The name of a pod's owner."""


class Labels(NamedTuple):
    """What tells one row from another: workload to workload, through which service, in which direction."""

    src_namespace: str
    src_workload: str
    src_kind: str
    dst_namespace: str
    dst_workload: str
    dst_kind: str
    service: str
    """The service's name, in the namespace of its backend; "" where none is known."""
    server_port: int
    """The service's port, else the server's; on both directions. 0 without ports."""
    protocol: int
    """IANA's number."""
    direction: Role
    locality: Locality


OTHER = Labels("", "other", "Other", "", "other", "Other", "", 0, 0, Role.UNKNOWN, Locality.UNKNOWN)
"""The row of everything that has none of its own."""

LatencyBuckets = Mapping[str, Mapping[int, int]]
""""handshake" or "response" -> bucket -> how many. Bucket i: more than 2^(i/4) s, at most 2^((i+1)/4) s."""


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Rows as they are told: all columns of the same length."""

    labels: Sequence[Labels]
    counts: Records
    """core.rows.COUNTS: of the report's interval, or since `since_unix_ns` where that is given."""
    role_by: NDArray[np.uint8]
    """RoleBy: the weakest by which a flow in the row was judged since it began; so are the next two."""
    joined_by: NDArray[np.uint8]
    near_by: NDArray[np.uint8]
    sequence: int | None = None
    """Of the first; row i has sequence + i. Repeated exactly when a report is repeated after a crash."""
    since_unix_ns: NDArray[np.int64] | None = None
    latency: Mapping[Labels, LatencyBuckets] = field(default_factory=dict)
    """Of the rows that have any."""


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
    ends: Records | None = None
    """core.correlate.ENDS, one for each of `flows`; None: nobody has asked who they are."""
    entities: Sequence[Entity] = ()
    """What `ends` counts by."""
    edges: Edges | None = None
    """None: rows are not kept."""
