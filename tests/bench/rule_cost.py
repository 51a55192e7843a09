"""What rules cost: kernel time a packet beside that without any, and the time until a change is in force.

The rules are as many as there can be, over 100 000 addresses, of which four in five are exact. All traffic is measured
in the end, by the last rule of the whitelist, so that nothing is saved by filtering.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from podwire_agent.core.networks import Networks, packed, parse_lines
from podwire_agent.core.rule_entries import RuleCompiler
from podwire_agent.core.rules import End, Pod, Requirement, Rule, Rules, View
from podwire_agent.kernel.rule_sets import RuleSets
from podwire_agent.model import HookPoint, IfIndex, RuleEntries
from tests.bench.figures import Figure
from tests.bench.kernel_time import Links, Round, Traffic, a_frame, known_flows, links, transfer
from tests.kernel.netns import Pod as Place
from tests.kernel.sending import sending

ROUNDS = 5
ADDRESSES = 100_000
EXACT = 80_000
RULES = 64
SENDERS = 8
NEW_FLOWS = 400_000
ENTRIES = 1 << 19
PODS = 2000

KNOWN_BUDGET = 1.2
NEW_BUDGET = 2.5
CHANGE_BUDGET_S = 2.0


def cost() -> list[Figure]:
    """Kernel time with rules as a multiple of that without. RuntimeError, OSError."""
    entries = RuleCompiler(_rules()).compile(View(networks={"list": parse_lines(listed_networks())}))
    figures = []
    with links() as held:
        figures.append(_ratio(held, "bulk TCP", transfer, entries, KNOWN_BUDGET))
        figures.append(_ratio(held, "20 000 UDP flows", known_flows, entries, KNOWN_BUDGET))
    with links(ENTRIES) as held:
        figures.append(_ratio(held, "new UDP flows", _new_flows, entries, NEW_BUDGET))
        held.datapath.rules.apply(entries)
        held.datapath.rules.apply(entries)
        figures.append(_memory(held.datapath.rules))
    return figures


def change() -> list[Figure]:
    """Until other rules are in force, and another pod. RuntimeError, OSError."""
    text = listed_networks()
    pods = [_pod(number) for number in range(PODS)]
    compiler = RuleCompiler(_rules(Rule("pods", End(pod_query=(Requirement("app", "Exists"),)))))
    lists, more = [], []
    with links() as held:

        def apply(text: str | None, networks: Networks, pods: list[Pod]) -> None:
            read = networks if text is None else parse_lines(text)
            view = View(pods=pods, interfaces={IfIndex(1): pods[-1]}, networks={"list": read})
            held.datapath.rules.apply(compiler.compile(view))

        for number in range(ROUNDS):
            changed = f"{text}\n192.0.2.{number}"
            networks = parse_lines(changed)
            lists.append(_elapsed(partial(apply, changed, networks, pods)))
            apply(None, networks, pods)  # into the other half too
            more += [_elapsed(partial(apply, None, networks, [*pods, _pod(PODS + each)])) for each in range(3)]
    return [
        _change("100 000 addresses", lists, "read, compiled and pushed"),
        _change("another pod", more, "compiled, pushed"),
    ]


def _ratio(held: Links, name: str, traffic: Traffic, entries: RuleEntries | None, budget: float) -> Figure:
    without, with_rules = [], []
    for number in range(ROUNDS):
        print(f"rules, {name}: round {number + 1} of {ROUNDS}", file=sys.stderr)
        held.datapath.rules.apply(None)
        without.append(held.round_of_ours(traffic))
        held.datapath.rules.apply(entries)
        with_rules.append(held.round_of_ours(traffic))
    slow, fast = min(with_rules, key=a_frame), min(without, key=a_frame)
    detail = f"{_in_words(slow)}; without rules {_in_words(fast)}; {slow[HookPoint.INGRESS].runs} runs a round"
    return Figure(f"64 rules, 100 000 addresses, {name}", a_frame(slow) / a_frame(fast), "times", budget, detail)


def _in_words(times: Round) -> str:
    return " + ".join(f"{times[hook].ns_a_run:.0f}" for hook in HookPoint) + " ns"


def _memory(rules: RuleSets) -> Figure:
    """Of all that is filled, as the kernel tells it."""
    maps = [filled.map for half in rules._halves for filled in half.values()]
    infos = [Path(f"/proc/self/fdinfo/{each.fd}").read_text().splitlines() for each in maps]
    total = sum(int(line.split()[1]) for info in infos for line in info if line.startswith("memlock:"))
    return Figure("64 rules, 100 000 addresses, kernel memory", total / (1 << 20), "MiB", None, "both halves")


def _change(name: str, seconds: list[float], how: str) -> Figure:
    detail = f"{how}, {PODS} pods; worst of {len(seconds)}: {max(seconds):.2f} s"
    return Figure(f"rules in force, {name}", min(seconds), "s", CHANGE_BUDGET_S, detail)


def _elapsed(function: Callable[[], None]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def _new_flows(first: Place, second: Place) -> None:
    """Each frame is its flow's only one."""
    share = NEW_FLOWS // SENDERS
    with sending(first.namespace, NEW_FLOWS, share, senders=SENDERS, destination=second.mac) as senders:
        for each in senders:
            each.wait()


def _rules(*others: Rule) -> Rules:
    """Two full lists that ask for everything a rule can ask for."""
    listed = frozenset({"list"})
    black = [
        Rule(
            f"b{number}", End(cidrs_from=listed), ports=((7000 + number, 7000 + number),), protocols=frozenset({6, 17})
        )
        for number in range(RULES)
    ]
    white = [
        Rule(f"w{number}", End(cidrs=Networks.of([f"172.16.{number}.0/24"])), peer=End(cidrs_from=listed))
        for number in range(RULES - 1 - len(others))
    ]
    return Rules(tuple(black), (*white, *others, Rule("all")))


def listed_networks() -> str:
    """100 000 networks, a line each; those of the traffic among them."""
    chance = random.Random(6)
    exact = {f"10.{n % 16}.{n // 16 % 256}.{n // 4096}" for n in range(EXACT)}
    wide: set[str] = set()
    while len(wide) < ADDRESSES - EXACT - 1:
        wide.add(
            f"{chance.randrange(11, 224)}.{chance.randrange(256)}.{chance.randrange(256)}.0/{chance.randint(20, 30)}"
        )
    return "\n".join([*sorted(exact), *sorted(wide)])


def _pod(number: int) -> Pod:
    return Pod("shop", {"app": f"app-{number % 100}"}, (packed(f"10.99.{number >> 8}.{number & 255}"),))
