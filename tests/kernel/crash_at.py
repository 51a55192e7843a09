"""Runs the agent's command line, but raises what nobody foresaw after given steps: crash_at 12,20 run --file ..."""

from __future__ import annotations

import sys

from podwire_agent import cli, telemetry


class CrashAt:
    """A StepObserver."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps
        self.seen = 0

    def step(self, name: str) -> None:
        """A bug, at some steps of its life."""
        self.seen += 1
        if self.seen in self.steps:
            raise ZeroDivisionError(f"after {name}")


if __name__ == "__main__":
    steps, *arguments = sys.argv[1:]
    observer = CrashAt([int(each) for each in steps.split(",")])
    setattr(telemetry.StepTimes, "step", staticmethod(observer.step))  # noqa: B010 (mypy forbids the other way)
    raise SystemExit(cli.main(arguments))
