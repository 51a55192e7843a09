"""Network namespaces for the kernel tests: a host with a bridge, and pods behind veths.

Everything is named after this process, so that two runs do not meet and leftovers of dead ones can be told.
The links are silent when nobody sends: static neighbours and bridge entries, no DAD, no router
solicitations, multicast reports over within milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

NETNS_DIRECTORY = Path("/run/netns")
CLONE_NEWNET = 0x40000000
OURS = re.compile(r"pw(\d+)-")

_libc = ctypes.CDLL(None, use_errno=True)
_serial = count()


def eventually(condition: Callable[[], T], what: str, timeout_s: float = 5.0) -> T:
    """Ask `condition` until it answers something true, which is returned; TimeoutError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        pause.wait(0.005)
    return answer


def remove_leftovers() -> None:
    """Delete the namespaces of test processes that are no more."""
    for namespace in NETNS_DIRECTORY.iterdir() if NETNS_DIRECTORY.is_dir() else []:
        if (ours := OURS.match(namespace.name)) and not Path("/proc", ours[1]).exists():
            subprocess.run(["ip", "netns", "del", namespace.name], check=False)


def ip(*lines: str, netns: str | None = None) -> None:
    """Run `lines` of iproute2 commands (without the leading "ip") in one process."""
    where = ["-n", netns] if netns else []
    command = ["ip", *where, "-batch", "-"]
    done = subprocess.run(command, check=False, input="\n".join(lines), capture_output=True, text=True)
    if done.returncode:
        failed = re.search(r"failed -:(\d+)", done.stderr)
        raise RuntimeError(f"ip {' '.join(where)} {lines[int(failed[1]) - 1 if failed else 0]}: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """An interface's own counters, read without the code under test."""

    rx_bytes: int
    rx_packets: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_dropped: int

    def __sub__(self, other: LinkCounters) -> LinkCounters:
        return LinkCounters(
            self.rx_bytes - other.rx_bytes,
            self.rx_packets - other.rx_packets,
            self.rx_dropped - other.rx_dropped,
            self.tx_bytes - other.tx_bytes,
            self.tx_packets - other.tx_packets,
            self.tx_dropped - other.tx_dropped,
        )


class Namespace:
    """A named network namespace, made on entry and deleted on exit."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = NETNS_DIRECTORY / name

    def __enter__(self) -> Self:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.sysctl(
            {
                "ipv6/conf/default/accept_dad": 0,
                "ipv6/conf/default/accept_ra": 0,
                "ipv6/conf/default/addr_gen_mode": 1,
                "ipv6/conf/default/autoconf": 0,
                "ipv6/conf/default/router_solicitations": 0,
                "ipv6/conf/default/mldv1_unsolicited_report_interval": 1,
                "ipv6/conf/default/mldv2_unsolicited_report_interval": 1,
            }
        )
        ip("link set lo up", netns=self.name)
        return self

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside; it comes back at the end."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this namespace, usable from anywhere."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def start(self, function: Callable[[], T]) -> Future[T]:
        """Run `function` inside, in a thread of its own."""
        future: Future[T] = Future()

        def body() -> None:
            try:
                with self.entered():
                    future.set_result(function())
            except BaseException as error:  # noqa: BLE001 (whoever asks for the result gets it)
                future.set_exception(error)

        threading.Thread(target=body, name=f"in {self.name}", daemon=True).start()
        return future

    def command(self, *argv: str) -> list[str]:
        """`argv` as run inside; bpffs stays in sight, unlike with `ip netns exec`."""
        return ["nsenter", f"--net={self.path}", *argv]

    def run(self, *argv: str) -> str:
        """Run a command inside to its end and return its output; RuntimeError where it fails."""
        done = subprocess.run(self.command(*argv), check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)} in {self.name}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def sysctl(self, values: dict[str, int]) -> None:
        """Set values below /proc/sys/net, e.g. {"ipv4/ip_forward": 1}."""
        with self.entered():
            for key, value in values.items():
                Path("/proc/sys/net", key).write_text(f"{value}")

    def counters(self, interface: str) -> LinkCounters:
        """The counters of an interface inside; KeyError where there is none."""
        with self.entered():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
        fields = {name.strip(): numbers.split() for name, numbers in (line.split(":", 1) for line in lines)}[interface]
        return LinkCounters(*(int(fields[column]) for column in (0, 1, 3, 8, 9, 11)))

    def interfaces(self) -> dict[str, int]:
        """Name -> ifindex of every interface inside."""
        with self.entered():
            return {name: index for index, name in socket.if_nameindex()}

    def index(self, interface: str) -> int:
        """The ifindex of an interface inside; OSError where there is none."""
        with self.entered():
            return socket.if_nametoindex(interface)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


@dataclass(frozen=True, slots=True)
class Pod:
    """A namespace behind a veth; its own end is eth0."""

    number: int
    namespace: Namespace
    interface: str
    """The host end of its veth."""

    @property
    def ipv4(self) -> str:
        return f"10.80.0.{self.number}"

    @property
    def ipv6(self) -> str:
        return f"fd00:80::{self.number:x}"

    @property
    def mac(self) -> str:
        return mac_of(self.number)


HOST_NUMBER = 254


def mac_of(number: int) -> str:
    """The MAC of pod `number`, or of the host's bridge."""
    return f"02:00:0a:50:00:{number:02x}"


class Host:
    """A node in small: a namespace with bridge br0 (10.80.0.254, fd00:80::fe) and pods 1..n behind veth1..n."""

    ipv4 = f"10.80.0.{HOST_NUMBER}"
    ipv6 = f"fd00:80::{HOST_NUMBER:x}"
    mac = mac_of(HOST_NUMBER)

    def __init__(self, pods: int = 2) -> None:
        self.namespace = Namespace(f"pw{os.getpid()}-{next(_serial)}")
        self.pods: list[Pod] = []
        self._wanted = pods

    def __enter__(self) -> Self:
        self.namespace.__enter__()
        try:
            ip(
                f"link add br0 address {self.mac} type bridge mcast_snooping 0",
                "link set br0 up",
                f"addr add {self.ipv4}/24 dev br0",
                f"addr add {self.ipv6}/64 dev br0 nodad",
                netns=self.namespace.name,
            )
            for _ in range(self._wanted):
                self.add_pod()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        for pod in self.pods:
            pod.namespace.__exit__()
        self.pods.clear()
        self.namespace.__exit__()

    def add_pod(self, number: int | None = None, interface: str | None = None) -> Pod:
        """A new pod, 1 <= `number` < 254 (the next free one by default), host end `interface` or veth<number>."""
        if number is None:
            number = next(free for free in count(1) if all(pod.number != free for pod in self.pods))
        pod = Pod(number, Namespace(f"{self.namespace.name}p{number}"), interface or f"veth{number}")
        pod.namespace.__enter__()
        self.pods.append(pod)
        host, inside = self.namespace.name, pod.namespace.name
        ip(f"link add {pod.interface} type veth peer name eth0 address {pod.mac} netns {inside}", netns=host)
        self.namespace.sysctl({f"ipv6/conf/{pod.interface}/disable_ipv6": 1})
        neighbours = [(other.number, inside, "eth0") for other in self.pods if other is not pod]
        ip(
            "link set eth0 up",
            f"addr add {pod.ipv4}/24 dev eth0",
            f"addr add {pod.ipv6}/64 dev eth0 nodad",
            f"route add default via {self.ipv4}",
            f"route add default via {self.ipv6}",
            *_neighbours(HOST_NUMBER, "eth0"),
            *(line for other, _, device in neighbours for line in _neighbours(other, device)),
            netns=inside,
        )
        ip(f"link set {pod.interface} master br0 up", *_neighbours(number, "br0"), netns=host)
        self.namespace.run("bridge", "fdb", "replace", pod.mac, "dev", pod.interface, "master", "static")
        for other_pod in self.pods:
            if other_pod is not pod:
                ip(*_neighbours(number, "eth0"), netns=other_pod.namespace.name)
        return pod

    def remove_pod(self, pod: Pod) -> None:
        """The veth is gone on return, the namespace with it."""
        ip(f"link del {pod.interface}", netns=self.namespace.name)
        pod.namespace.__exit__()
        self.pods.remove(pod)

    def settle(self, timeout_s: float = 3.0) -> None:
        """Wait until no host end has moved for 100 ms."""
        last = self._all_counters()
        since = time.monotonic()

        def quiet() -> bool:
            nonlocal last, since
            now = self._all_counters()
            if now != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since > 0.1

        eventually(quiet, "the links are quiet", timeout_s)

    def _all_counters(self) -> list[LinkCounters]:
        return [self.namespace.counters(pod.interface) for pod in self.pods]


def _neighbours(number: int, device: str) -> list[str]:
    return [
        f"neigh replace {address} lladdr {mac_of(number)} dev {device} nud permanent"
        for address in (f"10.80.0.{number}", f"fd00:80::{number:x}")
    ]
