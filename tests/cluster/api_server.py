"""An API server and its etcd on a machine of their own, to be killed and revived."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3

from podwire_agent.errors import ClusterError
from podwire_agent.kube.connection import Connection
from podwire_agent.kube.credentials import Credentials
from tests.cluster.addresses import SERVICE_OF_API, SERVICES, free_uplink
from tests.cluster.audit import POLICY, Request, requests
from tests.cluster.binaries import program
from tests.cluster.certificates import Authority
from tests.cluster.machine import Machine

READY_S = 60.0
PORT = 6443
GROUP = "podwire.dev"
KINDS = {"networkmonitors": "NetworkMonitor", "agentpools": "AgentPool", "agentnodes": "AgentNode"}
MERGE = "application/merge-patch+json"

ALONE = ("--disable-admission-plugins=ServiceAccount", "--etcd-compaction-interval=0")
"""Where no controllers run: pods need no service account, and versions stay until `compact`."""


class ApiServer:
    """Context manager. The objects are made by an administrator; tokens are those of service accounts."""

    def __init__(
        self, directory: Path, logs: Path | None = None, address: str = "", options: Sequence[str] = ALONE
    ) -> None:
        """`address`: where the cluster's nodes find it, by default where this host does."""
        self.directory = directory
        self.audit_log = (logs or directory) / "audit.log"
        self.uplink = free_uplink()
        self.host = self.uplink.there
        self.address = address or self.host
        self.machine = Machine("control-plane", logs or directory)
        self.authority = Authority(directory)
        self.etcd = self.machine.program(
            "etcd",
            shutil.which("etcd") or "etcd",
            f"--data-dir={directory}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:2379,http://{self.host}:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
        )
        self.server = self.machine.program(
            "kube-apiserver",
            program("kube-apiserver"),
            "--bind-address=0.0.0.0",
            f"--advertise-address={self.address}",
            f"--secure-port={PORT}",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--client-ca-file={self.authority.certificate}",
            f"--tls-cert-file={directory}/server.crt",
            f"--tls-private-key-file={directory}/server.key",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            f"--kubelet-client-certificate={directory}/server.crt",
            f"--kubelet-client-key={directory}/server.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={directory}/accounts.key",
            f"--service-account-signing-key-file={directory}/accounts.key",
            f"--service-cluster-ip-range={','.join(SERVICES)}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--audit-policy-file={directory}/audit-policy.json",
            f"--audit-log-path={self.audit_log}",
            "--profiling=false",
            *options,
        )
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """As this host reaches it."""
        return f"https://{self.host}:{PORT}"

    @property
    def inner_url(self) -> str:
        """As the cluster's machines reach it."""
        return f"https://{self.address}:{PORT}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.prepare(stack)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def prepare(self, stack: ExitStack) -> None:
        """The machine, its link and certificates, and etcd on its way; `stack` ends them."""
        stack.enter_context(self.machine)
        link = self.uplink
        peer = ["peer", "name", "uplink", "netns", str(self.machine.pid)]
        _run("ip", "link", "add", link.interface, "type", "veth", *peer)
        stack.callback(subprocess.run, ["ip", "link", "del", link.interface], check=False, capture_output=True)
        _run("ip", "address", "add", f"{link.here}/{link.bits}", "dev", link.interface)
        _run("ip", "link", "set", link.interface, "up")
        self.machine.ip(f"address add {link.there}/{link.bits} dev uplink", "link set uplink up")
        names = [f"kubernetes{rest}" for rest in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
        hosts = [*names, "localhost", "127.0.0.1", self.host, self.address, SERVICE_OF_API]
        # To the kubelets it is an administrator.
        self.authority.issue("server", "kube-apiserver", "system:masters", hosts)
        self.authority.issue("admin", "admin", "system:masters")
        self.authority.issue("accounts", "service-accounts")
        (self.directory / "audit-policy.json").write_text(json.dumps(POLICY))
        self.etcd.start()

    def start(self) -> None:
        """Until it is ready."""
        self.server.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Once it has been started."""
        self.server.wait_until(lambda: self.answers("/readyz"), "ready", READY_S)

    def kill(self, name: str = "kube-apiserver") -> None:
        """At once."""
        (self.etcd if name == "etcd" else self.server).kill()

    def connection(self, token: Path | str | None = None) -> Connection:
        """The administrator's, or a token's."""
        authority, certificate, key = (self.directory / name for name in ("ca.crt", "admin.crt", "admin.key"))
        if token is not None:
            return Connection(Credentials(self.host, PORT, authority, token))
        return Connection(Credentials(self.host, PORT, authority, None, certificate, key))

    def audit(self) -> Iterator[Request]:
        """What was asked and answered so far, but for what the cluster's own parts ask."""
        return requests(self.audit_log)

    def answers(self, path: str) -> bool:
        """Whether a GET succeeds."""
        try:
            self.connection().request("GET", path, timeout_s=2)
        except ClusterError:
            return False
        return True

    def make(self, path: str, **document: Any) -> Any:
        """POST."""
        return json.loads(self.connection().request("POST", path, body=json.dumps(document).encode()))

    def get(self, path: str) -> Any:
        """GET."""
        return json.loads(self.connection().request("GET", path))

    def patch(self, path: str, **document: Any) -> None:
        """A merge patch."""
        self.connection().request("PATCH", path, body=json.dumps(document).encode(), content_type=MERGE)

    def delete(self, path: str) -> None:
        """DELETE, in the background."""
        self.connection().request("DELETE", path)

    def make_kinds(self) -> None:
        """Podwire's kinds, with a schema that takes everything; until the server knows them."""
        for plural, kind in KINDS.items():
            self.make_kind(plural, kind)

    def make_kind(self, plural: str, kind: str) -> None:
        """One kind."""
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        self.make(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            metadata={"name": f"{plural}.{GROUP}"},
            spec={
                "group": GROUP,
                "scope": "Cluster",
                "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
                "versions": [
                    {
                        "name": "v1alpha1",
                        "served": True,
                        "storage": True,
                        "subresources": {"status": {}},
                        "schema": {
                            "openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}
                        },
                    }
                ],
            },
        )
        eventually(lambda: self.answers(f"/apis/{GROUP}/v1alpha1/{plural}"), 20)

    def token(self, account: str, seconds: int = 3600) -> str:
        """Of a service account in namespace default, which is made where it is missing."""
        accounts = "/api/v1/namespaces/default/serviceaccounts"
        if not self.answers(f"{accounts}/{account}"):
            self.make(accounts, metadata={"name": account})
        path = f"{accounts}/{account}/token"
        answer = self.make(
            path, apiVersion="authentication.k8s.io/v1", kind="TokenRequest", spec={"expirationSeconds": seconds}
        )
        return str(answer["status"]["token"])

    def compact(self, version: str) -> None:
        """Forget every version of every object before this one."""
        body = json.dumps({"revision": version, "physical": True}).encode()
        answer = urllib3.request("POST", f"http://{self.host}:2379/v3/kv/compaction", body=body)
        assert answer.status == 200, answer.data


@contextmanager
def api_server(directory: Path) -> Iterator[ApiServer]:
    """With Podwire's kinds."""
    with ApiServer(directory) as server:
        server.make_kinds()
        yield server


def _run(*command: str) -> None:
    """A command that must succeed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def eventually(holds: Any, timeout_s: float = 10.0) -> float:
    """Until it holds; how long that took, in seconds. A failed assertion where it takes longer."""
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < timeout_s, f"not within {timeout_s:g} s"
        time.sleep(0.02)
    return time.monotonic() - began_s
