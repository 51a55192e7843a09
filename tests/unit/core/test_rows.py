from __future__ import annotations

import io
import json
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from podwire_agent.core import pull, rows
from podwire_agent.core.correlate import ENDS
from podwire_agent.core.labels import Labeller
from podwire_agent.core.pull import SCRAPERS_KNOWN, PullView, Scrapers
from podwire_agent.core.rows import COUNTS, HOLD_NS, IDLE_NS, RowTable
from podwire_agent.layout import FlowDirection
from podwire_agent.model import (
    OTHER,
    Edges,
    FailureReason,
    JoinedBy,
    Labels,
    Locality,
    NearBy,
    Placed,
    Records,
    Role,
    RoleBy,
    UncomparedReason,
)
from tests.correlation import NOBODY, SHOP, TCP, Crossing, MadeWorld, report

pytestmark = pytest.mark.unit

WORLD = MadeWorld(SHOP, "n1")
SECOND = 10**9


@dataclass(frozen=True)
class Flow:
    """What goes into a row, in words."""

    src: str = "web-1"
    dst: str = "db-1"
    service: str = ""
    port: int = 15432
    role: Role = Role.REQUEST
    placed: Placed = Placed.ROW
    packets: int = 0
    bytes: int = 0
    lost: int = 0
    compared: int = 0
    role_by: RoleBy = RoleBy.SYN
    joined_by: JoinedBy = JoinedBy.NOTHING
    near_by: NearBy = NearBy.INTERFACE
    protocol: int = TCP


def entered(table: RowTable, *flows: Flow, now_ns: int = 0, world: MadeWorld = WORLD) -> None:
    ends, counts = np.zeros(len(flows), ENDS), np.zeros(len(flows), COUNTS)
    services = {"": -1} | {service.name: index for index, service in enumerate(world.services)}
    ends["src"] = [world.index.get(flow.src, 0) for flow in flows]
    ends["dst"] = [world.index.get(flow.dst, 0) for flow in flows]
    ends["service"] = [services[flow.service] for flow in flows]
    ends["server_port"] = [flow.port for flow in flows]
    for name in ("role", "role_by", "joined_by", "near_by", "placed", "protocol"):
        ends[name] = [getattr(flow, name) for flow in flows]
    for name in ("packets", "bytes", "lost", "compared"):
        counts[name] = [getattr(flow, name) for flow in flows]
    table.add(ends, counts, world, now_ns, now_ns + 7)


def empty(max_rows: int = 100) -> RowTable:
    return RowTable(max_rows, 0, 0)


def bytes_of(edges: Edges) -> dict[Labels, int]:
    return dict(zip(edges.labels, edges.counts["bytes"].tolist(), strict=True))


def by_port(edges: Edges) -> dict[int, int]:
    """Bytes; `other` has port 0."""
    return {labels.server_port: each for labels, each in bytes_of(edges).items()}


def looked(view: PullView, scraper: str, now_mono_ns: int) -> Edges | None:
    """What a scraper gets, all of it."""
    if (shown := view.view()) is None:
        return None
    number, edges = shown
    view.seen(scraper, number, now_mono_ns)
    return edges


def everything(table: RowTable) -> Records:
    """The sum of all columns over rows, `other`, and what has left."""
    total = table.totals().counts.view(np.uint64).reshape(-1, COUNTS.itemsize // 8).sum(0, np.uint64)
    return np.asarray(total + table.left.view(np.uint64))


def reborn(table: RowTable, max_rows: int = 100) -> RowTable:
    """Through a checkpoint's files."""
    read: dict[str, Any] = {}
    for name, section in table.sections().items():
        if isinstance(section, np.ndarray):
            file = io.BytesIO()
            np.lib.format.write_array(file, section, allow_pickle=False)
            file.seek(0)
            read[name] = np.lib.format.read_array(file, allow_pickle=False)
        else:
            read[name] = json.loads(json.dumps(section))
    return RowTable.restore(read, max_rows)


def test_a_row_has_the_labels_of_its_flows_and_their_sums() -> None:
    table = empty()
    entered(
        table,
        Flow(service="db", port=5432, packets=2, bytes=200),
        Flow(src="web-2", service="db", port=5432, packets=3, bytes=300),
        Flow(src="db-1", dst="web-1", service="db", port=5432, role=Role.RESPONSE, packets=5, bytes=5000),
    )
    request = Labels("shop", "web", "Deployment", "shop", "db", "Deployment", "db", 5432, TCP, Role.REQUEST,
                     Locality.SAME_ZONE)  # fmt: skip
    response = request._replace(src_workload="db", dst_workload="web", direction=Role.RESPONSE)
    assert bytes_of(table.totals()) == {OTHER: 0, request: 500, response: 5000}


@pytest.mark.parametrize(
    ("src", "dst", "locality"),
    [
        ("web-1", "web-2", Locality.SAME_NODE),
        ("web-1", "db-1", Locality.SAME_ZONE),
        ("web-1", "db-2", Locality.CROSS_ZONE),
        ("web-1", "n3", Locality.CROSS_ZONE),
        ("web-1", "", Locality.OUTSIDE),
        ("", "web-1", Locality.OUTSIDE),
        ("web-1", "nobody", Locality.UNKNOWN),
        ("web-1", "db", Locality.UNKNOWN),
    ],
)
def test_locality_is_told_by_nodes_and_zones(src: str, dst: str, locality: Locality) -> None:
    table = empty()
    entered(table, Flow(src=src, dst=dst, bytes=1))
    assert table.totals().labels[1].locality is locality


def test_nodes_without_a_zone_are_on_the_same_node_or_nothing_is_known() -> None:
    table, world = empty(), MadeWorld(SHOP, "n1")
    world.zone_of[:] = -1
    entered(table, Flow(dst="web-2", bytes=1), Flow(dst="db-1", bytes=1), world=world)
    assert {labels.locality for labels in table.totals().labels[1:]} == {Locality.SAME_NODE, Locality.UNKNOWN}


def test_a_row_keeps_its_place_in_another_world() -> None:
    table = empty()
    entered(table, Flow(bytes=10))
    other = MadeWorld(type(SHOP)(SHOP.nodes, SHOP.pods[::-1], SHOP.services), "n1")
    assert other.index["web-1"] != WORLD.index["web-1"]
    entered(table, Flow(bytes=7), world=other)
    assert by_port(table.totals()) == {0: 0, 15432: 17}


def test_how_a_role_and_a_service_were_found_is_told_at_its_worst() -> None:
    table = empty()
    entered(table, Flow(service="db", joined_by=JoinedBy.CONNTRACK, bytes=1))
    entered(table, Flow(service="db", joined_by=JoinedBy.GUESS, role_by=RoleBy.LOWER_PORT, bytes=1))
    entered(table, Flow(service="db", joined_by=JoinedBy.CONNTRACK, near_by=NearBy.ADDRESS, bytes=1))
    edges = table.totals()
    worst = edges.role_by[1], edges.joined_by[1], edges.near_by[1]
    assert worst == (RoleBy.LOWER_PORT, JoinedBy.GUESS, NearBy.ADDRESS)


def test_what_is_counted_elsewhere_is_in_no_row_but_its_losses_are() -> None:
    table = empty()
    entered(
        table,
        Flow(placed=Placed.ROW, packets=1, bytes=10),
        Flow(placed=Placed.ELSEWHERE, packets=2, bytes=20, lost=3, compared=4),
        Flow(placed=Placed.LEFT_OUT, packets=5, bytes=50, lost=6),
        Flow(placed=Placed.ELSEWHERE, port=99, packets=7, bytes=70),
    )
    (_, row) = table.totals().counts
    assert (row["packets"], row["bytes"], row["lost"], row["compared"]) == (1, 10, 3, 4)
    assert table.came["bytes"].tolist() == [10, 90, 50]


def test_what_is_told_of_connections_is_counted_where_the_flow_tells_it() -> None:
    table, ends = empty(), np.zeros(4, ENDS)
    ends["placed"] = [Placed.ROW, Placed.ELSEWHERE, Placed.ROW, Placed.LEFT_OUT]
    ends["tells_tcp"] = [1, 1, 0, 0]
    flows = np.zeros(4, [("packets", "u8"), ("connections", "u4"), ("retransmits", "u4")])
    flows["packets"], flows["connections"], flows["retransmits"] = 1, [1, 10, 100, 1000], 2**32 - 1
    table.add(ends, flows, WORLD, 0, 0)
    (row,) = table.totals().counts[1:]
    assert (row["packets"], row["connections"], row["retransmits"]) == (2, 11, 2 * (2**32 - 1))


def test_nothing_makes_no_row() -> None:
    table = empty()
    entered(table)
    entered(table, Flow())
    assert (len(table), table.offer()) == (0, 0)


def test_counts_come_from_whatever_has_some_of_them() -> None:
    table, ends = empty(), np.zeros(2, ENDS)
    ends["tells_tcp"] = 1
    flows = np.zeros(2, [("key", "u4"), ("packets", "u8"), ("failures", "u8", (len(FailureReason),))])
    flows["packets"], flows["failures"] = [1, 2], [[1, 0, 0], [0, 0, 9]]
    loss = np.zeros(1, [("lost", "u8"), ("compared", "u8"), ("uncompared", "u8", (len(UncomparedReason),))])
    loss["uncompared"] = np.arange(len(UncomparedReason))
    table.add(ends, flows, WORLD, 0, 0)
    table.add(ends[:1], loss, WORLD, 0, 0)
    table.add(ends, report([Crossing("n1", 1, FlowDirection.TO_POD, NOBODY, bytes=8)] * 2), WORLD, 0, 0)
    (row,) = table.totals().counts[1:]
    assert (row["packets"], row["bytes"], row["failures"].tolist()) == (23, 16, [1, 0, 9])
    assert row["uncompared"].tolist() == list(range(len(UncomparedReason)))


def test_sums_are_exact_near_the_end_of_uint64() -> None:
    table = empty()
    entered(table, Flow(bytes=2**63 + 1), Flow(bytes=2**62), Flow(port=1, bytes=2**53 + 1))
    assert by_port(table.totals()) == {0: 0, 15432: 2**63 + 2**62 + 1, 1: 2**53 + 1}


def test_the_largest_are_admitted_and_the_rest_is_other_for_ever() -> None:
    table = empty(max_rows=2)
    entered(table, Flow(port=1, bytes=5), Flow(port=2, bytes=50), Flow(port=3, bytes=500))
    assert by_port(table.totals()) == {0: 5, 2: 50, 3: 500}
    entered(table, Flow(port=1, bytes=10**6), Flow(port=2, bytes=1))
    assert by_port(table.totals()) == {0: 10**6 + 5, 2: 51, 3: 500}
    assert (len(table), table.turned_away) == (2, 2)


def test_an_idle_row_leaves_with_its_total_and_comes_back_at_0() -> None:
    table = empty()
    entered(table, Flow(port=1, bytes=5), Flow(port=2, bytes=50))
    table.offer()
    table.confirm()
    assert table.turn(IDLE_NS - 1, None) == 0
    entered(table, Flow(port=2, bytes=1), now_ns=IDLE_NS - 1)
    assert table.turn(IDLE_NS, None) == 1
    assert by_port(table.totals()) == {0: 0, 2: 51}
    assert table.left["bytes"].tolist() == [5]
    entered(table, Flow(port=1, bytes=3), now_ns=IDLE_NS + 1)
    assert by_port(table.totals()) == {0: 3, 2: 51}, "too soon: somebody may not have seen it gone"
    table.turn(IDLE_NS + HOLD_NS, None)
    entered(table, Flow(port=1, bytes=4), now_ns=IDLE_NS + HOLD_NS)
    edges = table.totals()
    assert by_port(edges) == {0: 3, 2: 51, 1: 4}
    assert edges.since_unix_ns is not None
    assert edges.since_unix_ns.tolist() == [0, 7, IDLE_NS + HOLD_NS + 7]


def test_a_row_does_not_leave_with_something_that_was_not_reported() -> None:
    table = empty()
    entered(table, Flow(bytes=5))
    table.offer()
    assert table.turn(IDLE_NS, None) == 0
    table.confirm()
    assert table.turn(IDLE_NS, None) == 1


def test_a_table_with_fewer_rows_than_it_has_keeps_them_until_they_are_idle() -> None:
    table = empty()
    entered(table, *(Flow(port=port, bytes=1) for port in range(1, 6)))
    table.offer()
    table.confirm()
    smaller = reborn(table, max_rows=2)
    entered(smaller, Flow(port=9, bytes=1), Flow(port=1, bytes=1), now_ns=IDLE_NS // 2)
    assert len(smaller) == 5
    smaller.turn(IDLE_NS, None)
    entered(smaller, Flow(port=9, bytes=1), now_ns=IDLE_NS)
    assert by_port(smaller.totals()) == {0: 1, 1: 2, 9: 1}


def test_a_report_is_the_same_until_it_is_confirmed_also_over_a_crash() -> None:
    table = empty()
    entered(table, Flow(port=1, bytes=5), Flow(port=2, bytes=50))
    assert table.offer() == 2
    first = table.offered(100)
    entered(table, Flow(port=1, bytes=7), Flow(port=3, bytes=70))
    for again in (table.offered(100), reborn(table).offered(100)):
        assert (by_port(again), again.sequence) == (by_port(first), 100) == ({2: 50, 1: 5}, 100)
        assert list(again.labels) == list(first.labels)
    table = reborn(table)
    table.confirm()
    assert table.offer() == 2
    assert by_port(table.offered(102)) == {1: 7, 3: 70}
    table.confirm()
    assert table.offer() == 0


def test_rows_that_do_not_belong_together_are_refused() -> None:
    table = empty()
    entered(table, Flow(bytes=5))
    sections = table.sections()
    with pytest.raises(ValueError, match="do not belong together"):
        RowTable.restore(sections | {"rows": sections["rows"][:1]}, 10)
    with pytest.raises(KeyError):
        RowTable.restore({}, 10)


def test_a_new_row_is_shown_at_0_until_everybody_who_looks_has_seen_it_so() -> None:
    table, view = empty(), PullView(Scrapers())

    def drain(now_ns: int, *flows: Flow) -> None:
        table.turn(now_ns, view.scrapers.seen(now_ns))
        entered(table, *flows, now_ns=now_ns)
        view.show(*table.shown())

    def seen_by(scraper: str, now_ns: int) -> dict[int, int]:
        edges = looked(view, scraper, now_ns)
        assert edges is not None
        return by_port(edges)

    assert looked(view, "a", 0) is None
    drain(SECOND)
    assert seen_by("a", SECOND) == seen_by("b", SECOND) == {0: 0}
    drain(2 * SECOND, Flow(port=1, bytes=5))
    assert seen_by("a", 2 * SECOND) == {0: 0, 1: 0}
    drain(3 * SECOND, Flow(port=1, bytes=5))
    assert seen_by("a", 3 * SECOND) == {0: 0, 1: 0}, "b has not seen it yet"
    assert seen_by("b", 3 * SECOND) == {0: 0, 1: 0}
    drain(4 * SECOND, Flow(port=1, bytes=5))
    assert seen_by("a", 4 * SECOND) == {0: 0, 1: 15}
    assert by_port(table.totals()) == {0: 0, 1: 15}


def test_a_new_row_is_held_at_0_for_two_minutes_at_most() -> None:
    table = empty()
    table.turn(0, None)
    entered(table, Flow(port=1, bytes=5), now_ns=1)
    for now_ns, expected in ((HOLD_NS, 0), (HOLD_NS + 1, 5)):
        table.turn(now_ns, 0)
        assert by_port(table.shown()[1])[1] == expected


def test_what_was_shown_is_not_taken_back_by_a_crash() -> None:
    table, view = empty(), PullView(Scrapers())
    for now_ns in (SECOND, 2 * SECOND, 3 * SECOND):
        table.turn(now_ns, view.scrapers.seen(now_ns))
        entered(table, Flow(port=1, bytes=5), now_ns=now_ns)
        saved, section = reborn(table), json.loads(json.dumps(view.scrapers.section()))
        view.show(*table.shown())
        shown = looked(view, "a", now_ns)
        assert shown is not None
        restored = saved.shown()
        assert bytes_of(restored[1]) == bytes_of(shown)
        assert Scrapers.restore(section).section() == section
        last = by_port(shown)
    assert last[1] == 15


def test_those_who_look_are_known_for_five_minutes_and_not_more_than_eight() -> None:
    scrapers = Scrapers()
    assert scrapers.seen(0) is None
    for number in range(SCRAPERS_KNOWN + 2):
        scrapers.saw(f"10.0.0.{number}", number + 5, number)
    assert (scrapers.seen(10), scrapers.not_known) == (5, 2)
    scrapers.saw("10.0.0.0", 40, 11)
    assert scrapers.seen(11) == 6
    assert scrapers.seen(pull.KNOWN_NS + 4) == 10
    assert scrapers.seen(pull.KNOWN_NS + 11) is None


def random_flows(chance: random.Random, ports: int) -> list[Flow]:
    return [
        Flow(
            src=chance.choice(["web-1", "web-2", "db-1"]),
            dst=chance.choice(["db-1", "db-2", "cache-1", ""]),
            port=chance.randint(1, ports),
            placed=chance.choice([Placed.ROW, Placed.ROW, Placed.ROW, Placed.ELSEWHERE, Placed.LEFT_OUT]),
            packets=chance.choice([0, 1, 10]),
            bytes=chance.choice([0, 1, 10, 10**6, 2**40]),
            lost=chance.choice([0, 0, 3]),
            compared=chance.choice([0, 7]),
        )
        for _ in range(chance.randint(0, 40))
    ]


class Onlooker:
    """Adds up what a series' increments show, as Prometheus' increase() does: a first value makes none."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._last: dict[Labels, tuple[int, int]] | None = None

    def look(self, edges: Edges) -> None:
        now = {
            labels: (int(row["bytes"]), int(row["compared"]))
            for labels, row in zip(edges.labels, edges.counts, strict=True)
        }
        for labels, values in now.items():
            before = (self._last or {}).get(labels)
            if before is None:
                assert self._last is None or values == (0, 0), "a series is born at 0"
                before = values
            assert all(new >= old for new, old in zip(values, before, strict=True)), "a series fell"
            for name, new, old in zip(("bytes", "compared"), values, before, strict=True):
                self.total[name] += new - old
        assert OTHER in now
        self._last = now


class Life:
    """Rows that come and go, onlookers of different paces, reports that wait, crashes."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.max_rows, self.ports = chance.randint(1, 30), chance.randint(1, 40)
        self.now_ns = 0
        self.table, self.view = RowTable(self.max_rows, 0, 0), PullView(Scrapers())
        self.onlookers = {name: Onlooker() for name in ("a", "b")[: chance.randint(1, 2)]}
        self.came = np.zeros(len(Placed), COUNTS)
        self.reported: Counter[str] = Counter()
        self._under_way: Edges | None = None

    def drain(self, *flows: Flow) -> None:
        self.now_ns += SECOND
        self.table.turn(self.now_ns, self.view.scrapers.seen(self.now_ns))
        entered(self.table, *flows, now_ns=self.now_ns)
        for flow in flows:
            for name in ("packets", "bytes", "lost", "compared"):
                self.came[name][flow.placed] += getattr(flow, name)
        self._report()
        if self.chance.random() < 0.15:
            self.table, scrapers = reborn(self.table, self.max_rows), Scrapers.restore(self.view.scrapers.section())
            self.view = PullView(scrapers)
        self.view.show(*self.table.shown())

    def look(self, probability: float) -> None:
        for name, onlooker in self.onlookers.items():
            if self.chance.random() < probability:
                edges = looked(self.view, name, self.now_ns)
                assert edges is not None
                onlooker.look(edges)

    def arrive(self) -> None:
        """The report under way."""
        if self._under_way is not None:
            assert bytes_of(self.table.offered(1)) == bytes_of(self._under_way)
            for name in ("bytes", "compared"):
                self.reported[name] += int(self._under_way.counts[name].sum())
            self.table.confirm()
            self._under_way = None

    def _report(self) -> None:
        if self.chance.random() < 0.7:
            self.arrive()
            self.table.offer()
            self._under_way = self.table.offered(1)

    def check(self) -> None:
        """Nothing is missing and nothing is twice, at any time."""
        assert len(self.table) <= self.max_rows
        total = everything(self.table).view(COUNTS)[0]
        for name, places in {"packets": 1, "bytes": 1, "lost": 2, "compared": 2}.items():
            assert total[name] == self.came[name][:places].sum(), name
        assert (self.table.came == self.came).all()


@pytest.mark.parametrize("seed", range(60))
def test_increments_seen_are_what_came_in_and_every_series_only_rises(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(rows, "IDLE_NS", chance.randint(2, 9) * SECOND)
    monkeypatch.setattr(rows, "HOLD_NS", 1000 * SECOND)
    monkeypatch.setattr(pull, "KNOWN_NS", 10**6 * SECOND)
    life = Life(chance)
    life.drain()
    life.look(1)
    for _ in range(chance.randint(20, 90)):
        life.drain(*random_flows(chance, life.ports))
        life.check()
        life.look(0.7)
    for _ in range(8):
        life.drain()
        life.look(1)
    life.arrive()
    life.table.offer()
    rest = life.table.offered(2)
    for name, places in (("bytes", 1), ("compared", 2)):
        truth = int(life.came[name][:places].sum())
        assert {onlooker.total[name] for onlooker in life.onlookers.values()} == {truth}
        assert life.reported[name] + int(rest.counts[name].sum()) == truth


def test_words_are_made_once_for_a_world_and_not_kept_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podwire_agent.core.labels.LABELS_KEPT", 10)
    labeller = Labeller()
    ends = np.zeros(50, ENDS)
    ends["server_port"] = np.arange(50)
    first, again = labeller.group(ends, WORLD), labeller.group(ends[:5], WORLD)
    assert [labels.server_port for labels in first.labels] == list(range(50))
    assert [labels.server_port for labels in again.labels] == list(range(5))
    assert len(labeller._known) <= 10
