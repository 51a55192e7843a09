"""A real Prometheus scrapes a real agent without a cluster: what it stores is what passed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.agent_fixtures import ended, nothing_is_left, send, started
from tests.kernel.netns import Host, Pod, eventually
from tests.kernel.running import Node, node
from tests.kernel.sending import sending
from tests.receivers.prometheus_process import Prometheus, in_namespace

LISTEN = ("--listen", "127.0.0.1:9437")
STORED_S = 15.0


def scraping(**more: Any) -> list[dict[str, Any]]:
    """The whole configuration that a person needs."""
    return [{"job_name": "podwire", "static_configs": [{"targets": ["127.0.0.1:9437"]}], **more}]


@pytest.fixture
def prometheus(host: Host, tmp_path: Path) -> Iterator[Prometheus]:
    with in_namespace(tmp_path, host.namespace, scraping()) as made:
        yield made


def ledger(prometheus: Prometheus, kind: str, unit: str, direction: str) -> float | None:
    labels = f'monitor="exact",class="{kind}",direction="{direction}"'
    return prometheus.value(f"podwire_ledger_{unit}_total{{{labels}}}")


def test_prometheus_stores_the_ledgers_totals_and_is_told_units(
    host: Host, place: Node, prometheus: Prometheus
) -> None:
    agent = started(place, *LISTEN)
    send(host.pods[0], host.pods[1], 300, payload_bytes=1000)
    for direction in ("from_pod", "to_pod"):
        # 14 bytes of Ethernet, 20 of IPv4, 8 of UDP.
        for unit, expected in (("packets", 300), ("bytes", 300 * 1042)):
            for kind in ("seen", "counted"):
                eventually(
                    lambda kind=kind, unit=unit, direction=direction, expected=expected: (
                        ledger(  # type: ignore[misc]
                            prometheus, kind, unit, direction
                        )
                        == expected
                    ),
                    f"{kind} {direction} {unit}",
                    STORED_S,
                )
        assert ledger(prometheus, "overflowed", "packets", direction) == 0
    metadata = prometheus._api("metadata", metric="podwire_ledger_bytes_total")
    (told,) = metadata.get("podwire_ledger_bytes_total") or prometheus._api("metadata")["podwire_ledger_bytes"]
    assert (told["type"], told["unit"]) == ("counter", "bytes")
    (target,) = prometheus.targets()
    assert (target["health"], target["lastError"]) == ("up", "")
    ended(place, host, agent)


@pytest.fixture
def lone_pod() -> Iterator[tuple[Host, Pod]]:
    with Host(pods=1) as host:
        host.settle()
        yield host, host.pods[0]


def test_an_agent_killed_under_traffic_steps_no_counter_back_and_every_packet_is_in_increase(
    lone_pod: tuple[Host, Pod], tmp_path: Path
) -> None:
    host, pod = lone_pod
    frames, flows = 120_000, 500
    with node(host.namespace) as place, in_namespace(tmp_path, host.namespace, scraping()) as prometheus:
        agent = started(place, *LISTEN)
        eventually(lambda: ledger(prometheus, "seen", "packets", "from_pod") == 0, "it is born at 0", STORED_S)
        with sending(pod.namespace, frames, flows, rate=10_000) as senders:  # 12 s
            for total in (20_000, 50_000, 80_000):
                eventually(
                    lambda total=total: (ledger(prometheus, "seen", "packets", "from_pod") or 0) > total,  # type: ignore[misc]
                    f"{total} were scraped",
                    STORED_S,
                )
                agent.kill()
                agent = started(place, *LISTEN)
            for each in senders:
                each.wait()
        for kind in ("seen", "counted"):
            eventually(
                lambda kind=kind: ledger(prometheus, kind, "packets", "from_pod") == frames,  # type: ignore[misc]
                f"all are {kind}",
                STORED_S,
            )
        stored = prometheus.samples('{__name__=~"podwire_ledger_.*_total|podwire_filtered_.*_total"}')
        assert len(stored) >= 20
        for labels, values in stored.items():
            assert values == sorted(values), labels
        wanted = {("__name__", "podwire_ledger_packets_total"), ("class", "seen"), ("direction", "from_pod")}
        (seen,) = (values for labels, values in stored.items() if wanted <= {*labels})
        assert len(set(seen)) > 5
        assert prometheus.value("sum(resets(podwire_ledger_packets_total[1h]))") == 0
        assert seen[-1] - seen[0] == frames
        assert agent.stop() == 0, agent.errors.read_text()
        place.identity_holds()
        nothing_is_left(place)
