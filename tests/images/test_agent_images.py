"""The agent's images as a node runs them: two capabilities, a read-only root, the node's network and bpffs."""

from __future__ import annotations

import json

from tests.images.container import BPFFS, RESOURCES, Container, Image, Node
from tests.kernel.netns import Host

ONLY_BPF_AND_NET_ADMIN = 1 << 39 | 1 << 12
LOADERS = {"agent": "libbpf", "agent-bcc": "bcc"}


def test_what_is_the_operators_is_not_in_it(image: Image) -> None:
    assert {"podwire_agent", "podwire_api", "urllib3"} <= image.packages()
    assert not image.packages() & {"podwire_operator", "kubernetes", "kopf", "aiohttp", "cryptography"}
    assert "podwire-operator" not in image.commands()


def test_only_the_image_with_bcc_has_llvm(image: Image, target: str) -> None:
    assert bool(list(image.root.glob("usr/lib/*/libLLVM*"))) == (target == "agent-bcc")


def test_doctor_finds_all_it_needs(image: Image, node: Node) -> None:
    with Container(image, node, "doctor", "--json", "--bpffs", BPFFS) as container:
        assert container.wait() == 0, container.stdout + container.stderr
        assert json.loads(container.stdout)["problems"] == []


def test_it_counts_what_two_pods_send_and_leaves_nothing(target: str, image: Image, node: Node, host: Host) -> None:
    pings, here = 5, host.pods[0]
    (node.resources / "shop.yaml").write_text(
        "apiVersion: podwire.dev/v1alpha1\n"
        "kind: NetworkMonitor\n"
        "metadata: {name: shop}\n"
        "spec: {pollingPeriod: 1s, sinks: [{name: lines, stdout: {}}]}\n"
    )
    arguments = ("run", "--file", f"{RESOURCES}/shop.yaml", "--bpffs", BPFFS, "--listen", "off")
    with Container(image, node, *arguments, "--duration", "3s") as container:
        container.wait_until_said(f"2 interfaces attached, loader {LOADERS[target]}")
        here.namespace.run("ping", "-q", "-c", f"{pings}", "-i", "0.1", host.pods[1].ipv4)
        status = container.status()
        root = container.mounts()["/"]
        assert container.wait() == 0, container.stderr
        lines = [json.loads(line) for line in container.stdout.splitlines()]
    assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd")} == {ONLY_BPF_AND_NET_ADMIN}
    assert root.split(",")[0] == "ro"
    sent = [
        line["packets"]
        for line in lines
        if line["type"] == "flow"
        and (line["interface"], line["direction"]) == (here.interface, "from_pod")
        and (line["src_address"], line["protocol"]) == (here.ipv4, "ICMP")
    ]
    assert sum(sent) == pings
    assert node.pins() == []
    for pod in host.pods:
        for hook in ("ingress", "egress"):
            assert host.namespace.run("tc", "filter", "show", "dev", pod.interface, hook) == ""


def test_sigterm_ends_it_in_order(image: Image, node: Node, host: Host) -> None:
    (node.resources / "shop.yaml").write_text(
        "{apiVersion: podwire.dev/v1alpha1, kind: NetworkMonitor, metadata: {name: shop},"
        " spec: {sinks: [{name: lines, stdout: {}}]}}"
    )
    with Container(image, node, "run", "--file", f"{RESOURCES}/shop.yaml", "--bpffs", BPFFS) as container:
        container.wait_until_said("ready:")
        container.signal("TERM")
        assert container.wait(10) == 0, container.stderr
        ledgers = [line for line in map(json.loads, container.stdout.splitlines()) if line["type"] == "ledger"]
    assert {line["interface"] for line in ledgers} == {pod.interface for pod in host.pods}
