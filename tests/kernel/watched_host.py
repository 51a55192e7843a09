"""A host whose pods' veths carry the real program, and the truths to compare its figures with."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from podwire_agent.kernel.clsact import Clsact
from podwire_agent.kernel.datapath import PROGRAMS
from podwire_agent.kernel.objects import Program
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import HookPoint, IfIndex, Records
from tests.kernel.datapath_fixtures import Account, Counts, Datapath, counts
from tests.kernel.netns import Host, LinkCounters, Pod

TAG_BYTES = 4
TCP_BYTES_SENT = 200
"""Offset of tcpi_bytes_sent in struct tcp_info (Linux 4.19)."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One direction of a pod's veth: the program's account, and what the interface itself has counted since attach."""

    account: Account
    by_protocol: dict[tuple[int, FlowKind], Counts]
    keys: Records
    values: Records
    interface: Counts
    """In the interface's own units: packets of /proc/net/dev are buffers, unless it cuts super-packets itself."""

    @property
    def buffers(self) -> Counts:
        return self.account.buffers, self.account.buffer_bytes

    def by_ports(self, source: int = 0, destination: int = 0) -> Counts:
        """Packets and bytes of the flows between two ports; 0: any."""
        mine = (self.keys["src_port"] == source) | (not source)
        mine &= (self.keys["dst_port"] == destination) | (not destination)
        return counts(self.values[mine])

    def flow_table(self) -> list[tuple[bytes, int, int]]:
        """Every flow, without the interface: comparable with the other end's."""
        keys = self.keys.copy()
        keys["ifindex"] = 0
        return sorted(
            (key.tobytes(), int(value["packets"]), int(value["bytes"]))
            for key, value in zip(keys, self.values, strict=True)
        )


class WatchedHost:
    """The program is on both hooks of every pod's veth from entry on."""

    def __init__(self, host: Host, datapath: Datapath) -> None:
        self.host = host
        self.first, self.second = host.pods
        self._datapath = datapath
        self._base: dict[int, LinkCounters] = {}

    def __enter__(self) -> Self:
        with self.host.namespace.entered(), Clsact() as clsact:
            for pod in self.host.pods:
                index = self._index(pod)
                self._datapath.watch(index)
                attach(clsact, index, {hook: self._program(hook) for hook in HookPoint})
        self._base = {pod.number: self.host.namespace.counters(pod.interface) for pod in self.host.pods}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to do: the filters go with the namespace."""

    def counted(self, pod: Pod, direction: FlowDirection) -> Counted:
        """Once all is quiet. The identity of the ledger is asserted here, for each test alike."""
        index = self._index(pod)
        account = self._datapath.account(index, direction)
        keys, values = self._datapath.flows(index, direction)
        assert self._datapath.unaccounted(index, direction) == (0, 0)
        moved = self.host.namespace.counters(pod.interface) - self._base[pod.number]
        received, sent = (moved.rx_packets, moved.rx_bytes), (moved.tx_packets, moved.tx_bytes)
        kinds = {(int(key["protocol"]), FlowKind(key["kind"])) for key in keys}
        by_protocol = {
            (protocol, kind): counts(values[(keys["protocol"] == protocol) & (keys["kind"] == kind)])
            for protocol, kind in kinds
        }
        interface = received if direction is FlowDirection.FROM_POD else sent
        return Counted(account, by_protocol, keys, values, interface)

    def way(self, sender: Pod, receiver: Pod) -> tuple[Counted, Counted]:
        """What left the sender and what reached the receiver, once all is quiet."""
        self.host.settle()
        return self.counted(sender, FlowDirection.FROM_POD), self.counted(receiver, FlowDirection.TO_POD)

    def _index(self, pod: Pod) -> int:
        return self.host.namespace.index(pod.interface)

    def _program(self, hook: HookPoint) -> Program:
        return self._datapath.programs[PROGRAMS[False, hook][0]]


def attach(clsact: Clsact, index: int, programs: dict[HookPoint, Program]) -> None:
    """Put programs on an interface of the namespace that `clsact` was made in."""
    clsact.add_qdisc(IfIndex(index))
    for hook, program in programs.items():
        assert clsact.add(IfIndex(index), hook, 1, 1, program.fd, "test", replace=False)


def tcp_segments_sent(pod: Pod) -> int:
    """OutSegs + RetransSegs of the pod's namespace (RFC 1213), which the stack counts in segments on the wire."""
    with pod.namespace.entered(), Path("/proc/thread-self/net/snmp").open() as table:
        names, values = (line.split()[1:] for line in table if line.startswith("Tcp:"))
    found = dict(zip(names, map(int, values), strict=True))
    return found["OutSegs"] + found["RetransSegs"]


def transfer(sender: Pod, receiver: Pod, address: str, port: int, payload_bytes: int) -> int:
    """One TCP connection that moves `payload_bytes`, and ends; the payload bytes sent, again where sent again."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with receiver.namespace.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, port))
        listener.listen(1)
        listener.settimeout(20)

        def receive() -> int:
            got = 0
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                while chunk := connection.recv(1 << 20):
                    got += len(chunk)
            return got

        received = receiver.namespace.start(receive)
        with sender.namespace.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(20)
            client.connect((address, port))
            client.sendall(bytes(payload_bytes))
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        assert received.result(20) == payload_bytes
    (sent,) = struct.unpack_from("=Q", info, TCP_BYTES_SENT)
    return int(sent)
