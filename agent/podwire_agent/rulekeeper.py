"""Keeps one monitor's rules in force: compiles them for what is known of the world, and again when that changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

from podwire_agent.core.rule_entries import RuleCompiler
from podwire_agent.core.rules import Rules, View
from podwire_agent.kernel.rule_sets import RuleSets
from podwire_agent.references import References
from podwire_agent.ruling import config_maps_of, rules_of
from podwire_api import NetworkMonitorSpec


class RuleKeeper:
    """One thread at a time."""

    def __init__(self, rules: Rules, view: Callable[[], View | None]) -> None:
        """`view` gives the present view, None where nothing has changed since it last gave one; the first is not."""
        self.rules = rules
        self._view = view
        self._compiler = RuleCompiler(rules)
        self._pending: View | None = None

    @classmethod
    def of(cls, spec: NetworkMonitorSpec, refs: Path | None) -> Self:
        """Without a cluster: what the rules refer to is in files below `refs`. ResourceError."""
        return cls(rules_of(spec), _Files(References(refs, config_maps_of(spec))))

    def enforce(self, sets: RuleSets) -> None:
        """Before anything is attached: whatever rules a former agent left are replaced. KernelError."""
        self._pending = self._view() or View()
        self.renew(sets)

    def renew(self, sets: RuleSets) -> None:
        """Have what has changed in force. KernelError: called again, it tries again."""
        self._pending = self._view() or self._pending
        if self._pending is not None:
            sets.apply(self._compiler.compile(self._pending))
            self._pending = None


class _Files:
    """The view of an agent without a cluster: no pods, and the networks that files list."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._shown = False

    def __call__(self) -> View | None:
        changed = self._references.refresh() if self._shown else True
        self._shown = True
        return View(networks=self._references.networks) if changed else None
