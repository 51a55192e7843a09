"""Runs the agent's command line, but ends it by SIGKILL after the Nth step of its ticks: kill_at N run --file ..."""

from __future__ import annotations

import os
import signal
import sys

from podwire_agent import cli, telemetry


class KillAt:
    """A StepObserver."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, name: str) -> None:
        """The last step is the last thing this process does."""
        self.left -= 1
        if self.left == 0:
            print(f"killed after {name}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    steps, *arguments = sys.argv[1:]
    observer = KillAt(int(steps))
    telemetry.StepTimes.step = lambda _, name: observer.step(name)  # type: ignore[method-assign]
    raise SystemExit(cli.main(arguments))
