"""What a scrape of very many rows costs: time until the page is made, and memory for it.

Of the series by reason one in twenty is there, as most reasons never come up for most rows.

A process of its own, as what other measurements left in memory would be in the figures: run as a module, it prints
what it measured as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from podwire_agent.exposition import Exposition, Rows
from podwire_agent.metrics_endpoint import _packed
from podwire_agent.negotiation import Format
from podwire_agent.telemetry import AgentState, StepTimes
from tests.bench.figures import Figure
from tests.pair_rows import pairs

ROWS = 10_000
ROUNDS = 7
BUDGET_S = 0.1
ROOT = Path(__file__).parents[2]


def scrape() -> list[Figure]:
    """10 000 rows with all metrics of pairs. SubprocessError."""
    print(f"scrape: {ROUNDS} rounds", file=sys.stderr)
    found, whole = _measured("sparse"), _measured("whole")
    return [
        Figure(f"scrape of {ROWS} rows, text", found["text_s"], "s", BUDGET_S, _size(found)),
        Figure(f"scrape of {ROWS} rows, every reason", whole["text_s"], "s", BUDGET_S, _size(whole)),
        Figure(f"scrape of {ROWS} rows, the first", found["first_s"], "s", None, "with the text of every row's labels"),
        Figure(
            f"scrape of {ROWS} rows, compressed",
            found["packed_s"],
            "s",
            None,
            f"the same and gzip, which leaves other threads alone: {found['packed_mb']:.1f} MB; best of {ROUNDS}",
        ),
        Figure(
            f"scrape of {ROWS} rows, memory",
            found["kept_mb"],
            "MB",
            None,
            f"RSS after it above before it; {found['peak_mb']:.1f} MB meanwhile",
        ),
    ]


def _measured(how: str) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, how]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _size(found: dict[str, float]) -> str:
    return f"{found['lines']:.0f} lines, {found['text_mb']:.0f} MB of text; best of {ROUNDS}"


def _measure(how: str) -> dict[str, float]:
    columns = pairs("shop", ROWS)
    if how == "sparse":
        draw = np.random.default_rng(2)
        sizes = {name: columns.counts[name].shape for name in ("uncompared", "failures")}
        columns = replace(columns, shown={name: draw.random(size) < 1 / 20 for name, size in sizes.items()})
    rows = Rows((columns,))
    state = AgentState("0.1.0", "6.1.0", "libbpf", 0.0, ())
    exposition = Exposition(lambda: state, StepTimes(), lambda _scraper, _monitors: rows)
    empty = Exposition(lambda: state, StepTimes())
    for _ in range(3):
        b"".join(empty.page(Format.OPENMETRICS).chunks)
    before = _status_mb("VmRSS")
    packed_s, text_s = [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        packed, length = _packed(exposition.page(Format.OPENMETRICS).chunks)
        packed_s.append(time.perf_counter() - begun)
    after, peak = _status_mb("VmRSS"), _status_mb("VmHWM")
    lines = 0
    for _ in range(ROUNDS):
        begun, elapsed = time.perf_counter(), 0.0
        for chunk in exposition.page(Format.OPENMETRICS).chunks:
            elapsed += time.perf_counter() - begun
            lines += chunk.count(b"\n")
            begun = time.perf_counter()
        text_s.append(elapsed)
    return {
        "first_s": packed_s[0],
        "packed_s": min(packed_s),
        "text_s": min(text_s),
        "lines": lines / ROUNDS,
        "text_mb": length / 1e6,
        "packed_mb": sum(map(len, packed)) / 1e6,
        "kept_mb": after - before,
        "peak_mb": peak - before,
    }


def _status_mb(field: str) -> float:
    """Of this process, from /proc."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1000


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
