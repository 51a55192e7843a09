"""The cluster of the tests itself: it works, it breaks as told, and nothing of it stays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire_agent.errors import ClusterError
from tests.cluster.binaries import BinariesError, programs, why_not
from tests.cluster.cluster import NODE_GRACE_S, Cluster, KubectlError
from tests.cluster.janitor import hierarchies
from tests.cluster.node import OWN_SYSCTLS
from tests.cluster.polling import eventually
from tests.cluster.workplace import PLACE, remove_leftovers
from tools.images import image

ROOT = Path(__file__).parents[2]
SERVE = """
import socket, threading
def serve(server):
    while True:
        peer, _ = server.accept()
        with peer:
            peer.sendall(peer.recv(100).upper())
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(("::", 7))
tcp = socket.create_server(("::", 7), family=socket.AF_INET6, dualstack_ipv6=True)
threading.Thread(target=serve, args=[tcp]).start()
while True:
    data, peer = udp.recvfrom(100)
    udp.sendto(data.upper(), peer)
"""
ASK = """
import socket, sys
for host in sys.argv[1:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        family, *_, address = socket.getaddrinfo(host, 7, type=kind)[0]
        with socket.socket(family, kind) as asked:
            asked.settimeout(3)
            asked.connect(address)
            asked.send(b"hello")
            print(asked.recv(100).decode())
"""


@pytest.fixture(scope="module")
def addresses(cluster: Cluster) -> Iterator[list[str]]:
    """Those of pod "server" on node-2, and of its Service; pod "client" runs on node-1."""
    agent = image("agent")
    cluster.run_pod("client", "node-1", "sleep", "infinity", image=agent)
    server = cluster.run_pod("server", "node-2", "python3", "-c", SERVE, image=agent)
    ports = [{"name": protocol.lower(), "port": 7, "protocol": protocol} for protocol in ("TCP", "UDP")]
    spec = {"selector": {"app": "server"}, "ports": ports, "ipFamilyPolicy": "RequireDualStack"}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"}, "spec": spec})
    service = cluster.get("service", "server")["spec"]["clusterIPs"]
    yield [each["ip"] for each in server["status"]["podIPs"]] + service
    cluster.delete("service/server", "pod/server", "pod/client")


def answered(cluster: Cluster, addresses: list[str]) -> bool:
    """Whether the server answers by TCP and UDP at every address."""
    return cluster.exec("client", "python3", "-c", ASK, *addresses).split() == ["HELLO"] * len(addresses) * 2


def test_two_nodes_are_ready_and_have_what_only_they_see(cluster: Cluster) -> None:
    assert [node.ready for node in cluster.nodes] == [True, True]
    for node in cluster.nodes:
        assert node.pins() == []
        node.exec("mkdir", "-p", f"/sys/fs/bpf/{node.name}", f"/run/{node.name}")
    assert [node.pins() for node in cluster.nodes] == [["/sys/fs/bpf/node-1"], ["/sys/fs/bpf/node-2"]]
    for node in cluster.nodes:
        other = {"node-1": "node-2", "node-2": "node-1"}[node.name]
        assert other not in node.exec("ls", "/run")
        node.exec("rmdir", f"/sys/fs/bpf/{node.name}", f"/run/{node.name}")
    assert not Path("/run/node-1").exists()


def test_pods_on_two_nodes_talk_over_both_families_and_through_a_service(
    cluster: Cluster, addresses: list[str]
) -> None:
    eventually(lambda: answered(cluster, addresses), "every address answers", passing=(KubectlError,))


def test_the_audit_log_says_who_asked_for_what(cluster: Cluster) -> None:
    token = cluster.api.token("curious")
    with pytest.raises(ClusterError, match="403"):
        cluster.connection(token).request("GET", "/api/v1/nodes")
    asked = [each for each in cluster.audit() if each.user == "system:serviceaccount:default:curious"]
    assert [(each.verb, each.resource, each.code) for each in asked] == [("list", "nodes", 403)]
    assert not any(each.user.startswith("system:kube-") for each in cluster.audit())


def test_the_api_server_and_etcd_come_back_and_pods_go_on_meanwhile(cluster: Cluster, addresses: list[str]) -> None:
    server, *_ = addresses
    client = cluster.get("pod", "client")["metadata"]["uid"]
    pid = cluster.node(1).exec("pgrep", "--full", "^sleep infinity$").split()[-1]
    cluster.api.server.kill()
    cluster.api.etcd.kill()
    assert not cluster.api.answers("/readyz")
    ask = ["nsenter", f"--target={pid}", "--net", "python3", "-c", ASK, server]
    assert cluster.node(1).exec(*ask).split() == ["HELLO", "HELLO"]
    cluster.settle()
    assert cluster.get("pod", "client")["metadata"]["uid"] == client
    eventually(lambda: answered(cluster, addresses), "every address answers", passing=(KubectlError,))


def test_an_unplugged_node_goes_on_alone(cluster: Cluster, addresses: list[str]) -> None:
    node = cluster.node("node-2")
    node.unplug()
    with pytest.raises(KubectlError):
        cluster.exec("client", "python3", "-c", ASK, addresses[0])
    assert node.exec("python3", "-c", ASK, addresses[0]).split() == ["HELLO", "HELLO"]
    node.plug()
    eventually(lambda: answered(cluster, addresses), "every address answers", passing=(KubectlError,))


@pytest.mark.usefixtures("addresses")
def test_a_dead_node_is_seen_as_dead_and_runs_its_pods_again_when_it_is_back(cluster: Cluster) -> None:
    node = cluster.node("node-2")
    node.kill()
    eventually(lambda: not node.ready, "node-2 is not Ready", NODE_GRACE_S + 10)
    node.revive()
    server = eventually(lambda: _running(cluster, "server"), "the server runs again", 60)
    eventually(lambda: answered(cluster, server), "it answers", passing=(KubectlError,))


def test_nothing_is_left_of_a_cluster_whose_process_is_killed(tmp_path: Path) -> None:
    settings = {key: Path("/proc/sys", key).read_text() for key in (*OWN_SYSCTLS, "net/ipv4/ip_forward")}
    command = [sys.executable, "-m", "tools.cluster", "hold", "--state", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as held:
        try:
            state = tmp_path / "state.json"
            eventually(lambda: state.exists() or held.poll() is not None, "the cluster is up", 120)
            said = json.loads(state.read_text())
            assert len(of_cluster(said["name"], said["namespaces"])) > 10
        finally:
            held.kill()
    assert held.returncode == -signal.SIGKILL
    eventually(lambda: not of_cluster(said["name"], said["namespaces"]), "its processes have ended", 30)
    eventually(lambda: not Path("/sys/class/net", said["interface"]).exists(), "its link is gone", 30)
    eventually(lambda: not (PLACE / said["name"]).exists(), "its directory is gone", 60)
    assert [path for path in hierarchies() if (path / said["name"]).exists()] == []
    assert said["name"] not in Path("/proc/self/mounts").read_text()
    assert {key: Path("/proc/sys", key).read_text() for key in settings} == settings


def test_what_a_killed_janitor_has_left_is_removed_before_the_next_cluster() -> None:
    code = (
        "import os, signal; from tests.cluster.workplace import Workplace\n"
        "with Workplace() as made:\n"
        "    made.cgroup('node-1'); print(made.name, flush=True)\n"
        "    made._janitor.kill(); made._janitor.wait(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    name = done.stdout.strip()
    assert (PLACE / name / "lock").exists()
    remove_leftovers()
    assert not (PLACE / name).exists()
    assert [path for path in hierarchies() if (path / name).exists()] == []


def test_ready_programs_have_to_be_all_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PODWIRE_KUBERNETES", raising=False)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / name).touch(mode=0o755)
    lacks = "kube-controller-manager, kube-scheduler, kube-proxy, kubelet"
    assert why_not() == f"KUBEBUILDER_ASSETS={tmp_path} has no {lacks}"
    with pytest.raises(BinariesError, match=f"has no {lacks}; the cluster tests need"):
        programs.__wrapped__()


def of_cluster(name: str, namespaces: list[str]) -> list[str]:
    """PIDs of what runs in a cluster's network namespaces, or for it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = str((process / "ns" / "net").readlink()) in namespaces
            if inside or name.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue  # it has ended
    return found


def _running(cluster: Cluster, name: str) -> list[str]:
    """The addresses of a pod that runs and is Ready; none where it does not."""
    status = cluster.get("pod", name)["status"]
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status["conditions"])
    restarted = any(each["restartCount"] for each in status["containerStatuses"])
    return [each["ip"] for each in status["podIPs"]] if ready and restarted else []
