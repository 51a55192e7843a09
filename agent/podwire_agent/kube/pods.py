"""The pods of the cluster, found by address, now and for a while after they are gone."""

from __future__ import annotations

import threading

from podwire_agent.kube.objects import Pod, address_bytes
from podwire_agent.kube.tenures import Held, Tenures
from podwire_agent.ports import Clock

KEPT_S = 120.0
"""How long what pods had is remembered before anybody says how long."""
EARLIER_S = 1.0
"""A node may hear of a pod so much earlier than this agent, and its clock may be so far ahead."""


class PodStore:
    """Written by one reflector, read from any thread."""

    def __init__(self, node: str, clock: Clock) -> None:
        self.version = 0
        """Grows when a pod's namespace, labels or addresses are others, or a pod comes or goes."""
        self.version_here = 0
        """The same, of pods of this node."""
        self._node = node
        self._clock = clock
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._here: dict[str, Pod] = {}
        self._tenures = Tenures()
        self._kept_ns = int(KEPT_S * 1e9)
        self._current_mono_ns = 0
        """When something was told last: until then nothing was missed."""
        self._listed_anew_mono_ns = 0
        """Somebody may have come and gone unseen shortly before; at the start nobody has looked yet."""
        self._arrived_mono_ns: dict[str, int] = {}
        """When a pod was seen first that has a node and no address."""

    def __len__(self) -> int:
        return len(self._pods)

    @property
    def addresses_version(self) -> int:
        """Grows when an address, or a node's port, changes hands."""
        return self._tenures.version

    @property
    def forgotten_total(self) -> int:
        """Addresses of former pods that were forgotten sooner than told to be."""
        return self._tenures.forgotten_total

    def by_address(self, address: bytes | str) -> Pod | None:
        """The pod that has the address (text, or 16 bytes with IPv4 mapped into IPv6) now.

        Pods on the host's network share the node's address and are never found. OSError if the text is no address.
        """
        return self._tenures.holder(address if isinstance(address, bytes) else address_bytes(address))

    def on_this_node(self) -> tuple[Pod, ...]:
        """All that were scheduled here, ended ones and those on the host's network too."""
        with self._lock:
            return tuple(self._here.values())

    def all(self) -> tuple[Pod, ...]:
        """Every pod."""
        with self._lock:
            return tuple(self._pods.values())

    def get(self, uid: str) -> Pod | None:
        """The pod with the uid."""
        return self._pods.get(uid)

    def keep_for(self, kept_ns: int) -> None:
        """From now on addresses of former pods are remembered so long after they left."""
        with self._lock:
            self._kept_ns = kept_ns

    def forget_former(self) -> None:
        """Those that left longer ago than they are to be remembered."""
        with self._lock:
            self._tenures.forget(self._clock.mono_ns() - self._kept_ns)

    def held(self) -> Held:
        """Who has and had each address, and each port of a node's."""
        with self._lock:
            return self._tenures.held()

    def replace(self, objects: dict[str, Pod]) -> None:
        """These are all there are."""
        here = {uid: pod for uid, pod in objects.items() if pod.node == self._node}
        with self._lock:
            if self._current_mono_ns:
                self._listed_anew_mono_ns = self._clock.mono_ns()
            for uid, gone in self._pods.items():
                if uid not in objects:
                    self._moved(gone, None, self._current_mono_ns)
            # Where two have an address, the one that was started last has it.
            for pod in sorted(objects.values(), key=lambda each: each.started_unix_s):
                if (held := self._pods.get(pod.uid)) is not pod:
                    self._moved(held, pod)
            self._pods, self._here = objects, here
            self._current_mono_ns = self._clock.mono_ns()
            self.version += 1
            self.version_here += 1

    def put(self, uid: str, item: Pod) -> None:
        """New or changed."""
        with self._lock:
            held = self._pods.get(uid)
            self._current_mono_ns = self._clock.mono_ns()
            self._count(held, item)
            self._moved(held, item)
            self._pods[uid] = item
            if item.node == self._node:
                self._here[uid] = item

    def discard(self, uid: str) -> None:
        """Deleted."""
        with self._lock:
            self._current_mono_ns = self._clock.mono_ns()
            if (held := self._pods.pop(uid, None)) is not None:
                self._count(held, None)
                self._moved(held, None)
            self._here.pop(uid, None)

    def _count(self, held: Pod | None, item: Pod | None) -> None:
        if held is not None and item is not None and _told_by(held) == _told_by(item):
            return
        self.version += 1
        self.version_here += self._node in {each.node for each in (held, item) if each is not None}

    def _moved(self, held: Pod | None, item: Pod | None, unseen_since_mono_ns: int | None = None) -> None:
        """What a pod has is in its hands from now on, and what it has no more is not.

        `unseen_since_mono_ns`: it went while nobody looked, and others may have had what it had since then.
        """
        before, now = _possessions(held), _possessions(item)
        now_mono_ns = self._clock.mono_ns()
        for key in before:
            if held is not None and key not in now:
                self._tenures.leave(key, held.uid, now_mono_ns, over=item is not None)
                if unseen_since_mono_ns is not None:
                    self._tenures.end(key, held.uid, unseen_since_mono_ns - int(EARLIER_S * 1e9))
            elif item is not None:
                self._tenures.renew(key, item)
        if item is not None:
            self._received(held, item, [key for key in now if key not in before], now_mono_ns)
        if held is not None and (item is None or item.ended):
            self._arrived_mono_ns.pop(held.uid, None)

    def _received(self, held: Pod | None, item: Pod, new: list[bytes], now_mono_ns: int) -> None:
        if new:
            earliest_mono_ns = self._earliest_mono_ns(item, now_mono_ns)
            for key in new:
                self._hold(key, item, now_mono_ns, earliest_mono_ns)
        elif item.ended:
            self._ended_soon(held, item, now_mono_ns)
        elif item.node and not _had(item):
            self._arrived_mono_ns.setdefault(item.uid, now_mono_ns)

    def _hold(self, key: bytes, item: Pod, now_mono_ns: int, earliest_mono_ns: int) -> None:
        self._tenures.hold(key, item, now_mono_ns, earliest_mono_ns)
        self._tenures.begin(key, self._listed_anew_mono_ns)

    def _ended_soon(self, held: Pod | None, item: Pod, now_mono_ns: int) -> None:
        """A pod may be told of, or of its address, only when it is over: then it has had it until now.

        Whose the address was meanwhile can be known from now on only, if somebody was told to have it who came later.
        One that is over for long does not matter.
        """
        earliest_mono_ns = self._earliest_mono_ns(item, now_mono_ns)
        if (held is None and earliest_mono_ns < now_mono_ns - self._kept_ns) or (held is not None and held.ended):
            return
        before = () if held is None else _had(held)
        for key in _had(item):
            last = self._tenures.last(key)
            if key in before:
                continue
            if self._tenures.holder(key) is not None or (last and last.pod.started_unix_s > item.started_unix_s):
                self._tenures.doubt(key, earliest_mono_ns, now_mono_ns)
            else:
                self._hold(key, item, now_mono_ns, earliest_mono_ns)
                self._tenures.leave(key, item.uid, now_mono_ns, over=True)
                if last and not last.over:  # which may have got it after this one, and still have it
                    self._tenures.end(key, item.uid, now_mono_ns)

    def _earliest_mono_ns(self, pod: Pod, now_mono_ns: int) -> int:
        """Before that its node cannot have given it an address."""
        arrived_mono_ns = self._arrived_mono_ns.pop(pod.uid, now_mono_ns)
        age_ns = self._clock.unix_ns() - pod.started_unix_s * 1_000_000_000
        return max(0, min(arrived_mono_ns, now_mono_ns - age_ns) - int(EARLIER_S * 1e9))


def _told_by(pod: Pod) -> tuple[object, ...]:
    """What tells who it is, and which traffic is its own."""
    return pod.namespace, pod.labels, pod.node, reachable_at(pod)


def reachable_at(pod: Pod) -> tuple[bytes, ...]:
    """Addresses that are this pod's and nobody else's."""
    return () if pod.host_network or pod.ended else pod.addresses


def _possessions(pod: Pod | None) -> tuple[bytes, ...]:
    """What is nobody else's meanwhile: its addresses, and its ports at the node's."""
    return () if pod is None or pod.ended else _had(pod)


def _had(pod: Pod) -> tuple[bytes, ...]:
    """The same, though it may be over."""
    return pod.node_ports if pod.host_network else pod.addresses + pod.node_ports
