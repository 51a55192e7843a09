"""The pods of the cluster, found by address."""

from __future__ import annotations

import threading

from podwire_agent.kube.objects import Pod, address_bytes


class PodStore:
    """Written by one reflector, read from any thread."""

    def __init__(self, node: str) -> None:
        self.version = 0
        """Grows when a pod's namespace, labels or addresses are others, or a pod comes or goes."""
        self.version_here = 0
        """The same, of pods of this node."""
        self._node = node
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._by_address: dict[bytes, Pod] = {}
        self._here: dict[str, Pod] = {}

    def __len__(self) -> int:
        return len(self._pods)

    def by_address(self, address: bytes | str) -> Pod | None:
        """The pod that has the address (text, or 16 bytes with IPv4 mapped into IPv6) now.

        Pods on the host's network share the node's address and are never found. OSError if the text is no address.
        """
        return self._by_address.get(address if isinstance(address, bytes) else address_bytes(address))

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

    def replace(self, objects: dict[str, Pod]) -> None:
        """These are all there are."""
        by_address = {address: pod for pod in objects.values() for address in reachable_at(pod)}
        here = {uid: pod for uid, pod in objects.items() if pod.node == self._node}
        with self._lock:
            self._pods, self._by_address, self._here = objects, by_address, here
            self.version += 1
            self.version_here += 1

    def put(self, uid: str, item: Pod) -> None:
        """New or changed."""
        with self._lock:
            self._forget_addresses(uid)
            self._count(self._pods.get(uid), item)
            self._pods[uid] = item
            for address in reachable_at(item):
                self._by_address[address] = item
            if item.node == self._node:
                self._here[uid] = item

    def discard(self, uid: str) -> None:
        """Deleted."""
        with self._lock:
            self._forget_addresses(uid)
            if (held := self._pods.pop(uid, None)) is not None:
                self._count(held, None)
            self._here.pop(uid, None)

    def _count(self, held: Pod | None, item: Pod | None) -> None:
        if held is not None and item is not None and _told_by(held) == _told_by(item):
            return
        self.version += 1
        self.version_here += self._node in {each.node for each in (held, item) if each is not None}

    def _forget_addresses(self, uid: str) -> None:
        """Those that are still this pod's: a later pod may have been given one already."""
        held = self._pods.get(uid)
        for address in held.addresses if held is not None else ():
            owner = self._by_address.get(address)
            if owner is not None and owner.uid == uid:
                del self._by_address[address]


def _told_by(pod: Pod) -> tuple[object, ...]:
    """What tells who it is, and which traffic is its own."""
    return pod.namespace, pod.labels, pod.node, reachable_at(pod)


def reachable_at(pod: Pod) -> tuple[bytes, ...]:
    """Addresses that are this pod's and nobody else's."""
    return () if pod.host_network or pod.ended else pod.addresses
