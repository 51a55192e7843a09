"""Podwire on a Kubernetes cluster of two nodes on this machine: installed, a monitor, two pods that talk, the counts.

    make demo-cluster               as root; takes down what it brought up
    DEMO_KEEP=1 make demo-cluster   leaves all of it there, until make cluster-down

Exit code 1 where the agents of the two nodes do not both have what was sent.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

from tests.cluster.binaries import BinariesError, program
from tests.cluster.polling import eventually
from tools.cluster import ROOT, STATE, HolderEnded, down, up, up_already
from tools.images import image

SAMPLE = ROOT / "manifests" / "samples" / "lines.yaml"
MONITOR = "nmon/lines"
AGENTS = ("--namespace=podwire-system", "--selector=app.kubernetes.io/name=podwire-agent")
READY_S = 120
REPORT_S = 30
PORT = 5201
MEBIBYTES = 64
DATAGRAMS, DATAGRAM_BYTES = 1000, 100
HEADERS_BYTES = 14 + 20 + 8
"""Of Ethernet, IPv4 and UDP."""

SERVER = f"""
import socket, threading
def discard(server):
    while True:
        peer, _ = server.accept()
        with peer:
            while peer.recv(1 << 20):
                pass
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", {PORT}))
threading.Thread(target=discard, args=[socket.create_server(("0.0.0.0", {PORT}))]).start()
while True:
    datagrams.recv(2000)
"""
CLIENT = f"""
import socket, sys, time
with socket.create_connection((sys.argv[1], {PORT})) as connection:
    for _ in range({MEBIBYTES}):
        connection.sendall(bytes(1 << 20))
    print(connection.getsockname()[1])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
    datagrams.connect((sys.argv[1], {PORT}))
    for number in range({DATAGRAMS}):
        datagrams.send(bytes({DATAGRAM_BYTES}))
        if number % 100 == 99:
            time.sleep(0.01)
    print(datagrams.getsockname()[1])
"""


class Place(NamedTuple):
    """Where packets of one connection from the client to the server were seen."""

    protocol: str
    node: str
    interface: str
    direction: str


class Figures(NamedTuple):
    """What was seen there."""

    packets: int
    bytes: int


def main() -> int:
    """The exit code."""
    if os.geteuid():
        print("make demo-cluster makes namespaces, mounts and cgroups: run it as root", file=sys.stderr)
        return 1
    try:
        stays = up_already(STATE) is not None or bool(os.environ.get("DEMO_KEEP"))
        up(STATE)
        try:
            return demonstrate()
        finally:
            if not stays:
                print("\nThe cluster is taken down; DEMO_KEEP=1 leaves it there.", flush=True)
                down(STATE)
    except (BinariesError, HolderEnded, TimeoutError) as error:
        print(f"demo-cluster: {error}", file=sys.stderr)
    except subprocess.CalledProcessError as failed:
        print(f"demo-cluster: `{shlex.join(map(str, failed.cmd))}` failed: {failed.stderr or ''}", file=sys.stderr)
    return 1


def demonstrate() -> int:
    """Install, apply, talk, compare; the exit code."""
    show("apply", "--kustomize", str(ROOT / "manifests"))
    show("apply", "--filename", str(SAMPLE))
    show("wait", "--for=condition=Ready", MONITOR, f"--timeout={READY_S}s")
    pods = [pod("client", "node-1", "sleep", "infinity"), pod("server", "node-2", "python3", "-c", SERVER)]
    pods[1]["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
    kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    show("wait", "--for=condition=Ready", "pod/client", "pod/server", f"--timeout={READY_S}s")
    show("get", "pods", "--output=wide")
    server = kubectl("get", "pod", "server", "--output=jsonpath={.status.podIP}")
    print(f"\nThe client sends {MEBIBYTES} MiB by TCP and {DATAGRAMS} datagrams by UDP to {server}.", flush=True)
    tcp, udp = map(int, kubectl("exec", "client", "--", "python3", "-c", CLIENT, server).split())
    ports = {"TCP": tcp, "UDP": udp}
    with suppress(TimeoutError):  # the verdict says what is missing
        eventually(lambda: not complaints(seen(server, ports)), "both agents report all", REPORT_S, every_s=1)
    found = seen(server, ports)
    print(f"\n{'protocol':<9} {'node':<8} {'interface':<16} {'direction':<9}{'packets':>12}{'bytes':>15}")
    for place, figures in sorted(found.items()):
        where = f"{place.protocol:<9} {place.node:<8} {place.interface:<16} {place.direction:<9}"
        print(f"{where}{figures.packets:>12,}{figures.bytes:>15,}")
    with suppress(TimeoutError):  # what agents report of themselves comes every few seconds
        eventually(lambda: pods_watched() >= len(pods), "the monitor's status has both pods", REPORT_S, every_s=1)
    show("get", "networkmonitors,agentpools,agentnodes")
    wrong = complaints(found)
    print("\n" + ("\n".join(wrong) or "Both nodes have every packet that was sent."))
    return 1 if wrong else 0


def seen(server: str, ports: dict[str, int]) -> dict[Place, Figures]:
    """The sums of the agents' lines about the two connections, from the client to the server."""
    sums: dict[Place, Counter[str]] = {}
    for text in kubectl("logs", *AGENTS, "--tail=-1").splitlines():
        if not text.startswith('{"type":"flow"'):
            continue
        line: dict[str, Any] = json.loads(text)
        if line["dst_address"] == server and line["src_port"] == ports.get(line["protocol"]):
            place = Place(line["protocol"], line["node"], line["interface"], line["direction"])
            sums.setdefault(place, Counter()).update(packets=line["packets"], bytes=line["bytes"])
    return {place: Figures(each["packets"], each["bytes"]) for place, each in sums.items()}


def pods_watched() -> int:
    """Pods that the monitor's status says it counts for."""
    return int(kubectl("get", MONITOR, "--output=jsonpath={.status.pods}") or 0)


def complaints(found: dict[Place, Figures]) -> list[str]:
    """Where the two nodes differ from each other, or from what was sent."""
    wrong = []
    for protocol in ("TCP", "UDP"):
        sides = [figures for place, figures in found.items() if place.protocol == protocol]
        if len(sides) != 2 or sides[0] != sides[1]:
            wrong.append(f"{protocol}: the two nodes do not have the same")
    sent = Figures(DATAGRAMS, DATAGRAMS * (DATAGRAM_BYTES + HEADERS_BYTES))
    if any(figures != sent for place, figures in found.items() if place.protocol == "UDP"):
        wrong.append(f"UDP: {sent.packets} packets with {sent.bytes} bytes were sent")
    if any(figures.bytes < MEBIBYTES << 20 for place, figures in found.items() if place.protocol == "TCP"):
        wrong.append(f"TCP: at least {MEBIBYTES << 20} bytes were sent")
    return wrong


def pod(name: str, node: str, *command: str) -> dict[str, Any]:
    """One on a node; the agent's image has Python."""
    container = {"name": "main", "image": image("agent"), "command": [*command]}
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def show(*argv: str) -> None:
    """Run kubectl before the reader's eyes."""
    print(f"\n$ kubectl {shlex.join(argv)}\n{kubectl(*argv)}", end="", flush=True)


def kubectl(*argv: str, stdin: str | None = None) -> str:
    """What it prints. CalledProcessError."""
    command = [program("kubectl"), f"--kubeconfig={STATE}/kubeconfig", *argv]
    return subprocess.run(command, check=True, input=stdin, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
