"""The rows that the agents of a cluster have told of."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.installation import lines_of

LABELS = (
    "src_namespace", "src_workload", "src_kind", "dst_namespace", "dst_workload", "dst_kind", "service", "server_port",
    "protocol", "direction", "locality",
)  # fmt: skip
COUNTS = ("packets", "bytes", "lost", "compared")

Row = tuple[tuple[str, Any], ...]
"""Labels and their values."""


class Edges:
    """Edge lines since this was made, each sequence number once, whichever agent wrote it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before: set[tuple[Any, ...]] = set()
        self._lines: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.read()
        self._before = set(self._lines)

    def read(self) -> Edges:
        """What is in the nodes' log files now."""
        for line in lines_of(self._cluster):
            if line["type"] == "edge":
                self._lines.setdefault((line["node"], line["boot_id"], line["monitor"], line["sequence"]), line)
        return self

    def rows(self, monitor: str, **labels: Any) -> dict[Row, Counter[str]]:
        """Sums by row over both agents, of those that have these labels."""
        found: dict[Row, Counter[str]] = {}
        for key, line in self._lines.items():
            if key in self._before or line["monitor"] != monitor:
                continue
            if all(line.get(name) == value for name, value in labels.items()):
                row = tuple((name, line.get(name, "")) for name in LABELS)
                sums = found.setdefault(row, Counter())
                sums.update({name: line.get(name, 0) for name in COUNTS})
                sums.update({f"uncompared {reason}": count for reason, count in line.get("uncompared", {}).items()})
        return found

    def sums(self, monitor: str, **labels: Any) -> Counter[str]:
        """Over all rows with these labels."""
        return sum(self.rows(monitor, **labels).values(), Counter())

    def packets(self, monitor: str, **labels: Any) -> int:
        """That arrived, or left towards whom nobody watches."""
        return self.sums(monitor, **labels)["packets"]
