"""The pods of the cluster, found by address."""

from __future__ import annotations

import threading

from podwire_agent.kube.objects import Pod, address_bytes


class PodStore:
    """Written by one reflector, read from any thread."""

    def __init__(self, node: str) -> None:
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

    def get(self, uid: str) -> Pod | None:
        """The pod with the uid."""
        return self._pods.get(uid)

    def replace(self, objects: dict[str, Pod]) -> None:
        """These are all there are."""
        by_address = {address: pod for pod in objects.values() for address in _reachable_at(pod)}
        here = {uid: pod for uid, pod in objects.items() if pod.node == self._node}
        with self._lock:
            self._pods, self._by_address, self._here = objects, by_address, here

    def put(self, uid: str, item: Pod) -> None:
        """New or changed."""
        with self._lock:
            self._forget_addresses(uid)
            self._pods[uid] = item
            for address in _reachable_at(item):
                self._by_address[address] = item
            if item.node == self._node:
                self._here[uid] = item

    def discard(self, uid: str) -> None:
        """Deleted."""
        with self._lock:
            self._forget_addresses(uid)
            self._pods.pop(uid, None)
            self._here.pop(uid, None)

    def _forget_addresses(self, uid: str) -> None:
        """Those that are still this pod's: a later pod may have been given one already."""
        held = self._pods.get(uid)
        for address in held.addresses if held is not None else ():
            owner = self._by_address.get(address)
            if owner is not None and owner.uid == uid:
                del self._by_address[address]


def _reachable_at(pod: Pod) -> tuple[bytes, ...]:
    return () if pod.host_network or pod.ended else pod.addresses
