"""Runs the agent's command line with rules about pods, which a file tells of: knowing_later WORLD STEPS run --file ...

WORLD is JSON, read again at each look: {"pods": {NAME: [NAMESPACE, ADDRESS]}, "interfaces": {INDEX: NAME or null}}.
Pods of the namespace `quiet` are not wanted. After STEPS steps of its ticks it is killed; 0: never.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from podwire_agent import cli, rulekeeper, telemetry
from podwire_agent.core.networks import packed
from podwire_agent.core.rules import End, Pod, Rule, Rules, View
from podwire_agent.model import IfIndex
from tests.kernel.kill_at import KillAt

RULES = Rules((Rule("hush", End(namespaces=frozenset({"quiet"}))),))


class World:
    """A rulekeeper.Meaning."""

    def __init__(self, path: Path) -> None:
        self.notes: tuple[str, ...] = ()
        self._path = path
        self._text = ""

    def __call__(self) -> View | None:
        """What the file says, where it says something else."""
        before, self._text = self._text, self._path.read_text()
        if self._text == before:
            return None
        found = json.loads(self._text)
        pods = {name: Pod(namespace, {}, (packed(address),)) for name, (namespace, address) in found["pods"].items()}
        interfaces = {IfIndex(int(index)): pods[name] if name else None for index, name in found["interfaces"].items()}
        return View(pods=tuple(pods.values()), interfaces=interfaces)

    def selects_nobody(self, rules: object) -> None:
        """Not told."""


if __name__ == "__main__":
    world, steps, *arguments = sys.argv[1:]
    keeper = rulekeeper.RuleKeeper(RULES, World(Path(world)))
    setattr(rulekeeper.RuleKeeper, "of", staticmethod(lambda *_: keeper))  # noqa: B010 (mypy forbids the other way)
    if int(steps):
        setattr(telemetry.StepTimes, "step", staticmethod(KillAt(int(steps)).step))  # noqa: B010 (as above)
    raise SystemExit(cli.main(arguments))
