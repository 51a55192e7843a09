"""Which pod is behind each interface, by the addresses in the namespace of its other end.

A pod's address may reach the API server later than its veth is born: what is not known yet is looked at again, and
only what is no pod's a minute later, while the pods are known, is taken for somebody else's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from podwire_agent.kernel.addresses import Addresses
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kube.objects import Pod
from podwire_agent.kube.pods import PodStore
from podwire_agent.model import IfIndex, Interface
from podwire_agent.ports import Clock

log = logging.getLogger(__name__)

DOUBT_S = 60.0
"""How long a pod may take to be known."""
YOUNG_S = 5.0
"""Until then it is looked at NOW_S after it was last, then SOON_S, from DOUBT_S on LATE_S."""
NOW_S = 0.25
SOON_S = 2.0
LATE_S = 15.0
KEPT_S = 60.0
"""How long a pod's interface is remembered that nobody watches: a monitor is brought up anew in less, and what a pod
sent before it was known is judged later, also when the pod is gone by then."""


@dataclass(slots=True)
class _Veth:
    """One interface in one life of it."""

    interface: Interface
    born_mono_ns: int
    """When it was seen first."""
    look_mono_ns: int
    """When it is looked at next."""
    pod: str = ""
    """The uid of the pod behind it, once that is known; it stays this pod's."""
    strange: bool = False
    """No pod's."""
    kept_mono_ns: int = 0
    """Until when it is remembered though nobody watches it."""


class PodsBehind:
    """One thread calls `look`; the rest may be called from any."""

    def __init__(self, pods: PodStore, node: str, clock: Clock, interfaces: Interfaces, addresses: Addresses) -> None:
        self._pods = pods
        self._node = node
        self._clock = clock
        self._interfaces = interfaces
        self._addresses = addresses
        self._veths: dict[IfIndex, _Veth] = {}
        self._version_here = 0
        self.known: Mapping[IfIndex, Pod | None] = {}
        """Of what is watched: the pod, as it was when it was last in view, or None: no pod's. Without what is not
        known yet. Another object after a change, and none while there is no change."""

    def is_strange(self, interface: Interface) -> bool:
        """It is no pod's, as far as can be known."""
        veth = self._veths.get(interface.index)
        return veth is not None and veth.strange and _same(veth.interface, interface)

    def behind(self, interfaces: Iterable[Interface]) -> int:
        """How many pods are behind these."""
        found = (self._veths.get(each.index) for each in interfaces)
        return len({veth.pod for veth in found if veth is not None and self._pods.get(veth.pod) is not None})

    def look(
        self, interfaces: Iterable[Interface], *, pods_known: bool, hosts: Iterable[Interface] = ()
    ) -> tuple[bool, float]:
        """Look at those of `interfaces` (veths that are watched) that are due, and at the strange ones again.

        `pods_known`: every pod of the node is in view. `hosts`: what is watched and is the node's own. Whether others
        are strange now than before; and after how many seconds to look again. KernelError.
        """
        now_mono_ns = self._clock.mono_ns()
        watched = {each.index: each for each in interfaces}
        kept_mono_ns = now_mono_ns + int(KEPT_S * 1e9)
        self._keep(watched, now_mono_ns)
        for index, interface in watched.items():
            veth = self._veths.get(index)
            if veth is None or not _same(veth.interface, interface):
                self._veths[index] = _Veth(interface, now_mono_ns, now_mono_ns)
            self._veths[index].kept_mono_ns = kept_mono_ns
        if self._pods.version_here != self._version_here:  # an address that was looked for may be there now
            self._version_here = self._pods.version_here
            for veth in self._veths.values():
                if not veth.strange:
                    veth.look_mono_ns = min(veth.look_mono_ns, now_mono_ns)
        namespaces = {
            veth.interface.peer_netns_id: veth.pod
            for index, veth in self._veths.items()
            if veth.pod and index in watched
        }
        changed = False
        for veth in self._veths.values():
            if not veth.pod and now_mono_ns >= veth.look_mono_ns:
                changed |= self._look_at(veth, namespaces, now_mono_ns, pods_known=pods_known)
        self._know(hosts)
        due = [veth.look_mono_ns for veth in self._veths.values() if not veth.pod]
        return changed, max(0.0, (min(due) - now_mono_ns) / 1e9) if due else LATE_S

    def _know(self, hosts: Iterable[Interface]) -> None:
        known: dict[IfIndex, Pod | None] = {each.index: None for each in hosts}
        for index, veth in self._veths.items():
            if veth.strange:
                known[index] = None
            elif veth.pod and (pod := self._pods.get(veth.pod) or self.known.get(index)) is not None:
                known[index] = pod
        if known != self.known:
            self.known = known

    def _keep(self, watched: dict[IfIndex, Interface], now_mono_ns: int) -> None:
        """Forget what went: of those that are not watched, the strange ones stay as long as they are there."""
        for index, veth in list(self._veths.items()):
            if (
                index in watched
                or (veth.pod and now_mono_ns < veth.kept_mono_ns)
                or (veth.strange and now_mono_ns < veth.look_mono_ns)
            ):
                continue
            there = self._interfaces.one(index) if veth.strange else None
            if there is None or not _same(there, veth.interface):
                del self._veths[index]

    def _look_at(self, veth: _Veth, namespaces: dict[int | None, str], now_mono_ns: int, *, pods_known: bool) -> bool:
        age_s = (now_mono_ns - veth.born_mono_ns) / 1e9
        again_s = NOW_S if age_s < YOUNG_S else SOON_S if age_s < DOUBT_S else LATE_S
        veth.look_mono_ns = now_mono_ns + int(again_s * 1e9)
        name = veth.interface.name
        addresses = self._addresses.behind(veth.interface)
        found = (self._pods.by_address(str(address)) for address in addresses or ())
        pod = next((each.uid for each in found if each is not None and each.node == self._node), "")
        veth.pod = pod or namespaces.get(veth.interface.peer_netns_id, "")  # a pod may have several interfaces
        if veth.pod:
            namespaces[veth.interface.peer_netns_id] = veth.pod
            was_strange, veth.strange = veth.strange, False
            if was_strange:
                log.info("%s is a pod's after all: it is watched where a monitor watches every pod", name)
            return was_strange
        if veth.strange or addresses is None or not pods_known or age_s < DOUBT_S:
            return False  # None: unknown, which proves nothing
        veth.strange = True
        log.info(
            "%s is no pod's (behind it: %s): a monitor watches it only by vethPattern, cni or hostInterfaces",
            name,
            ", ".join(sorted(map(str, addresses))) or "no address",
        )
        return True


def _same(one: Interface, other: Interface) -> bool:
    """The index was not given to another one meanwhile, as far as can be told."""
    return (one.peer_index, one.peer_netns_id) == (other.peer_index, other.peer_netns_id)
