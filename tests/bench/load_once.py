"""Loads once by a loader in a process that does nothing else: python -m tests.bench.load_once {libbpf,bcc}

Writes JSON: seconds it took; seconds of CPU and the peak memory (10^6 bytes) of the child, 0 where there is none.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from podwire_agent.ground import default_loader
from podwire_agent.settings import LoaderName, Settings


def main() -> None:
    """Load, and forget what was loaded."""
    loader = default_loader(Settings(loader=LoaderName(sys.argv[1])))
    begun = time.monotonic()
    with loader.load({}):
        taken = time.monotonic() - begun
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = child.ru_utime + child.ru_stime
    json.dump({"load_s": taken, "child_cpu_s": cpu, "child_peak_mb": child.ru_maxrss * 1024 / 1e6}, sys.stdout)


if __name__ == "__main__":
    main()
