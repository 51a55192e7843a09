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
    setattr(telemetry.StepTimes, "step", staticmethod(KillAt(int(steps)).step))  # noqa: B010 (mypy forbids the other way)
    raise SystemExit(cli.main(arguments))
