from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from podwire_agent import cli, local_api
from podwire_agent.core.correlate import ENDS
from podwire_agent.errors import EndpointError, StateError
from podwire_agent.local_api import LIMITS, LINES, LINES_LIMIT, LocalApi, ask
from podwire_agent.model import Snapshot
from podwire_agent.state import SOCKET
from tests.correlation import SHOP, MadeWorld
from tests.unit.sinks.snapshots import Flow, edges, ledger, many, report, snapshot

WORLD = MadeWorld(SHOP, "n1")


def correlated(*ends: tuple[str, str]) -> Snapshot:
    """Flows of 100, 200, … bytes between these pods, and rows."""
    flows = report(*(Flow(bytes=100 * (number + 1), src_port=number) for number in range(len(ends))))
    found = np.zeros(len(ends), ENDS)
    found["src"], found["dst"] = zip(*((WORLD.index[src], WORLD.index[dst]) for src, dst in ends), strict=True)
    return replace(snapshot(flows, ledger()), ends=found, entities=WORLD.entities, edges=edges(*ends))


class Known:
    """What the agent knows, as told here."""

    def __init__(self) -> None:
        self.shop: Snapshot | None = correlated(("web-1", "db-1"), ("web-2", "cache-1"), ("db-1", "web-1"))
        self.office: Snapshot | None = None
        self.error: Exception | None = None

    def monitors(self) -> Sequence[str]:
        return ["shop", "office"]

    def snapshot(self, monitor: str) -> Snapshot | None:
        if self.error is not None:
            raise self.error
        return self.shop if monitor == "shop" else self.office


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def path(tmp_path: Path, known: Known) -> Iterator[Path]:
    with LocalApi(tmp_path / SOCKET, known):
        yield tmp_path / SOCKET


def lines(path: Path, what: str, **query: str) -> tuple[list[dict[str, Any]], int]:
    body, left_off = ask(path, what, query)
    return [json.loads(line) for line in body.splitlines()], left_off


def test_only_the_owner_may_open_the_socket(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_flows_are_told_as_lines_the_largest_first(path: Path) -> None:
    told, left_off = lines(path, "flows")
    assert [(line["type"], line["bytes"], line["sequence"]) for line in told] == [
        ("flow", 300, 102),
        ("flow", 200, 101),
        ("flow", 100, 100),
    ]
    assert told[0]["src"] == {
        "kind": "Pod", "namespace": "shop", "name": "db-1", "workload_kind": "Deployment", "workload": "db"
    }  # fmt: skip
    assert left_off == 0


@pytest.mark.parametrize(
    ("query", "sizes"),
    [
        ({"workload": "db"}, [300, 100]),
        ({"namespace": "data"}, [200]),
        ({"namespace": "data", "workload": "web"}, []),
        ({"namespace": "shop", "workload": "web", "limit": "1"}, [300]),
        ({"monitor": "shop"}, [300, 200, 100]),
        ({"monitor": "office"}, []),
    ],
)
@pytest.mark.parametrize("what", ["flows", "edges"])
def test_answers_are_of_the_end_the_monitor_and_the_number_asked_for(
    path: Path, what: str, query: dict[str, str], sizes: list[int]
) -> None:
    told, _ = lines(path, what, **query)
    assert [line["bytes"] for line in told] == sizes


def test_interfaces_are_told_by_their_ledgers(path: Path) -> None:
    (line,), _ = lines(path, "interfaces", monitor="shop")
    assert (line["type"], line["interface"], line["counted"]["packets"]) == ("ledger", "veth1", 10)


def test_an_answer_is_bounded_over_all_monitors_and_says_how_much_more_there_is(path: Path, known: Known) -> None:
    known.shop = known.office = snapshot(many(LINES - 10))
    told, left_off = lines(path, "flows")
    assert (len(told), left_off) == (LINES, LINES - 20)
    told, left_off = lines(path, "flows", limit=str(LINES_LIMIT))
    assert (len(told), left_off) == (2 * LINES - 20, 0)


def test_flows_whose_ends_nobody_knows_are_no_workloads(path: Path, known: Known) -> None:
    known.shop = snapshot(many(3))
    assert lines(path, "flows", workload="db") == ([], 0)
    assert lines(path, "edges") == ([], 0)
    assert len(lines(path, "flows")[0]) == 3


@pytest.mark.parametrize(
    ("what", "query", "words"),
    [
        ("flows", {"limit": "0"}, "limit: 0 is no number from 1 to 10000"),
        ("flows", {"limit": "10001"}, "limit: 10001 is no number from 1 to 10000"),
        ("flows", {"limit": "9" * 5000}, "is no number from 1 to 10000"),
        ("flows", {"limit": "-1"}, "limit: -1 is no number"),
        ("flows", {"limit": "²"}, "limit: ² is no number"),
        ("edges", {"pod": "x"}, "no parameter pod: there are monitor, limit, namespace, workload"),
        ("interfaces", {"workload": "x"}, "no parameter workload: there are monitor, limit"),
        ("flows", {"monitor": "x"}, "monitor: no x here; there are: shop, office"),
        ("pods", {}, "nothing at /v1/pods: try /v1/flows, /v1/edges, /v1/interfaces"),
    ],
)
def test_what_there_is_not_is_refused_in_words(path: Path, what: str, query: dict[str, str], words: str) -> None:
    with pytest.raises(StateError, match="asking the agent at") as refused:
        ask(path, what, query)
    assert words in str(refused.value)


def raw(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_it_is_read_only(path: Path) -> None:
    answer = raw(path, b"DELETE /v1/flows HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 405 ")
    assert b"DELETE: only GET and HEAD" in answer


def test_a_parameter_given_twice_is_refused(path: Path) -> None:
    assert b"limit: given more than once" in raw(path, b"GET /v1/flows?limit=1&limit=2 HTTP/1.0\r\n\r\n")


def test_an_error_of_the_agent_is_told(path: Path, known: Known) -> None:
    known.error = StateError("the monitor shop has just gone")
    answer = raw(path, b"GET /v1/edges HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 503 ")
    assert b"the monitor shop has just gone\n" in answer


def test_further_connections_are_turned_away(path: Path) -> None:
    waiting = []
    try:
        for _ in range(LIMITS.connections):
            connection = socket.socket(socket.AF_UNIX)
            waiting.append(connection)
            connection.connect(str(path))
        with pytest.raises(StateError, match=r"Service Unavailable|Connection reset|Broken pipe"):
            ask(path, "flows", {})
    finally:
        for connection in waiting:
            connection.close()


def test_the_socket_of_an_agent_that_was_killed_is_replaced_and_gone_at_the_end(tmp_path: Path, known: Known) -> None:
    path = tmp_path / SOCKET
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with LocalApi(path, known):
        assert lines(path, "interfaces")[0]
    assert not path.exists()
    with pytest.raises(StateError, match=r"No such file or directory; is one running here"):
        ask(path, "flows", {})


def test_a_path_that_is_too_long_for_a_socket_is_told(tmp_path: Path, known: Known) -> None:
    with pytest.raises(EndpointError, match=r"for the local API failed: AF_UNIX path too long; choose .*--state-dir"):
        LocalApi(tmp_path / ("x" * 120), known)


def test_the_command_prints_the_lines_and_says_how_many_more_there_are(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["get", "edges", "--workload", "db", "--limit", "1", "--state-dir", str(path.parent)]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["dst_workload"] == "web"
    assert "1 more; ask for them with --limit" in err


def test_the_command_says_where_no_agent_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["get", "flows", "--state-dir", str(tmp_path)]) == cli.FAILED
    assert f"asking the agent at {tmp_path}/api.sock: No such file or directory" in capsys.readouterr().err


def test_an_agent_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_api, "ASK_S", 0.1)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / SOCKET))
        deaf.listen()
        with pytest.raises(StateError, match="timed out"):
            ask(tmp_path / SOCKET, "flows", {})
