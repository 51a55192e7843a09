from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from podwire_agent.core.correlate import ENDS
from podwire_agent.errors import SinkClosed
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import OTHER, Edges, FailureReason, Ledger, Snapshot, UncomparedReason
from podwire_agent.sinks.edges import EdgeLine
from podwire_agent.sinks.lines import ROWS_A_WRITE, FlowLine, LedgerLine, LinesSink, schema
from tests.correlation import SHOP, MadeWorld
from tests.unit.sinks.snapshots import UNIX_NS, Flow, edges, ledger, many, report, snapshot

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


class Pipe:
    """A pipe whose reader is a thread, as a program behind `|` would be."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self) -> None:
        while chunk := os.read(self._read, 65536):
            self._chunks.append(chunk)

    def lines(self) -> list[dict[str, Any]]:
        """All of it; ends the pipe."""
        os.close(self.write)
        self._thread.join()
        os.close(self._read)
        return [json.loads(line) for line in b"".join(self._chunks).splitlines()]


def emitted(*snapshots: Snapshot) -> list[dict[str, Any]]:
    pipe = Pipe()
    sink = LinesSink(pipe.write)
    for one in snapshots:
        sink.send(one)
    sink.close()
    return pipe.lines()


def test_a_flow_has_the_fields_of_the_reference_in_their_order() -> None:
    (line,) = emitted(snapshot(report(Flow())))
    assert list(line.items()) == [
        ("type", "flow"),
        ("time", "2023-11-14T22:13:20.123456Z"),
        ("node", "n1"),
        ("interface", "veth1"),
        ("direction", "from_pod"),
        ("protocol", "TCP"),
        ("src_address", "10.0.0.1"),
        ("src_port", 40000),
        ("dst_address", "10.0.0.2"),
        ("dst_port", 80),
        ("packets", 10),
        ("bytes", 1000),
        ("first", "2023-11-14T22:13:20.000000Z"),
        ("last", "2023-11-14T22:13:20.001500Z"),
        ("src", {"kind": "Unknown"}),
        ("dst", {"kind": "Unknown"}),
        ("boot_id", "b00t"),
        ("monitor", "shop"),
        ("sequence", 100),
    ]


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        pytest.param(Flow(src="fd00::1", dst="fe80::2"), {"src_address": "fd00::1"}, id="IPv6 in its short form"),
        pytest.param(Flow(direction=FlowDirection.TO_POD), {"direction": "to_pod"}, id="to the pod"),
        pytest.param(Flow(protocol=58, src_port=0), {"protocol": "ICMPv6", "src_port": 0}, id="ICMPv6 has no ports"),
        pytest.param(Flow(protocol=253), {"protocol": "253"}, id="a protocol without a name is its number"),
        pytest.param(Flow(ifindex=9), {"interface": "ifindex:9"}, id="an interface whose name is not known"),
        pytest.param(Flow(kind=FlowKind.FLOW_LATER_FRAGMENT), {"fragment": True}, id="later fragments say so"),
        pytest.param(Flow(estimated=1), {"estimated": True}, id="estimated bytes say so"),
        pytest.param(Flow(bytes=2**64 - 1), {"bytes": 2**64 - 1}, id="the largest count is exact"),
    ],
)
def test_a_flow_is_told_in_words(flow: Flow, expected: dict[str, object]) -> None:
    (line,) = emitted(snapshot(report(flow)))
    assert expected.items() <= line.items()


def test_flows_keep_their_order_and_sequence_over_several_writes() -> None:
    number = 2 * ROWS_A_WRITE + 17
    lines = emitted(snapshot(many(number), sequence=5))
    assert [line["sequence"] for line in lines] == list(range(5, 5 + number))
    assert sum(line["packets"] for line in lines) == number
    assert len({(line["src_port"], line["dst_address"]) for line in lines}) == number


def test_a_ledger_tells_all_classes_and_the_verdict() -> None:
    (line,) = emitted(snapshot(None, ledger()))
    assert line == {
        "type": "ledger",
        "time": "2023-11-14T22:13:20.123456Z",
        "node": "n1",
        "interface": "veth1",
        "direction": "from_pod",
        "verifiable": True,
        "seen": {"packets": 12, "bytes": 1084, "buffers": 12, "buffer_bytes": 1084},
        "counted": {"packets": 10, "bytes": 1000},
        "filtered": {"packets": 0, "bytes": 0},
        "unsupported": {"packets": 2, "bytes": 84, "reasons": {"arp": {"packets": 2, "bytes": 84}}},
        "overflowed": {"packets": 0, "bytes": 0},
        "before_attach": {"low": {"buffers": 2, "bytes": 200}, "high": {"buffers": 2, "bytes": 200}},
        "boot_id": "b00t",
        "monitor": "shop",
        "verdict": "agrees exactly",
        "interface_counter": {"buffers": 14, "bytes": 1284},
    }


def test_only_ledgers_that_moved_are_told_again_and_all_of_them_at_the_end() -> None:
    still, moving = ledger(name="veth1"), ledger(FlowDirection.TO_POD, name="veth1")
    moved = ledger(FlowDirection.TO_POD, packets=20, name="veth1")
    lines = emitted(
        snapshot(None, still, moving),
        snapshot(None, still, moved),
        snapshot(None, still, moved),
        snapshot(None, still, moved, final=True),
    )
    told = [(line["direction"], line["counted"]["packets"], line.get("final", False)) for line in lines]
    assert told == [
        ("from_pod", 10, False),
        ("to_pod", 10, False),
        ("to_pod", 20, False),
        ("from_pod", 10, True),
        ("to_pod", 20, True),
    ]


def test_an_interface_that_is_gone_has_a_last_line_without_a_counter() -> None:
    gone = replace(ledger(), counter=None, gone=True)
    (line,) = emitted(snapshot(None, gone))
    assert line["gone"]
    assert not line["verifiable"]
    assert "interface_counter" not in line
    assert "gone" in line["verdict"]


def test_the_ends_of_a_flow_are_told_in_words() -> None:
    world = MadeWorld(SHOP, "n1")
    ends = np.zeros(3, ENDS)
    ends["src"] = [world.index["web-1"], world.index["n2"], 0]
    ends["dst"] = [world.index["db"], len(world.entities) - 1, world.index["web-1"]]
    flows = report(Flow(), Flow(), Flow())
    lines = emitted(replace(snapshot(flows), ends=ends, entities=world.entities))
    pod = {"kind": "Pod", "namespace": "shop", "name": "web-1", "workload_kind": "Deployment", "workload": "web"}
    assert [(line["src"], line["dst"]) for line in lines] == [
        (pod, {"kind": "Service", "namespace": "shop", "name": "db"}),
        ({"kind": "Node", "name": "n2"}, {"kind": "External"}),
        ({"kind": "Unknown"}, pod),
    ]


def test_ends_stay_with_their_flows_over_several_writes() -> None:
    world = MadeWorld(SHOP, "n1")
    number = 2 * ROWS_A_WRITE + 3
    ends = np.zeros(number, ENDS)
    ends["src"] = np.arange(number) % len(world.entities)
    lines = emitted(replace(snapshot(many(number)), ends=ends, entities=world.entities))
    names = [each.name for each in world.entities]
    assert [line["src"].get("name", "") for line in lines] == [names[i % len(names)] for i in range(number)]


def test_a_row_has_its_labels_and_only_the_counts_that_it_has() -> None:
    (line,) = emitted(replace(snapshot(), edges=edges(("web-1", "db-1"))))
    assert list(line.items()) == [
        ("type", "edge"),
        ("time", "2023-11-14T22:13:20.123456Z"),
        ("node", "n1"),
        ("src_namespace", "shop"),
        ("src_workload", "web"),
        ("src_kind", "Deployment"),
        ("dst_namespace", "shop"),
        ("dst_workload", "db"),
        ("dst_kind", "Deployment"),
        ("service", "db"),
        ("server_port", 5432),
        ("protocol", "TCP"),
        ("direction", "request"),
        ("locality", "same_zone"),
        ("packets", 1),
        ("bytes", 100),
        ("boot_id", "b00t"),
        ("monitor", "shop"),
        ("sequence", 500),
        ("role_by", "syn"),
        ("joined_by", "conntrack"),
        ("near_by", "interface"),
    ]


def full_row() -> Edges:
    """With everything that a row can have."""
    row = edges(("web-1", "db-1"))
    counts = row.counts
    counts["lost"], counts["compared"], counts["connections"], counts["retransmits"] = 3, 1000, 7, 2
    counts["uncompared"][0, UncomparedReason.CLOCK] = 5
    counts["failures"][0, FailureReason.REFUSED] = 4
    return replace(row, latency={row.labels[0]: {"handshake": {-27: 6, -26: 1}, "response": {0: 12}}})


def test_a_row_tells_loss_connections_and_latency_where_there_are_any() -> None:
    (line,) = emitted(replace(snapshot(), edges=full_row()))
    assert list(line.items())[-7:] == [
        ("lost", 3),
        ("compared", 1000),
        ("uncompared", {"clock": 5}),
        ("connections", 7),
        ("failures", {"refused": 4}),
        ("retransmits", 2),
        ("latency", {"handshake": {"-27": 6, "-26": 1}, "response": {"0": 12}}),
    ]


def test_nothing_lost_of_what_was_compared_is_a_0_and_not_left_out() -> None:
    row = edges(("web-1", "db-1"))
    row.counts["compared"] = 10
    (line,) = emitted(replace(snapshot(), edges=row))
    assert (line["lost"], line["compared"]) == (0, 10)


def test_rows_come_after_the_flows_and_before_the_ledgers_in_their_order() -> None:
    row = edges(("web-1", "db-1"), ("db-1", "web-1"), sequence=7)
    lines = emitted(replace(snapshot(report(Flow()), ledger()), edges=row))
    assert [(line["type"], line.get("sequence")) for line in lines] == [
        ("flow", 100),
        ("edge", 7),
        ("edge", 8),
        ("ledger", None),
    ]


def test_rows_since_they_began_say_since_when_and_have_no_sequence() -> None:
    row = replace(edges(("web-1", "db-1"), sequence=None), since_unix_ns=np.array([UNIX_NS - 10**9], np.int64))
    (line,) = emitted(replace(snapshot(), edges=row))
    assert (line["since"], "sequence" in line) == ("2023-11-14T22:13:19.123456Z", False)


def test_what_has_no_row_is_other() -> None:
    row = edges(("web-1", "db-1"))
    nothing = np.zeros(1, np.uint8)
    other = replace(row, labels=[OTHER], role_by=nothing, joined_by=nothing, near_by=nothing)
    (line,) = emitted(replace(snapshot(), edges=other))
    told = {name: line[name] for name in ("src_workload", "dst_kind", "protocol", "direction", "locality")}
    assert told == {
        "src_workload": "other", "dst_kind": "Other", "protocol": "", "direction": "unknown", "locality": "unknown"
    }  # fmt: skip
    assert not {"role_by", "joined_by", "near_by"} & set(line)


def test_more_rows_than_fit_in_one_write_all_come() -> None:
    rows = edges(*[("web-1", "db-1")] * (ROWS_A_WRITE + 5), sequence=0)
    assert [line["sequence"] for line in emitted(replace(snapshot(), edges=rows))] == list(range(ROWS_A_WRITE + 5))


def all_kinds_of_lines() -> Iterator[dict[str, Any]]:
    ledgers: list[Ledger] = [
        ledger(),
        replace(ledger(FlowDirection.TO_POD), unverifiable="GRO is on"),
        replace(ledger(name="veth2"), counter=None, gone=True),
    ]
    flows = report(Flow(), Flow(src="fd00::1", dst="fd00::2", protocol=47), Flow(kind=FlowKind.FLOW_LATER_FRAGMENT))
    since = np.array([UNIX_NS], np.int64)
    yield from emitted(
        replace(snapshot(flows, *ledgers), edges=full_row()),
        snapshot(flows, *ledgers, final=True),
        replace(snapshot(), edges=replace(edges(("db-1", "web-1"), sequence=None), since_unix_ns=since)),
    )


@pytest.mark.parametrize("line", [FlowLine, EdgeLine, LedgerLine])
def test_the_published_schema_is_the_one_of_the_code(line: type[FlowLine | EdgeLine | LedgerLine]) -> None:
    published = json.loads((REFERENCE / f"{line.__struct_config__.tag}.schema.json").read_text())
    assert published == schema(line)


def test_every_line_is_valid_by_its_published_schema_and_by_no_other() -> None:
    validators = {}
    fields: dict[str, set[str]] = {}
    for kind, name in (("flow", "FlowLine"), ("edge", "EdgeLine"), ("ledger", "LedgerLine")):
        document = json.loads((REFERENCE / f"{kind}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(document)
        validators[kind] = jsonschema.Draft202012Validator(document)
        fields[kind] = set(document["$defs"][name]["properties"])
    lines = list(all_kinds_of_lines())
    assert {line["type"] for line in lines} == set(validators)
    for line in lines:
        assert [kind for kind, validator in validators.items() if validator.is_valid(line)] == [line["type"]]
        assert set(line) <= fields[line["type"]]


def test_a_reader_that_left_ends_the_sink_in_words() -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(SinkClosed, match=r"sink stdout: .* the reader closed the pipe; .* restart"):
        LinesSink(write).send(snapshot(report(Flow())))
    os.close(write)


def test_a_full_device_ends_the_sink_in_words() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(SinkClosed, match=os.strerror(errno.ENOSPC)):
        LinesSink(full).send(snapshot(report(Flow())))
    os.close(full)


def test_a_pipe_that_does_not_block_takes_all_lines_in_parts() -> None:
    pipe = Pipe()
    os.set_blocking(pipe.write, False)
    LinesSink(pipe.write).send(snapshot(many(5000)))
    assert len(pipe.lines()) == 5000


def test_counts_near_the_end_of_uint64_stay_exact() -> None:
    rows = many(3)
    rows["bytes"] = np.array([2**53 + 1, 2**63 + 1, 2**64 - 1], np.uint64)
    assert [line["bytes"] for line in emitted(snapshot(rows))] == [2**53 + 1, 2**63 + 1, 2**64 - 1]
