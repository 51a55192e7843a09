"""One JSON object a line: every flow of a report, its rows, then the accounts that moved.

The structs are the format: docs/reference/*.schema.json are generated from them.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from podwire_agent.errors import SinkClosed
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import EndKind, Entity, Ledger, MonitorUid, Snapshot, Traffic
from podwire_agent.sinks.edges import EdgeLine, edge_lines
from podwire_agent.sinks.naming import DIRECTIONS, REASONS, AddressTexts, interface_name, protocol_name, rfc3339
from podwire_agent.sinks.verdict import Agreement, judge
from podwire_agent.sinks.words import Address, BootId, Count, Direction, Port, Time

ROWS_A_WRITE = 2048
"""About 1 MB of text: the memory a report of any size takes here."""


Kind = Literal["Pod", "Service", "Node", "External", "Unknown"]

KINDS: dict[EndKind, Kind] = {
    EndKind.POD: "Pod",
    EndKind.SERVICE: "Service",
    EndKind.NODE: "Node",
    EndKind.EXTERNAL: "External",
    EndKind.UNKNOWN: "Unknown",
}


class End(msgspec.Struct, omit_defaults=True):
    """Who it is: not who has the address on the packet, where that is a service's. Without a cluster always Unknown."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    workload_kind: str = ""
    workload: str = ""


class FlowLine(msgspec.Struct, tag="flow", tag_field="type", omit_defaults=True):
    """The packets of one connection in one direction, seen on one interface in one report's interval."""

    time: Annotated[Time, msgspec.Meta(description="When the report was made")]
    node: str
    interface: str
    direction: Direction
    protocol: Annotated[str, msgspec.Meta(description="TCP, UDP, ICMPv6 …, or the IANA number in decimal")]
    src_address: Address
    src_port: Port
    dst_address: Address
    dst_port: Port
    packets: Annotated[Count, msgspec.Meta(description="Packets on the wire in this interval")]
    bytes: Annotated[Count, msgspec.Meta(description="Bytes on the wire, Ethernet headers and tags included")]
    first: Annotated[Time, msgspec.Meta(description="Its first packet since the agent knows the connection")]
    last: Annotated[Time, msgspec.Meta(description="Its last packet")]
    src: End
    dst: End
    boot_id: BootId
    monitor: str
    sequence: Annotated[Count, msgspec.Meta(description="Unique for a monitor, node and boot; the same in a repeat")]
    fragment: Annotated[bool, msgspec.Meta(description="IP fragments after the first: their ports are not known")] = (
        False
    )
    estimated: Annotated[bool, msgspec.Meta(description="Some bytes are estimated (unknown tunnel)")] = False


class TrafficCell(msgspec.Struct):
    """Packets and bytes on the wire."""

    packets: Count
    bytes: Count


class SeenCell(msgspec.Struct):
    """All that passed; in buffers as the interface counts them, too."""

    packets: Count
    bytes: Count
    buffers: Count
    buffer_bytes: Count


class UnsupportedCell(msgspec.Struct):
    """What could not be parsed; `reasons` holds those that occurred."""

    packets: Count
    bytes: Count
    reasons: dict[str, TrafficCell]


class BuffersCell(msgspec.Struct):
    """As the interface counts."""

    buffers: Count
    bytes: Count


class BeforeCell(msgspec.Struct):
    """What the interface had counted before attach: at least, at most (traffic ran meanwhile)."""

    low: BuffersCell
    high: BuffersCell


class LedgerLine(msgspec.Struct, tag="ledger", tag_field="type", omit_defaults=True):
    """The account of one interface and direction, cumulative since attach.

    seen = counted + filtered + unsupported + overflowed + what is seen but not read yet.
    """

    time: Annotated[Time, msgspec.Meta(description="When the report was made")]
    node: str
    interface: str
    direction: Direction
    verifiable: Annotated[bool, msgspec.Meta(description="The interface's own counter can be compared with ours")]
    seen: SeenCell
    counted: TrafficCell
    filtered: TrafficCell
    unsupported: UnsupportedCell
    overflowed: TrafficCell
    before_attach: BeforeCell
    boot_id: BootId
    monitor: str
    verdict: Annotated[
        str, msgspec.Meta(description="The comparison in words; exact only while no packet is under way")
    ]
    interface_counter: Annotated[
        BuffersCell | msgspec.UnsetType, msgspec.Meta(description="The interface's own; left out once it is gone")
    ] = msgspec.UNSET
    estimated: Annotated[
        TrafficCell | msgspec.UnsetType, msgspec.Meta(description="The part of seen whose bytes are estimated, if any")
    ] = msgspec.UNSET
    gone: Annotated[bool, msgspec.Meta(description="The interface is gone; its last line")] = False
    final: Annotated[bool, msgspec.Meta(description="The monitor's last report before an orderly end")] = False


def schema(line: type[FlowLine | EdgeLine | LedgerLine]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one kind of line."""
    title = f"Podwire {line.__struct_config__.tag} line"
    body = msgspec.json.schema(line, ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **body}


def ledger_line(ledger: Ledger, snapshot: Snapshot) -> LedgerLine:
    """One account as it goes out with `snapshot`."""
    verdict = judge(ledger)
    low, high = ledger.before_attach
    cells = ledger.cells
    return LedgerLine(
        time=_report_time(snapshot),
        node=snapshot.node,
        interface=ledger.interface,
        direction=DIRECTIONS[ledger.direction],
        verifiable=verdict.agreement is not Agreement.UNVERIFIABLE,
        seen=SeenCell(cells.seen.packets, cells.seen.bytes, cells.buffers.buffers, cells.buffers.bytes),
        counted=_cell(ledger.counted),
        filtered=_cell(cells.filtered),
        unsupported=UnsupportedCell(
            ledger.unsupported.packets,
            ledger.unsupported.bytes,
            {REASONS[r]: _cell(cells.unsupported[r]) for r in REASONS if any_traffic(cells.unsupported, r)},
        ),
        overflowed=_cell(cells.overflowed),
        before_attach=BeforeCell(BuffersCell(low.buffers, low.bytes), BuffersCell(high.buffers, high.bytes)),
        boot_id=snapshot.boot_id,
        monitor=snapshot.monitor,
        verdict=verdict.words,
        interface_counter=(
            BuffersCell(ledger.counter.buffers, ledger.counter.bytes) if ledger.counter else msgspec.UNSET
        ),
        estimated=_cell(cells.estimated) if cells.estimated.packets else msgspec.UNSET,
        gone=ledger.gone,
        final=snapshot.final,
    )


def flow_lines(
    snapshot: Snapshot, texts: AddressTexts, chosen: NDArray[np.intp] | None = None, rows: int = ROWS_A_WRITE
) -> Iterator[list[FlowLine]]:
    """The flows in their order, or those of these numbers in this order; at most `rows` at a time."""
    numbers = np.arange(len(snapshot.flows)) if chosen is None else chosen
    time = _report_time(snapshot)
    ends = _ends(snapshot)
    names = {int(i): interface_name(i, snapshot.interface_names) for i in np.unique(snapshot.flows["key"]["ifindex"])}
    for start in range(0, len(numbers), rows):
        at = numbers[start : start + rows]
        flows = snapshot.flows[at]
        key = flows["key"]
        columns = zip(
            key["ifindex"].tolist(),
            flows["direction"].tolist(),
            key["protocol"].tolist(),
            texts.column(key["src_address"]),
            key["src_port"].tolist(),
            texts.column(key["dst_address"]),
            key["dst_port"].tolist(),
            flows["packets"].tolist(),
            flows["bytes"].tolist(),
            _times(flows["first_mono_ns"], snapshot),
            _times(flows["last_mono_ns"], snapshot),
            (key["kind"] == FlowKind.FLOW_LATER_FRAGMENT).tolist(),
            (flows["estimated"] != 0).tolist(),
            *ends(at),
            (snapshot.sequence + at).tolist(),
            strict=True,
        )
        yield [
            FlowLine(
                time,
                snapshot.node,
                names[ifindex],
                DIRECTIONS[direction],
                protocol_name(protocol),
                src_address,
                src_port,
                dst_address,
                dst_port,
                packets,
                octets,
                first,
                last,
                src,
                dst,
                snapshot.boot_id,
                snapshot.monitor,
                sequence,
                fragment,
                estimated,
            )
            for (
                ifindex,
                direction,
                protocol,
                src_address,
                src_port,
                dst_address,
                dst_port,
                packets,
                octets,
                first,
                last,
                fragment,
                estimated,
                src,
                dst,
                sequence,
            ) in columns
        ]


def _ends(snapshot: Snapshot) -> Callable[[NDArray[np.intp]], tuple[list[End], list[End]]]:
    """Who sends and who receives, of the flows of some numbers; each end is made once."""
    if snapshot.ends is None:
        unknown = End("Unknown")
        return lambda at: ([unknown] * len(at),) * 2
    columns = snapshot.ends["src"], snapshot.ends["dst"]
    made = {index: _end(snapshot.entities[index]) for index in np.unique(np.concatenate(columns)).tolist()}

    def of(at: NDArray[np.intp]) -> tuple[list[End], list[End]]:
        src, dst = ([made[index] for index in column[at].tolist()] for column in columns)
        return src, dst

    return of


def _end(entity: Entity) -> End:
    return End(KINDS[entity.kind], entity.namespace, entity.name, entity.workload_kind, entity.workload)


class LinesSink:
    """Writes to a descriptor, which stays the caller's. Serves several monitors; call from one thread.

    A reader that is gone, or a device that is full, raises SinkClosed: the stream has a torn line and
    nothing more can be written to it.
    """

    def __init__(self, descriptor: int, name: str = "stdout") -> None:
        self.name = name
        self._descriptor = descriptor
        self._texts = AddressTexts()
        self._encoder = msgspec.json.Encoder()
        self._told: dict[MonitorUid, dict[tuple[int, FlowDirection], Ledger]] = {}

    def send(self, snapshot: Snapshot) -> None:
        """Write all lines of the report, flows first, then rows; blocks as long as the reader does."""
        for lines in flow_lines(snapshot, self._texts):
            self._write(self._encoder.encode_lines(lines))
        edges = edge_lines(snapshot)
        while some := list(islice(edges, ROWS_A_WRITE)):
            self._write(self._encoder.encode_lines(some))
        told = self._told.get(snapshot.monitor_uid, {})
        now = {(int(ledger.ifindex), ledger.direction): ledger for ledger in snapshot.ledgers}
        fresh = [ledger for at, ledger in now.items() if snapshot.final or told.get(at) != ledger]
        self._write(self._encoder.encode_lines([ledger_line(ledger, snapshot) for ledger in fresh]))
        self._told[snapshot.monitor_uid] = now
        if snapshot.final:
            del self._told[snapshot.monitor_uid]  # monitors come and go

    def close(self) -> None:
        """Nothing is held back between reports, so there is nothing to do."""

    def _write(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Whoever shares the terminal or pipe with us may have set it to O_NONBLOCK.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError as error:
                raise SinkClosed(
                    f"sink {self.name}: writing lines failed: {_meaning(error)}; no more lines are written, "
                    "the reports go on being counted: restart the agent with a reader that stays"
                ) from error


def any_traffic(cells: tuple[Traffic, ...], index: int) -> bool:
    """Whether `cells` has anything at `index`; it may be shorter."""
    return index < len(cells) and cells[index].packets > 0


def _meaning(error: OSError) -> str:
    return "the reader closed the pipe" if error.errno == errno.EPIPE else str(error.strerror or error)


def _cell(traffic: Traffic) -> TrafficCell:
    return TrafficCell(traffic.packets, traffic.bytes)


def _report_time(snapshot: Snapshot) -> str:
    return rfc3339(np.array([snapshot.time_unix_ns], np.int64))[0]


def _times(mono_ns: NDArray[np.uint64], snapshot: Snapshot) -> list[str]:
    return rfc3339(mono_ns.view(np.int64) + snapshot.unix_minus_mono_ns)
