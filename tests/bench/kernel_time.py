"""What the program costs a packet: the kernel's own timing of it, against an empty program at the same hooks.

Rounds with the empty programs and with ours alternate on the same links, under the same traffic; the programs are
replaced in place. Of each the best round counts: whatever else runs on the machine only ever adds.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from podwire_agent.kernel.datapath import Datapath
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.loader import LibbpfLoader
from podwire_agent.kernel.objects import Program
from podwire_agent.kernel.rotation import release
from podwire_agent.kernel.tc import Owner, TrafficControl
from podwire_agent.model import HookPoint, MonitorUid
from podwire_agent.settings import default_objects
from tests.bench.figures import Figure
from tests.kernel.netns import Host, Pod
from tests.kernel.running import node
from tests.kernel.sending import sending
from tools.compile_bpf import compile_object

ROUNDS = 5
ENTRIES = 65_536
TCP_ROUND_S = 1.5
TCP_PORT = 5001
UDP_FRAMES = 600_000
UDP_FLOWS = 20_000
SENDERS = 2

TCP_BUDGET_NS = 200.0
UDP_BUDGET_NS = 600.0

SWITCH = Path("/proc/sys/kernel/bpf_stats_enabled")
EMPTY = Path(__file__).parent / "programs" / "empty.bpf.c"

Programs = Mapping[HookPoint, Program]
Traffic = Callable[[Pod, Pod], None]
"""From the first to the second, until it is through."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long a program ran, by the kernel."""

    ns: int
    runs: int

    def __sub__(self, other: Times) -> Times:
        return Times(self.ns - other.ns, self.runs - other.runs)

    @property
    def ns_a_run(self) -> float:
        return self.ns / self.runs


Round = Mapping[HookPoint, Times]


def a_frame(times: Round) -> float:
    """ns of both hooks together, of a frame that passes both."""
    return sum(times[hook].ns_a_run for hook in HookPoint)


def bulk_tcp() -> list[Figure]:
    """One TCP connection between two pods, as fast as it goes. RuntimeError, OSError."""
    with links() as held:
        empty, ours = held.rounds("bulk TCP", transfer)
    figures = []
    for hook in HookPoint:
        without = min(each[hook].ns_a_run for each in empty)
        best = min((each[hook] for each in ours), key=attrgetter("ns_a_run"))
        detail = f"{best.ns_a_run:.0f} ns a run, empty {without:.0f}; {best.runs} runs a round, data and ACKs"
        figures.append(Figure(f"bulk TCP, {hook} hook", best.ns_a_run - without, "ns", TCP_BUDGET_NS, detail))
    return figures


def known_flows(first: Pod, second: Pod) -> None:
    """Frames of 20 000 UDP flows in turn."""
    with sending(first.namespace, UDP_FRAMES, UDP_FLOWS // SENDERS, senders=SENDERS, destination=second.mac) as senders:
        for each in senders:
            each.wait()


def many_udp_flows() -> list[Figure]:
    """Frames of 20 000 UDP flows in turn, each frame through both veths. RuntimeError, OSError."""
    with links() as held:
        empty, ours = held.rounds("20 000 UDP flows", known_flows)
    without, best = min(map(a_frame, empty)), min(ours, key=a_frame)
    parts = ", ".join(f"{hook} {best[hook].ns_a_run:.0f}" for hook in HookPoint)
    detail = f"{a_frame(best):.0f} ns a frame ({parts}), empty {without:.0f}; {best[HookPoint.EGRESS].runs} frames"
    return [Figure("20 000 UDP flows, both veths, a frame", a_frame(best) - without, "ns", UDP_BUDGET_NS, detail)]


class Links:
    """Two pods' veths, whose programs can be exchanged."""

    def __init__(
        self, host: Host, datapath: Datapath, control: TrafficControl, empty: Programs, owner: Owner, entries: int
    ) -> None:
        self.datapath = datapath
        self._host = host
        self._entries = entries
        self._control = control
        self._empty = empty
        self._ours = {hook: datapath.program(False, hook) for hook in HookPoint}
        self._owner = owner
        with Interfaces() as interfaces:
            names = {pod.interface for pod in host.pods}
            self._veths = [each for each in interfaces.all() if each.name in names]
        for veth in self._veths:
            datapath.open_ledger(veth.index)

    def rounds(self, name: str, traffic: Traffic) -> tuple[list[Round], list[Round]]:
        """The times of the empty programs and of ours, round by round."""
        empty, ours = [], []
        for number in range(ROUNDS):
            print(f"{name}: round {number + 1} of {ROUNDS}", file=sys.stderr)
            empty.append(self._round(self._empty, traffic))
            ours.append(self.round_of_ours(traffic))
        return empty, ours

    def round_of_ours(self, traffic: Traffic) -> Round:
        """The times of our programs."""
        return self._round(self._ours, traffic)

    def _round(self, programs: Programs, traffic: Traffic) -> Round:
        """With flow maps that are empty at its beginning, as at that of a polling period."""
        for rotation in self.datapath.rotations.values():
            release(rotation.cut(self._entries))
        for veth in self._veths:
            for hook, program in programs.items():
                self._control.attach(veth, hook, program, self._owner)
        before = {hook: _times(program) for hook, program in programs.items()}
        traffic(*self._host.pods)
        self._host.settle()
        return {hook: _times(program) - before[hook] for hook, program in programs.items()}


@contextmanager
def links(entries: int = ENTRIES) -> Iterator[Links]:
    """Two pods' veths and our programs, with flow maps of so many entries; every program is timed."""
    with (
        Host(pods=2) as host,
        node(host.namespace) as place,
        host.namespace.entered(),
        Datapath.open(place.bpffs, "bench", LibbpfLoader(default_objects() / "flow.bpf.o"), entries) as datapath,
        TrafficControl() as control,
        _empty_programs() as empty,
        _timed(),
    ):
        host.settle()
        yield Links(host, datapath, control, empty, Owner(MonitorUid("bench"), 1, place.bpffs / "bench"), entries)


@contextmanager
def _empty_programs() -> Iterator[Programs]:
    with tempfile.TemporaryDirectory(prefix="pw-bench-") as directory:
        compiled = Path(directory) / "empty.bpf.o"
        compile_object(EMPTY, compiled)
        with LibbpfLoader(compiled).load({}) as loaded:
            yield {hook: loaded.programs[f"empty_{hook}"] for hook in HookPoint}


@contextmanager
def _timed() -> Iterator[None]:
    """The kernel times every program; as it was before at the end."""
    before = SWITCH.read_text()
    SWITCH.write_text("1")
    try:
        yield
    finally:
        SWITCH.write_text(before)


def _times(program: Program) -> Times:
    command = ["bpftool", "-j", "prog", "show", "id", str(program.id())]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Times(shown.get("run_time_ns", 0), shown.get("run_cnt", 0))


def transfer(sender: Pod, receiver: Pod) -> None:
    """One TCP connection, as fast as it goes."""
    with receiver.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((receiver.ipv4, TCP_PORT))
        listener.listen(1)
        listener.settimeout(10)

        def receive() -> None:
            connection, _ = listener.accept()
            buffer = bytearray(1 << 20)
            with connection:
                connection.settimeout(10)
                while connection.recv_into(buffer):
                    pass

        received = receiver.namespace.start(receive)
        with sender.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(10)
            client.connect((receiver.ipv4, TCP_PORT))
            chunk = bytes(1 << 20)
            end = time.monotonic() + TCP_ROUND_S
            while time.monotonic() < end:
                client.sendall(chunk)
        received.result(10)
