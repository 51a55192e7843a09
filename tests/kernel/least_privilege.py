"""Loads under whatever capabilities, and counts: `python -m tests.kernel.least_privilege OBJECT`.

OBJECT is an object file, or the directory of what BCC compiles.

Writes the capabilities in effect and what was seen, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from podwire_agent.kernel.bcc_loader import BccLoader
from podwire_agent.kernel.datapath import PROGRAMS
from podwire_agent.kernel.loader import LibbpfLoader, Loader
from tests.kernel.datapath_fixtures import LOOPBACK, Datapath
from tests.kernel.packet_table import CASES


def main() -> int:
    """Every frame of the packet table through every program."""
    status = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    path = Path(sys.argv[1])
    loader: Loader = BccLoader(path, coarse_clock=True) if path.is_dir() else LibbpfLoader(path)
    with Datapath(loader.load({})) as datapath:
        datapath.watch(LOOPBACK)
        for name, _ in PROGRAMS.values():
            for case in CASES:
                datapath.programs[name].test_run(case.frame)
        seen = {direction.name: datapath.account(LOOPBACK, direction).seen for _, direction in PROGRAMS.values()}
    json.dump({"capabilities": effective, "seen": seen}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
