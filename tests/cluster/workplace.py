"""A directory and cgroups that are gone in the end, also where the process that made them is killed.

A janitor, a process of its own, waits for the end of its standard input: this process closes it, or dies. Where the
janitor was killed too, the next workplace to be made removes what is left.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Self

from tests.cluster.janitor import hierarchies, remove

PLACE = Path("/var/tmp")  # noqa: S108 (on a disk; a name that exists already is refused)
OURS = re.compile(r"podwire-(\d+)-\d+")
CLEAN_S = 60.0

_serial = count()


class Workplace:
    """Context manager."""

    def __init__(self) -> None:
        self.name = f"podwire-{os.getpid()}-{next(_serial)}"
        self.directory = PLACE / self.name
        self._janitor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        remove_leftovers()
        self.directory.mkdir(mode=0o700)
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._janitor = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.janitor", self.name, str(self.directory)],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                pass_fds=[lock.fileno()],  # locked as long as the janitor lives
                start_new_session=True,
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._janitor is not None and self._janitor.stdin is not None:
            self._janitor.stdin.close()
            self._janitor.wait(CLEAN_S)

    def cgroup(self, name: str) -> str:
        """Make a cgroup below this workplace's in every hierarchy; returns its path there: "/podwire-1-0/NAME"."""
        for hierarchy in hierarchies():
            above = hierarchy
            for part in (self.name, name):
                if (controllers := above / "cgroup.controllers").exists():  # v2: what the children may use
                    wanted = {"cpu", "cpuset", "io", "memory", "pids"} & set(controllers.read_text().split())
                    missing = wanted - set((above / "cgroup.subtree_control").read_text().split())
                    if missing:
                        (above / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in missing))
                here = above / part
                here.mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if (above / file).exists() and not (here / file).read_text().strip():
                        (here / file).write_text((above / file).read_text())
                above = here
        return f"/{self.name}/{name}"


def remove_leftovers() -> None:
    """What is left of workplaces whose process and janitor are no more."""
    directories = [PLACE, *hierarchies()]
    names = {path.name for directory in directories for path in directory.glob("podwire-*")}
    for name in names:
        ours = OURS.fullmatch(name)
        if ours is None or Path("/proc", ours[1]).exists():
            continue
        try:
            with (PLACE / name / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            continue  # its janitor is at work
        remove(name, PLACE / name)
