from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import Traffic
from podwire_agent.sinks.conversations import conversations, in_words, largest, merge
from podwire_agent.sinks.naming import AddressTexts
from podwire_agent.sinks.report import History
from tests.unit.sinks.snapshots import Flow, many, report

BACK = {"src": "10.0.0.2", "dst": "10.0.0.1", "src_port": 80, "dst_port": 40000, "direction": FlowDirection.TO_POD}

flows = st.lists(
    st.builds(
        Flow,
        src=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]),
        dst=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]),
        src_port=st.sampled_from([80, 40000]),
        dst_port=st.sampled_from([80, 40000]),
        direction=st.sampled_from(FlowDirection),
        kind=st.sampled_from(FlowKind),
        bytes=st.integers(0, 2**58),
        packets=st.integers(0, 2**58),
    ),
    max_size=12,
)


def test_both_directions_of_a_connection_are_one_row_as_its_pod_sees_it() -> None:
    rows = conversations(report(Flow(packets=3, bytes=300), Flow(packets=2, bytes=5000, **BACK)))  # type: ignore[arg-type]
    (row,) = in_words(rows, AddressTexts())
    assert (row.pod, row.peer, row.protocol) == ("10.0.0.1:40000", "10.0.0.2:80", "TCP")
    assert (row.sent, row.received) == (Traffic(3, 300), Traffic(2, 5000))


def test_the_same_packets_on_two_interfaces_stay_apart() -> None:
    assert len(conversations(report(Flow(ifindex=1), Flow(ifindex=2)))) == 2


def test_ipv6_ends_have_brackets_and_port_less_ones_no_port() -> None:
    rows = conversations(report(Flow(src="fd00::1", dst="fd00::2"), Flow(protocol=1, src_port=0, dst_port=0)))
    ends = {(row.protocol, row.pod, row.peer) for row in in_words(rows, AddressTexts())}
    assert ends == {("TCP", "[fd00::1]:40000", "[fd00::2]:80"), ("ICMP", "10.0.0.1", "10.0.0.2")}


@given(flows)
def test_what_goes_in_comes_out(given_flows: list[Flow]) -> None:
    rows = conversations(report(*given_flows))
    for direction in FlowDirection:
        there = [flow for flow in given_flows if flow.direction is direction]
        assert int(rows["bytes"][:, direction].sum()) == sum(flow.bytes for flow in there)
        assert int(rows["packets"][:, direction].sum()) == sum(flow.packets for flow in there)
    assert len(np.unique(rows["identity"])) == len(rows)


def test_merging_a_report_twice_doubles_it() -> None:
    rows = conversations(many(100))
    doubled = merge(np.concatenate([rows, rows]))
    assert len(doubled) == len(rows)
    assert int(doubled["bytes"].sum()) == 2 * int(rows["bytes"].sum())


def test_the_largest_come_first_whichever_way_their_bytes_went() -> None:
    back = Flow(packets=1, bytes=900, **BACK | {"dst_port": 3})  # type: ignore[arg-type]
    rows = conversations(report(Flow(src_port=1, bytes=100), Flow(src_port=2, bytes=500), back))
    assert largest(rows, 2)["identity"]["pod_port"].tolist() == [3, 2]


def test_the_history_keeps_the_largest_and_counts_what_fell_out() -> None:
    history = History(limit=10)
    history.add(many(25))
    assert (len(history.rows), history.forgotten) == (10, 15)
    history.add(report(Flow(bytes=10**9)))
    assert (len(history.rows), history.forgotten) == (10, 16)
    assert int(history.rows["bytes"].max()) == 10**9
