"""Where an interface's own counters count something else than what our programs see, and why."""

from __future__ import annotations

from collections.abc import Iterable

from podwire_agent.kernel.ethtool import offloads
from podwire_agent.model import Attached, HookPoint, Interface


def why_not(interface: Interface, attached: Iterable[Attached]) -> dict[HookPoint, str]:
    """For each hook why the counter that moves with it cannot be compared with ours; hooks where it can are left out.

    As it stands now: what is changed later makes the difference from then on.
    """
    reasons: dict[HookPoint, list[str]] = {hook: [] for hook in HookPoint}
    for each in attached:
        if each.hidden_by:
            reasons[each.hook].append(f"{each.hidden_by} may keep packets from ours")
    if interface.kind == "bridge":
        reasons[HookPoint.INGRESS].append("a bridge counts the bytes it receives without their Ethernet headers")
    if interface.xdp:
        reasons[HookPoint.INGRESS].append("an XDP program receives before us and may drop or redirect")
    if interface.qdisc not in ("noqueue", ""):
        reasons[HookPoint.EGRESS].append(f"the qdisc {interface.qdisc} sends after us and may drop")
    for hook, words in _offloads_against(interface.name).items():
        reasons[hook] += words
    return {hook: "; ".join(words) for hook, words in reasons.items() if words}


def _offloads_against(name: str) -> dict[HookPoint, list[str]]:
    reasons: dict[HookPoint, list[str]] = {hook: [] for hook in HookPoint}
    try:
        found = offloads(name)
    except OSError as error:
        for hook in HookPoint:
            reasons[hook].append(f"its offloads are not known ({error.strerror})")
    else:
        if "rx-gro" in found.on:
            reasons[HookPoint.INGRESS].append("it receives with GRO, which merges frames after they are counted")
        splits = {name for name in found.off if name.startswith("tx-") and name.endswith("-segmentation")}
        segmentations = sorted(splits - {"tx-fcoe-segmentation"})  # that one is no IP
        if segmentations:
            reasons[HookPoint.EGRESS].append(f"frames are split after us ({', '.join(segmentations)} off)")
    return reasons
