"""What is shown of rows to whoever scrapes: words for labels, series that are there from a row's birth on, who saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from podwire_agent.core.rows import COUNTS
from podwire_agent.model import OTHER, Edges, Labels, Locality, Role, UncomparedReason
from podwire_agent.pair_rows import PairRows
from podwire_agent.sinks.pair_text import PAIR_LABELS, PairText

WEB_TO_DB = Labels(
    "shop", "web", "Deployment", "data", "db", "StatefulSet", "db", 5432, 6, Role.REQUEST, Locality.CROSS_ZONE
)
OUTWARDS = Labels(
    "shop", "web", "Deployment", "", "", "External", "", 53, 17, Role.REQUEST, Locality.OUTSIDE
)  # fmt: skip


class Monitor:
    """One that shows these rows."""

    def __init__(self, name: str, labels: Sequence[Labels] | None) -> None:
        self.name = name
        self.saw: list[tuple[str, int]] = []
        self._labels = labels

    def shown(self) -> tuple[int, Edges] | None:
        if self._labels is None:
            return None
        counts = np.zeros(len(self._labels), COUNTS)
        counts["bytes"] = np.arange(len(self._labels)) + 1
        weakest = np.zeros(len(self._labels), np.uint8)
        return 7, Edges(self._labels, counts, weakest, weakest, weakest)

    def seen(self, scraper: str, number: int) -> None:
        self.saw.append((scraper, number))


def text(rows: PairRows, *wanted: str) -> str:
    shown = rows("192.0.2.9", frozenset(wanted))
    return b"".join(PairText().render(shown.pairs, shown.histograms, openmetrics=False)).decode()


def test_labels_are_shown_in_words() -> None:
    [columns] = PairRows(lambda: [Monitor("shop", [OTHER, WEB_TO_DB])])("a", frozenset()).pairs
    assert dict(zip(PAIR_LABELS, columns.labels[1], strict=True)) == {
        "src_namespace": "shop",
        "src_workload": "web",
        "src_kind": "Deployment",
        "dst_namespace": "data",
        "dst_workload": "db",
        "dst_kind": "StatefulSet",
        "service": "db",
        "server_port": "5432",
        "protocol": "TCP",
        "direction": "request",
        "locality": "cross_zone",
    }
    assert columns.labels[0][-3:] == ("", "unknown", "unknown")


def test_a_rows_reasons_are_there_where_it_can_have_any_and_from_its_birth_on() -> None:
    lines = text(PairRows(lambda: [Monitor("shop", [WEB_TO_DB, OUTWARDS])])).splitlines()
    uncompared = [line for line in lines if line.startswith("podwire_uncompared_packets_total{")]
    assert len(uncompared) == len(UncomparedReason)
    assert all('dst_workload="db"' in line and line.endswith(" 0") for line in uncompared)


def test_what_nobody_counts_is_not_shown_as_zero() -> None:
    assert "podwire_tcp_" not in text(PairRows(lambda: [Monitor("shop", [WEB_TO_DB])]))


def test_only_who_got_all_of_a_page_has_seen_its_rows() -> None:
    shop, quiet = Monitor("shop", [WEB_TO_DB]), Monitor("quiet", None)
    page = PairRows(lambda: [shop, quiet])("192.0.2.9", frozenset())
    assert shop.saw == []
    page.sent()
    assert (shop.saw, quiet.saw) == ([("192.0.2.9", 7)], [])


def test_a_page_of_one_monitor_shows_no_other_and_counts_as_seen_for_no_other() -> None:
    shop, bank = Monitor("shop", [WEB_TO_DB]), Monitor("bank", [WEB_TO_DB])
    rows = PairRows(lambda: [shop, bank])
    assert 'monitor="bank"' not in text(rows, "shop")
    rows("192.0.2.9", frozenset({"shop"})).sent()
    assert bank.saw == []
