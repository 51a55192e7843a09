"""Keeps one monitor's rules in force: compiles them for what is known of the world, and again when that changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from podwire_agent.kernel.rule_sets import RuleSets
from podwire_agent.model import RuleListName
from podwire_api import NetworkMonitorSpec

if TYPE_CHECKING:
    from podwire_agent.core.judge import Judge
    from podwire_agent.core.rules import Rules, View
    from podwire_agent.references import References


class Meaning(Protocol):
    """What one monitor's rules refer to."""

    notes: tuple[str, ...]
    """What its user should know of that: a rule that selects nothing, a ConfigMap that is refused."""

    def __call__(self) -> View | None:
        """As of now; None where nothing has changed since the last time. The first time it is not None."""

    def selects_nobody(self, rules: Sequence[tuple[RuleListName, str]]) -> None:
        """List and name of those rules that select nobody in the view given last: for the notes."""


class RuleKeeper:
    """One thread at a time, but for `notes` and `judge`.

    What works rules out is loaded where there are some: it takes a megabyte.
    """

    def __init__(self, rules: Rules | None, view: Meaning) -> None:
        """`rules`: None where there are none; then `view` is not asked."""
        self.judge: Judge | None = None
        """Of what is in force; None: there are no rules."""
        self._view = view
        self._compiler = None
        self._pending: View | None = None
        if rules is not None:
            from podwire_agent.core.rule_entries import RuleCompiler  # noqa: PLC0415 (see above)

            self._compiler = RuleCompiler(rules)

    @classmethod
    def of(cls, spec: NetworkMonitorSpec, refs: Path | None) -> Self:
        """Without a cluster: what the rules refer to is in files below `refs`. ResourceError."""
        if not spec.whitelist and not spec.blacklist:
            return cls(None, NoMeaning())
        from podwire_agent.references import References  # noqa: PLC0415 (see above)
        from podwire_agent.ruling import config_maps_of, rules_of  # noqa: PLC0415

        return cls(rules_of(spec), _Files(References(refs, config_maps_of(spec))))

    @property
    def notes(self) -> tuple[str, ...]:
        """See Meaning."""
        return self._view.notes

    def enforce(self, sets: RuleSets) -> None:
        """Before anything is attached: whatever rules a former agent left are replaced. KernelError."""
        if self._compiler is None:
            sets.apply(None)
            return
        from podwire_agent.core.rules import View  # noqa: PLC0415 (see above)

        self._pending = self._view() or View()
        self.renew(sets)

    def renew(self, sets: RuleSets) -> None:
        """Have what has changed in force. KernelError: called again, it tries again."""
        if self._compiler is None:
            return
        self._pending = self._view() or self._pending
        if self._pending is not None:
            entries = self._compiler.compile(self._pending)
            self._view.selects_nobody(self._compiler.selecting_nobody() if self._pending.complete else ())
            sets.apply(entries)
            if entries is not None:
                from podwire_agent.core.judge import Judge  # noqa: PLC0415 (see above)

                self.judge = Judge(self._compiler, self._pending, entries)
            self._pending = None


class NoMeaning:
    """Of a monitor without rules: everything is measured."""

    notes: tuple[str, ...] = ()

    def __call__(self) -> View | None:
        """Nothing ever changes."""
        return None

    def selects_nobody(self, rules: Sequence[tuple[RuleListName, str]]) -> None:
        """There are none."""


class _Files:
    """The view of an agent without a cluster: no pods, and the networks that files list."""

    def __init__(self, references: References) -> None:
        self.notes: tuple[str, ...] = ()
        self._references = references
        self._shown = False

    def __call__(self) -> View | None:
        changed = self._references.refresh() if self._shown else True
        self._shown = True
        from podwire_agent.core.rules import View  # noqa: PLC0415 (see above)

        return View(networks=self._references.networks) if changed else None

    def selects_nobody(self, rules: Sequence[tuple[RuleListName, str]]) -> None:
        pass  # no rule asks for pods
