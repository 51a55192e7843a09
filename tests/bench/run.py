"""Measures what is promised about cost, and prints each figure beside its budget.

    .venv/bin/python -m tests.bench.run [--only NAME]... [--json]

As root. Exit code 1 where something could not be measured; a budget that is missed is a result like any other.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict

from podwire_agent.errors import PodwireError
from tests.bench import (
    agent_cost,
    attach_time,
    kernel_time,
    pod_cost,
    rows_cost,
    rule_cost,
    scrape_cost,
    translation_cost,
    who_cost,
)
from tests.bench.figures import Figure, table
from tests.kernel.netns import remove_leftovers

MEASUREMENTS: Mapping[str, Callable[[], list[Figure]]] = {
    "tcp": kernel_time.bulk_tcp,
    "udp": kernel_time.many_udp_flows,
    "rules": rule_cost.cost,
    "change": rule_cost.change,
    "pods": pod_cost.pods,
    "services": translation_cost.cost,
    "cpu": agent_cost.cpu,
    "rows": rows_cost.cost,
    "memory": agent_cost.memory,
    "scrape": scrape_cost.scrape,
    "start": attach_time.start,
    "birth": attach_time.birth,
    "who": who_cost.who,
}


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="make bench", description="The budgets, measured on this machine.")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="measure this; may be given again")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    if os.geteuid():
        print("make bench makes network namespaces and loads kernel programs: run it as root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed agent is compiled
    remove_leftovers()
    print(
        f"load average {os.getloadavg()[0]:.2f} at the beginning: what else runs makes all figures worse",
        file=sys.stderr,
    )
    figures: list[Figure] = []
    failed = 0
    for name in options.only or MEASUREMENTS:
        try:
            figures += MEASUREMENTS[name]()
        except (OSError, RuntimeError, PodwireError, subprocess.SubprocessError) as error:
            print(f"bench: {name} could not be measured: {error}", file=sys.stderr)
            failed = 1
    if options.json:
        print(json.dumps([{**asdict(each), "ratio": each.ratio} for each in figures], indent=2))
    elif figures:
        print(table(figures))
    return failed


if __name__ == "__main__":
    sys.exit(main())
