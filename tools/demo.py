"""Two pods in network namespaces, their real traffic, and the real agent watching it from a NetworkMonitor file.

As root: make demo. On a terminal it runs until Ctrl-C, else for 15 seconds; DEMO_SECONDS=10 says how long.
Ends with the agent's account of every interface beside the interface's own counter, read without the agent;
exit code 1 where the two disagree.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "manifests" / "samples" / "demo.yaml"
AGENT = Path(sys.executable).with_name("podwire-agent")
TRAFFIC = Path(__file__).with_name("demo_traffic.py")

CHECK = {
    "apiVersion": "podwire.dev/v1alpha1",
    "kind": "NetworkMonitor",
    "metadata": {"name": "check"},
    "spec": {"pollingPeriod": "1s", "sinks": [{"name": "lines", "stdout": {}}]},
}
"""A second monitor beside the sample's: the same packets as JSON lines, from which we judge."""

NETNS = Path("/run/netns")
OURS = re.compile(r"pw(\d+)-(?:node|client|server)")
NODE, CLIENT, SERVER = (f"pw{os.getpid()}-{role}" for role in ("node", "client", "server"))
ADDRESSES = {CLIENT: ("10.90.0.1", "fd00:90::1"), SERVER: ("10.90.0.2", "fd00:90::2")}
VETHS = {CLIENT: "veth-client", SERVER: "veth-server"}
PREFIX = ("setpriv", "--pdeathsig", "TERM", "nsenter")
NO_TERMINAL_S = 15.0
START_S = 20.0
END_S = 20.0
QUIET_S = 0.5

Key = tuple[str, str]
"""Interface and direction ("from_pod", "to_pod")."""

Figures = tuple[int, int]
"""Packets as the interface counts them (buffers, to us), and their bytes."""

COUNTERS = {"from_pod": "rx", "to_pod": "tx"}
"""The direction's counter at the host end of a pod's veth."""


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


class Lines:
    """The second monitor's JSON lines as they come through a pipe: the sums of the flows, and the last ledgers."""

    def __init__(self) -> None:
        self.counted: defaultdict[Key, Counter[str]] = defaultdict(Counter)
        self.ledgers: dict[Key, dict[str, Any]] = {}
        self.first_report = threading.Event()

    def collect(self, descriptor: int) -> None:
        """Until the agent has closed the other end."""
        with os.fdopen(descriptor) as stream:
            for text in stream:
                line = json.loads(text)
                key = (line["interface"], line["direction"])
                if line["type"] == "flow":
                    self.counted[key]["packets"] += line["packets"]
                    self.counted[key]["bytes"] += line["bytes"]
                else:
                    self.ledgers[key] = line
                    if len(self.ledgers) == len(VETHS) * len(COUNTERS):
                        self.first_report.set()


def main() -> int:
    """The exit code."""
    if os.geteuid():
        print("make demo makes network namespaces and loads a kernel program: run it as root", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    wanted = os.environ.get("DEMO_SECONDS", "")
    seconds = float(wanted) if wanted else None if sys.stdout.isatty() else NO_TERMINAL_S
    try:
        return run(stop, seconds)
    except (DemoFailed, subprocess.CalledProcessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def run(stop: threading.Event, seconds: float | None) -> int:
    """Everything between set-up and clean-up; the exit code."""
    remove_leftovers()
    with ExitStack() as stack:
        for name in (NODE, CLIENT, SERVER):
            stack.enter_context(namespace(name))
        connect()
        wait_until_quiet(stop)
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="podwire-demo-"))
        lines = Lines()
        ours, agents = os.pipe()
        collector = threading.Thread(target=lines.collect, args=(ours,))
        check = Path(state, "check.yaml")
        check.write_text(json.dumps(CHECK))  # JSON is YAML
        argv: list[str | Path] = [AGENT, "run", "--file", SAMPLE, "--file", check, "--state-dir", state]
        argv += ["--node", "demo-node", "--log-level", "warning"]
        # The second monitor has the standard output, so the table for people goes to standard error: our terminal.
        agent = stack.enter_context(process(NODE, argv, stdout=agents, stderr=sys.stdout.fileno()))
        os.close(agents)
        collector.start()
        stack.callback(collector.join)
        stack.callback(end, agent)
        if not eventually(lambda: lines.first_report.is_set() or agent.poll() is not None or stop.is_set(), START_S):
            raise DemoFailed(f"the agent reported nothing within {START_S:g} s")
        still_running(agent)
        with traffic() as talkers:
            deadline = time.monotonic() + seconds if seconds is not None else float("inf")
            while time.monotonic() < deadline and not stop.wait(0.1):
                still_running(agent, *talkers)
        wait_until_quiet(threading.Event())
        before = counters()
        end(agent)
        after = counters()
        collector.join()
        if agent.returncode:
            raise DemoFailed(f"the agent ended with exit code {agent.returncode}")
        return verdict(lines, before, after)


def remove_leftovers() -> None:
    """Namespaces of demos that were killed before they could clean up."""
    for path in NETNS.glob("pw*"):
        if (ours := OURS.fullmatch(path.name)) and not Path("/proc", ours[1]).exists():
            command("ip", "netns", "del", path.name)


@contextmanager
def namespace(name: str) -> Iterator[None]:
    """A network namespace with its loopback up."""
    command("ip", "netns", "add", name)
    try:
        command("ip", "-n", name, "link", "set", "lo", "up")
        no_routers = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra"  # there is none to be asked for
        command("nsenter", f"--net={NETNS}/{name}", "sh", "-c", no_routers)
        yield
    finally:
        command("ip", "netns", "del", name)


def connect() -> None:
    """A bridge in the node, a veth from it into each pod, an address of each family on all of them."""
    batch(NODE, "link add br0 type bridge mcast_snooping 0", "link set br0 up")
    batch(NODE, "addr add 10.90.0.254/24 dev br0", "addr add fd00:90::fe/64 dev br0 nodad")
    for pod, (ipv4, ipv6) in ADDRESSES.items():
        batch(NODE, f"link add {VETHS[pod]} type veth peer name eth0 netns {pod}")
        batch(pod, "link set eth0 up", f"addr add {ipv4}/24 dev eth0", f"addr add {ipv6}/64 dev eth0 nodad")
        batch(NODE, f"link set {VETHS[pod]} master br0 up")


@contextmanager
def traffic() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Running until the end of the block; all of it has ended then."""
    ipv4, ipv6 = ADDRESSES[SERVER]
    with ExitStack() as stack:
        server = stack.enter_context(process(SERVER, [sys.executable, TRAFFIC, "serve"]))
        if not eventually(lambda: listening() or server.poll() is not None, START_S):
            raise DemoFailed("the server pod opened no services in time")
        still_running(server)
        commands: list[list[str | Path]] = [
            [sys.executable, TRAFFIC, "talk", ipv4, ipv6],
            ["ping", "-q", "-i", "0.2", ipv4],
            ["ping", "-q", "-i", "0.2", ipv6],
        ]
        yield [server] + [stack.enter_context(process(CLIENT, argv, stdout=subprocess.DEVNULL)) for argv in commands]


def listening() -> bool:
    """Whether the server pod has all its TCP services."""
    found = command("nsenter", f"--net={NETNS}/{SERVER}", "cat", "/proc/net/tcp", "/proc/net/tcp6")
    return found.count(" 0A ") == 4  # TCP_LISTEN, two services of two families


@contextmanager
def process(
    netns: str, argv: Sequence[str | Path], *, stdout: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program inside a namespace, ended with the block, and with this process however that ends.

    In a session of its own: Ctrl-C reaches the demo alone, which ends its programs in the right order.
    """
    started = subprocess.Popen(
        [*PREFIX, f"--net={NETNS}/{netns}", *argv], stdout=stdout, stderr=stderr, start_new_session=True
    )
    try:
        yield started
    finally:
        end(started)


def still_running(*processes: subprocess.Popen[bytes]) -> None:
    """DemoFailed where one has ended; it has said why on standard error."""
    for each in processes:
        if each.poll() is not None:
            program = shlex.join(map(str, cast("list[str | Path]", each.args)[len(PREFIX) + 1 :]))
            raise DemoFailed(f"{program} ended by itself with exit code {each.returncode}")


def end(running: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL where that is not heard; returns once it is gone."""
    running.terminate()
    try:
        running.wait(END_S)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()


def counters() -> dict[Key, Figures]:
    """What ip says of the host ends of the veths."""
    links = json.loads(command("ip", "-n", NODE, "-json", "-statistics", "link"))
    of_link = {link["ifname"]: link["stats64"] for link in links}
    return {
        (veth, direction): (of_link[veth][side]["packets"], of_link[veth][side]["bytes"])
        for veth in VETHS.values()
        for direction, side in COUNTERS.items()
    }


def verdict(lines: Lines, before: dict[Key, Figures], after: dict[Key, Figures]) -> int:
    """Print the agent's figures beside the kernel's; 1 where they disagree.

    `before` and `after` enclose the agent's last look: where nothing moved in between they are equal.
    """
    complaints: list[str] = []
    print("\nThe interfaces' own counters, read by ip, beside the agent's account\n")
    print(f"{'interface':<12} {'direction':<9} {'':<17}{'buffers':>15}{'bytes':>20}")
    for key in sorted(before):
        ledger = lines.ledgers.get(key, {})
        if not ledger.get("final"):
            complaints.append(f"{key[0]} {key[1]}: no last account from the agent")
            continue
        low, high = (buffers(ledger["before_attach"][bound]) for bound in ("low", "high"))
        seen = (ledger["seen"]["buffers"], ledger["seen"]["buffer_bytes"])
        print(row(*key, "before attach", low))
        print(row("", "", "seen", seen))
        print(row("", "", "ip says", after[key]))
        least, most = add(low, seen), add(high, seen)
        if any(least[unit] > after[key][unit] or before[key][unit] > most[unit] for unit in (0, 1)):
            complaints.append(f"{key[0]} {key[1]}: before attach + seen is not what ip says")
        complaints += (f"{key[0]} {key[1]}: {what}" for what in unbalanced(ledger, lines.counted[key]))
    print("\n" + ("\n".join(complaints) or "All agree: every packet is accounted, every flow was reported."))
    return 1 if complaints else 0


def unbalanced(ledger: dict[str, Any], reported: Counter[str]) -> Iterator[str]:
    """What does not add up within the agent's own figures."""
    for unit in ("packets", "bytes"):
        classes = sum(ledger[name][unit] for name in ("counted", "filtered", "unsupported", "overflowed"))
        if classes != ledger["seen"][unit]:
            yield f"{ledger['seen'][unit] - classes} {unit} are unaccounted"
        if reported[unit] != ledger["counted"][unit]:
            yield f"the reported flows have {reported[unit]} {unit}, the account {ledger['counted'][unit]}"


def buffers(cell: dict[str, int]) -> Figures:
    """Of a ledger line's cell."""
    return cell["buffers"], cell["bytes"]


def add(one: Figures, other: Figures) -> Figures:
    """Both, unit by unit."""
    return one[0] + other[0], one[1] + other[1]


def row(interface: str, direction: str, what: str, figures: Figures) -> str:
    """A line of the last table."""
    return f"{interface:<12} {direction:<9} {what:<17}{figures[0]:>15,}{figures[1]:>20,}"


def wait_until_quiet(stop: threading.Event) -> None:
    """Until no interface has moved for QUIET_S: neighbour discovery and multicast reports are over."""
    last, since = counters(), time.monotonic()
    deadline = since + START_S
    while time.monotonic() < min(since + QUIET_S, deadline) and not stop.wait(0.05):
        if (now := counters()) != last:
            last, since = now, time.monotonic()


def eventually(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether `condition` became true in time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.05)
    return True


def batch(netns: str, *lines: str) -> None:
    """Commands of `ip` inside a namespace."""
    command("ip", "-n", netns, "-batch", "-", stdin="\n".join(lines))


def command(*argv: str, stdin: str | None = None) -> str:
    """Run to its end; DemoFailed with what it said where it fails."""
    done = subprocess.run(argv, check=False, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise DemoFailed(f"{' '.join(argv)} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
