"""Rows of pairs of workloads as a monitor of a cluster has them, made up: as many as are asked for, all different."""

from __future__ import annotations

import numpy as np

from podwire_agent.model import FailureReason, Records, UncomparedReason
from podwire_agent.sinks.pair_text import PAIR_LABELS, HistogramColumns, PairColumns

COUNTS = np.dtype(
    [
        ("packets", "u8"),
        ("bytes", "u8"),
        ("lost", "u8"),
        ("compared", "u8"),
        ("uncompared", "u8", (len(UncomparedReason),)),
        ("connections", "u8"),
        ("failures", "u8", (len(FailureReason),)),
        ("retransmits", "u8"),
    ]
)
OCTAVES_S = tuple(2.0**power for power in range(-17, 6))
"""8 microseconds to 32 seconds."""


def labels(number: int, **given: str) -> tuple[str, ...]:
    """Those of a row, in the order of PAIR_LABELS."""
    made = {
        "src_namespace": f"namespace-{number % 50}",
        "src_workload": f"workload-{number % 400}",
        "src_kind": "Deployment",
        "dst_namespace": f"namespace-{number % 37}",
        "dst_workload": f"backend-{number // 400}",
        "dst_kind": "StatefulSet",
        "service": f"service-{number % 60}",
        "server_port": str(8000 + number % 100),
        "protocol": "TCP",
        "direction": "request" if number % 2 else "response",
        "locality": "cross_zone",
    }
    return tuple(given.get(name, made[name]) for name in PAIR_LABELS)


def pairs(monitor: str, rows: int, seed: int = 1, **given: str) -> PairColumns:
    """`given`: labels that all rows have."""
    draw = np.random.default_rng(seed)
    counts: Records = np.zeros(rows, COUNTS)
    for name in COUNTS.names or ():
        counts[name] = draw.integers(0, 1 << 40, counts[name].shape)
    return PairColumns(monitor, [labels(number, **given) for number in range(rows)], counts)


def latencies(monitor: str, rows: int, seed: int = 1) -> tuple[HistogramColumns, ...]:
    """Both histograms, of so many servers each."""
    draw = np.random.default_rng(seed)
    names = ("dst_namespace", "dst_workload", "dst_kind", "service", "server_port", "observed_at")
    servers = [(f"ns-{n}", f"server-{n}", "Deployment", f"service-{n}", "8080", "client") for n in range(rows)]
    return tuple(
        HistogramColumns(
            name=f"podwire_{what}_duration_seconds",
            meaning=meaning,
            monitor=monitor,
            label_names=names,
            labels=servers,
            bounds_s=OCTAVES_S,
            counts=draw.integers(0, 1 << 30, (rows, len(OCTAVES_S) + 1)).astype(np.uint64),
            sums_s=draw.random(rows) * 1e6,
        )
        for what, meaning in (("tcp_handshake", "From SYN to ACK"), ("response", "From a request to its response"))
    )
