"""Removes a workplace's cgroups and directory once its standard input ends.

python -m tests.cluster.janitor CGROUP DIRECTORY
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PATIENCE_S = 20.0


def hierarchies() -> Iterator[Path]:
    """The root of each cgroup hierarchy: one with v2, one a controller with v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        yield CGROUPS
        return
    yield from (path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink())


def remove(cgroup: str, directory: Path) -> None:
    """End what still runs in the cgroup, and remove both. OSError where that fails for PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while remaining := [path for hierarchy in hierarchies() if (path := hierarchy / cgroup).exists()]:
        try:
            for path in remaining:
                _remove_cgroup(path)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    # Thousands of files of images, for which shutil takes many times as long.
    subprocess.run(["rm", "--recursive", "--force", "--one-file-system", str(directory)], check=False)


def _remove_cgroup(path: Path) -> None:
    for below in [*path.iterdir()]:
        if below.is_dir():
            _remove_cgroup(below)
    for pid in (path / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    path.rmdir()


def main() -> None:
    """Wait, then clean."""
    cgroup, directory = sys.argv[1:]
    sys.stdin.read()
    remove(cgroup, Path(directory))


if __name__ == "__main__":
    main()
