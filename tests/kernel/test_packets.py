"""The packet table through the real program by BPF_PROG_TEST_RUN: keys, wire units and ledger, to the byte."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from podwire_agent import layout
from podwire_agent.kernel.datapath import PROGRAMS
from podwire_agent.kernel.objects import Map
from podwire_agent.layout import FlowDirection, UnsupportedReason
from podwire_agent.model import HookPoint, Records
from tests.kernel.datapath_fixtures import LOOPBACK, SLOT, Account, Counts, Datapath, SkBuff
from tests.kernel.packet_table import CASES, PLAIN4, Case, Flow, tagged
from tests.kernel.superpacket_table import SUPER_CASES, SuperCase

TC_ACT_UNSPEC = -1
DIRECTIONS: dict[str, FlowDirection] = dict(PROGRAMS.values())
INGRESS = [name for (_, hook), (name, _) in PROGRAMS.items() if hook is HookPoint.INGRESS]
EGRESS = [name for (_, hook), (name, _) in PROGRAMS.items() if hook is HookPoint.EGRESS]
FRAMES = [*(case.frame for case in CASES), *(case.frame for case in SUPER_CASES)]
PLAIN_TRANSPORT = {6, 132}
"""TCP, SCTP: whatever the hook, the program does the sum itself."""


def run(
    datapath: Datapath, program: str, frame: bytes, gso_size: int = 0, gso_segs: int = 0, wire_len: int = 0
) -> None:
    """Run a program on a frame that came over the loopback; it must let the frame pass, and as it was."""
    context = bytes(SkBuff(gso_size=gso_size, gso_segs=gso_segs, wire_len=wire_len))
    code, after, _ = datapath.programs[program].test_run(frame, context)
    assert code == TC_ACT_UNSPEC
    assert after == frame


def fields(records: Records) -> list[dict[str, object]]:
    """Structured records as dictionaries."""
    return [{name: record[name].tolist() for name in records.dtype.names or ()} for record in records]


def key_of(flow: Flow) -> Records:
    """The one-element array of struct flow_key that a flow over the loopback has."""
    key = np.zeros(1, layout.FLOW_KEY)
    key["src_address"], key["dst_address"] = (np.frombuffer(address, "u1") for address in flow.addresses)
    key["src_port"], key["dst_port"] = flow.src_port, flow.dst_port
    key["ifindex"], key["protocol"], key["kind"] = LOOPBACK, flow.protocol, flow.kind
    return key


def assert_counted(
    datapath: Datapath,
    direction: FlowDirection,
    frame: bytes,
    expected: Flow | UnsupportedReason,
    traffic: Counts,
    *,
    estimated: bool = False,
    seen: frozenset[str] = frozenset(),
) -> None:
    """One buffer was seen and nothing else: a flow record, or a cell of the unsupported."""
    keys, values = datapath.flows(LOOPBACK, direction)
    account = Account(seen=traffic, buffers=1, buffer_bytes=len(frame), estimated=traffic if estimated else (0, 0))
    if isinstance(expected, UnsupportedReason):
        account = replace(account, unsupported={expected: traffic})
        assert fields(keys) == []
    else:
        assert fields(keys) == fields(key_of(expected))
        times = {name: int(values[name][0]) for name in ("first_mono_ns", "last_mono_ns")}
        assert times["first_mono_ns"] == times["last_mono_ns"] > 0
        zero: dict[str, object] = dict.fromkeys(layout.FLOW_STATS.names or (), 0)
        counted = {"packets": traffic[0], "bytes": traffic[1], "estimated": int(estimated)}
        assert fields(values) == [zero | times | counted | dict.fromkeys(seen, 1)]
    assert datapath.account(LOOPBACK, direction) == account
    assert datapath.unaccounted(LOOPBACK, direction) == (0, 0)
    other = FlowDirection(1 - direction)
    assert datapath.account(LOOPBACK, other) == Account()
    assert len(datapath.flows(LOOPBACK, other)[0]) == 0


@pytest.mark.parametrize("program", DIRECTIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_packet_is_counted_as(case: Case, program: str, datapath: Datapath) -> None:
    datapath.watch(LOOPBACK)
    run(datapath, program, case.frame)
    assert_counted(datapath, DIRECTIONS[program], case.frame, case.expected, (1, len(case.frame)), seen=case.seen)


@pytest.mark.parametrize("program", INGRESS)
@pytest.mark.parametrize("case", SUPER_CASES, ids=lambda case: case.name)
def test_on_the_way_in_a_super_packet_is_the_sum_of_its_segments(
    case: SuperCase, program: str, datapath: Datapath
) -> None:
    datapath.watch(LOOPBACK)
    run(datapath, program, case.frame, case.gso_size, case.gso_segs)
    traffic = case.segments, case.wire_bytes
    assert_counted(datapath, DIRECTIONS[program], case.frame, case.expected, traffic, estimated=case.estimated)


@pytest.mark.parametrize("program", EGRESS)
@pytest.mark.parametrize("case", SUPER_CASES, ids=lambda case: case.name)
def test_on_the_way_out_a_super_packet_is_what_the_stack_says_it_will_be(
    case: SuperCase, program: str, datapath: Datapath
) -> None:
    datapath.watch(LOOPBACK)
    stack_says = len(case.frame) + 4321
    run(datapath, program, case.frame, case.gso_size, case.gso_segs, stack_says)
    computed = (isinstance(case.expected, Flow) and case.expected.protocol in PLAIN_TRANSPORT) or not case.gso_size
    traffic = case.segments, case.wire_bytes if computed else stack_says
    assert_counted(datapath, DIRECTIONS[program], case.frame, case.expected, traffic)


def test_packets_of_a_flow_add_up_in_one_record(datapath: Datapath) -> None:
    datapath.watch(LOOPBACK)
    by_name = {case.name: case for case in CASES}
    frames = [
        by_name[name].frame
        for name in ("a TCP SYN is noted", "a TCP SYN with ACK is another note", "a TCP segment over IPv4",
                     "a TCP FIN is noted", "a VLAN tag", "IPv4 options of 10 words")
    ]  # fmt: skip
    for frame in frames:
        run(datapath, "veth_ingress", frame)
    _, values = datapath.flows(LOOPBACK, FlowDirection.FROM_POD)
    assert len(values) == 1
    assert (int(values["packets"][0]), int(values["bytes"][0])) == (len(frames), sum(map(len, frames)))
    assert [int(values[name][0]) for name in ("seen_syn", "seen_syn_ack", "seen_fin", "seen_rst")] == [1, 1, 1, 0]
    assert values["last_mono_ns"][0] >= values["first_mono_ns"][0]


def test_an_interface_without_a_ledger_is_not_counted(datapath: Datapath) -> None:
    for program in DIRECTIONS:
        run(datapath, program, PLAIN4)
    assert [len(flow_map.read()[0]) for flow_map in datapath.flow_maps.values()] == [0, 0]
    assert len(datapath.ledgers.read()[0]) == 0


def test_flows_beyond_the_maps_size_are_overflowed(datapath: Datapath) -> None:
    datapath.watch(LOOPBACK)
    direction = FlowDirection.FROM_POD
    with Map.create("two", layout.FLOW_KEY, layout.FLOW_STATS, 2) as small:
        datapath.slots.update(np.array(direction, SLOT), np.array(small.fd, SLOT))
        try:
            frames = [PLAIN4[:34] + bytes([0, port]) + PLAIN4[36:] for port in (1, 2, 3, 1, 3, 3)]
            for frame in frames:
                run(datapath, "veth_ingress", frame)
            _, values = small.read()
        finally:
            datapath.slots.update(np.array(direction, SLOT), np.array(datapath.flow_maps[direction].fd, SLOT))
    size = len(PLAIN4)
    assert sorted(values["packets"][:, 0].tolist()) == [1, 2]
    account = datapath.account(LOOPBACK, direction)
    assert (account.seen, account.overflowed) == ((6, 6 * size), (3, 3 * size))


def test_frames_cut_anywhere_are_counted_once(datapath: Datapath) -> None:
    datapath.watch(LOOPBACK)
    sent, sent_bytes = 0, 0
    for case in CASES:
        frame = tagged(case.frame)
        for length in range(15, min(len(frame), 120)):
            run(datapath, "veth_ingress", frame[:length])
            sent, sent_bytes = sent + 1, sent_bytes + length
    account = datapath.account(LOOPBACK, FlowDirection.FROM_POD)
    assert (account.seen, account.buffers, account.buffer_bytes) == ((sent, sent_bytes), sent, sent_bytes)
    assert account.overflowed == (0, 0)
    assert datapath.unaccounted(LOOPBACK, FlowDirection.FROM_POD) == (0, 0)


@pytest.mark.parametrize("program", DIRECTIONS)
def test_no_frame_whatever_its_bytes_is_lost_or_harmed(program: str, datapath: Datapath) -> None:
    datapath.watch(LOOPBACK)
    direction = DIRECTIONS[program]
    chance = random.Random(program)
    known = [tagged(frame) if chance.randrange(2) else frame for frame in FRAMES]
    lengths = 0
    for serial in range(2000):
        frame = bytearray(chance.choice(known) if serial % 4 else chance.randbytes(chance.randint(15, 300)))
        for _ in range(chance.randint(1, 6)):
            frame[chance.randrange(12, min(len(frame), 110))] = chance.choice((0, 255, chance.randrange(256)))
        size, segments = (chance.choice((0, 1, 140, 1448, 0xFFFF)), chance.choice((0, 1, 10, 0xFFFF)))
        sent = bytes(frame) if len(frame) >= 54 else tagged(bytes(frame))
        run(datapath, program, sent, size, segments)
        lengths += len(sent)
    account = datapath.account(LOOPBACK, direction)
    assert (account.buffers, account.buffer_bytes) == (2000, lengths)
    assert account.seen[0] >= 2000
    assert account.seen[1] >= lengths
    assert set(account.unsupported) == set(UnsupportedReason)
    assert datapath.unaccounted(LOOPBACK, direction) == (0, 0)
