"""What this node offers: the kernel's features, the interfaces that would be watched, what else hangs on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from podwire_agent.errors import InterfaceGone, PodwireError
from podwire_agent.kernel import bpffs, capabilities, probes
from podwire_agent.kernel.addresses import Addresses
from podwire_agent.kernel.cni import CNIS, Selector
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.probes import Feature
from podwire_agent.kernel.tc import TrafficControl
from podwire_agent.kernel.verifiable import why_not
from podwire_agent.model import HookPoint, Interface
from podwire_agent.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One interface."""

    name: str
    watched: bool
    reason: str
    """Why it is watched, or why not."""
    named_like: list[str]
    """The network plug-ins that name interfaces so."""
    addresses: list[str]
    """Those behind it; none: unknown."""
    others: dict[str, list[str]]
    """Hook -> programs of others, in the order in which they run."""
    unverifiable: dict[str, str]
    """Hook -> why the interface's counters cannot be compared with ours."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that doctor tells. As JSON: the same names."""

    kernel: str
    problems: list[str]
    """What keeps the agent from running here, each with what to do; none: it can."""
    features: list[Feature]
    interfaces: list[Finding]


def examine(settings: Settings, selector: Selector) -> Diagnosis:
    """Look at this node; changes nothing. Never raises for what it finds: that is a problem to tell."""
    problems, features = what_is_missing(settings, f"run `mount -t bpf bpf {settings.bpffs}`")
    try:
        findings = list(_interfaces(selector, settings.bpffs / bpffs.HOME))
    except PodwireError as error:
        findings = []
        problems.append(str(error))
    return Diagnosis(os.uname().release, problems, features, findings)


def what_is_missing(settings: Settings, how_to_mount: str) -> tuple[list[str], list[Feature]]:
    """What keeps the agent from running here, each with what to do; and what the kernel offers."""
    problems = [f"{name} is missing; run as root or grant it" for name in capabilities.missing()]
    features: list[Feature] = []
    if not bpffs.is_mounted(settings.bpffs):
        problems.append(f"no bpffs at {settings.bpffs}; {how_to_mount}")
    if not list(settings.objects.glob("*.bpf.o")):
        problems.append(f"no compiled programs in {settings.objects}; run `make build`")
    try:
        probes.raise_memlock()
        features = probes.features()
        probes.require(features)
    except PodwireError as error:
        problems.append(str(error))
    return problems, features


def _interfaces(selector: Selector, home: Path) -> Iterator[Finding]:
    with ExitStack() as stack:
        interfaces = stack.enter_context(Interfaces())
        addresses = stack.enter_context(Addresses())
        control = stack.enter_context(TrafficControl())
        for interface in interfaces.all():
            try:
                yield _finding(interface, selector, addresses, control, home)
            except InterfaceGone:
                continue


def _finding(
    interface: Interface, selector: Selector, addresses: Addresses, control: TrafficControl, home: Path
) -> Finding:
    selection = selector.select(interface)
    named_like = [name for name in CNIS if selection and Selector.of_cni(name).select(interface)]
    others = {str(hook): control.foreign(interface.index, hook, home) for hook in HookPoint}
    return Finding(
        name=interface.name,
        watched=bool(selection),
        reason=selection.reason,
        named_like=named_like,
        addresses=sorted(map(str, (addresses.behind(interface) or ()) if selection else ())),
        others={hook: found for hook, found in others.items() if found},
        unverifiable={str(hook): reason for hook, reason in why_not(interface, ()).items()} if selection else {},
    )


def in_words(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis as text, a line at a time."""
    yield f"kernel {diagnosis.kernel}"
    for feature in diagnosis.features:
        mark = "yes" if feature.present else "NO" if feature.needed else "no"
        yield f"  {mark:3}  {feature.name} (Linux {feature.since}): {feature.meaning}"
    yield "interfaces"
    for finding in diagnosis.interfaces:
        yield f"  {'watched' if finding.watched else '-':8} {finding.name:15} {finding.reason}"
        if finding.addresses:
            yield f"{'':26} behind it: {', '.join(finding.addresses)}"
        if finding.named_like:
            yield f"{'':26} named like those of {', '.join(finding.named_like)}"
        for hook, found in finding.others.items():
            yield f"{'':26} others at {hook}: {', '.join(found)}"
        for hook, reason in finding.unverifiable.items():
            yield f"{'':26} {hook} cannot be checked against the interface's counters: {reason}"
    for problem in diagnosis.problems:
        yield f"PROBLEM  {problem}"
    if not diagnosis.problems:
        yield "the agent can run here"
