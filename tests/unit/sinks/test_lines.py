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

from podwire_agent.errors import SinkClosed
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import Ledger, Snapshot
from podwire_agent.sinks.lines import ROWS_A_WRITE, FlowLine, LedgerLine, LinesSink, schema
from tests.unit.sinks.snapshots import Flow, ledger, many, report, snapshot

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


def all_kinds_of_lines() -> Iterator[dict[str, Any]]:
    ledgers: list[Ledger] = [
        ledger(),
        replace(ledger(FlowDirection.TO_POD), unverifiable="GRO is on"),
        replace(ledger(name="veth2"), counter=None, gone=True),
    ]
    flows = report(Flow(), Flow(src="fd00::1", dst="fd00::2", protocol=47), Flow(kind=FlowKind.FLOW_LATER_FRAGMENT))
    yield from emitted(snapshot(flows, *ledgers), snapshot(flows, *ledgers, final=True))


@pytest.mark.parametrize("line", [FlowLine, LedgerLine])
def test_the_published_schema_is_the_one_of_the_code(line: type[FlowLine | LedgerLine]) -> None:
    published = json.loads((REFERENCE / f"{line.__struct_config__.tag}.schema.json").read_text())
    assert published == schema(line)


def test_every_line_is_valid_by_its_published_schema_and_by_no_other() -> None:
    validators = {}
    fields: dict[str, set[str]] = {}
    for kind, name in (("flow", "FlowLine"), ("ledger", "LedgerLine")):
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
