"""The API server: the only module that talks to it, but for kopf's watches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from podwire_api.names import AGENT, API_VERSION, OPERATOR, POOL_LABEL
from podwire_operator import __version__
from podwire_operator.election import Lease
from podwire_operator.errors import ClusterError, NotLeading, SettingsError
from podwire_operator.objects import Document, Kind
from podwire_operator.render import MANAGED_BY, NAME

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

REQUEST_S = 10.0
LEASE_REQUEST_S = 4.0
PAGE = 250
MAX_PODS = 1000
"""Of one pool, looked at for problems."""
EVENTS_NAMESPACE = "default"
"""Where events about objects without a namespace are looked for."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach the API server, and as whom."""

    server: str
    authority: str | None
    """A file with the CA's certificate."""
    certificate: str | None
    key: str | None
    authorization: str | None
    """The header, such as `Bearer ...`."""


class Cluster:
    """Context manager. Every method raises ClusterError; those that write, NotLeading where they may not."""

    def __init__(self, namespace: str, kubeconfig: Path | None) -> None:
        self.namespace = namespace
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before each write but the Lease's."""
        self.requests_total: Counter[tuple[str, str, str]] = Counter()
        """By verb, resource and HTTP status ("none" where there was no answer)."""
        self.writes_total: Counter[tuple[str, str]] = Counter()
        """That the server took, by verb and resource."""
        self._kubeconfig = kubeconfig
        self._configuration = client.Configuration()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        """SettingsError where there are no credentials."""
        try:
            if self._kubeconfig is not None:
                await load_kube_config(str(self._kubeconfig), client_configuration=self._configuration)
            else:
                load_incluster_config(client_configuration=self._configuration)
        except (ConfigException, OSError) as error:
            source = f"the kubeconfig {self._kubeconfig}" if self._kubeconfig else "the pod's service account"
            raise SettingsError(
                f"credentials from {source}: {error}; outside a cluster, name a file with --kubeconfig"
            ) from error
        self._client = client.ApiClient(self._configuration)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def credentials(self) -> Credentials:
        """As of now: a pod's token is renewed."""
        configuration = self._configuration
        token = (await configuration.auth_settings()).get("BearerToken", {}).get("value")
        return Credentials(
            server=configuration.host,
            authority=configuration.ssl_ca_cert,
            certificate=configuration.cert_file,
            key=configuration.key_file,
            authorization=token,
        )

    # Reading.

    async def served(self) -> bool:
        """Whether the server knows Podwire's kinds, all of them."""
        try:
            found = await self._request("get", "/apis", f"/apis/{API_VERSION}")
        except ClusterError as error:
            if error.missing:
                return False
            raise
        names = {each.get("name") for each in found.get("resources") or []}
        return {Kind.MONITOR, Kind.POOL, Kind.AGENT_NODE} <= names

    async def all(self, kind: Kind) -> tuple[list[Document], int]:
        """All there are, and the version of the list. What belongs to a kind that is gone is gone: none, version 0."""
        query = {"limit": str(PAGE)}
        if kind is Kind.DAEMON_SET:
            query["labelSelector"] = f"{MANAGED_BY}={OPERATOR}"
        items: list[Document] = []
        while True:
            page = await self._request("list", kind, self._path(kind), query=query)
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, int(metadata.get("resourceVersion") or 0)
            query["continue"] = metadata["continue"]

    async def agent_pods(self, pool: str) -> list[Document]:
        """The pool's agents, as many as are worth looking at."""
        query = {"labelSelector": f"{NAME}={AGENT},{POOL_LABEL}={pool}", "limit": str(MAX_PODS)}
        page = await self._request("list", "pods", f"/api/v1/namespaces/{self.namespace}/pods", query=query)
        return list(page.get("items") or [])

    # Writing.

    async def apply(self, daemon_set: Document) -> Document:
        """Forced server-side apply; as it is then. What others added stays: see takeover."""
        path = f"{self._path(Kind.DAEMON_SET)}/{daemon_set['metadata']['name']}"
        query = {"fieldManager": OPERATOR, "force": "true"}
        return await self._write("PATCH", Kind.DAEMON_SET, path, daemon_set, APPLY, query)

    async def take_over(self, name: str, patch: list[dict[str, Any]]) -> Document:
        """The patch that takeover made."""
        path = f"{self._path(Kind.DAEMON_SET)}/{name}"
        return await self._write("PATCH", Kind.DAEMON_SET, path, patch, JSON_PATCH, {"fieldManager": OPERATOR})

    async def delete_daemon_set(self, name: str, uid: str = "") -> None:
        """With its pods, in the background; nothing if it is gone, or, where a uid is given, another one by now."""
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self._write("DELETE", Kind.DAEMON_SET, f"{self._path(Kind.DAEMON_SET)}/{name}", body)
        except ClusterError as error:
            if not error.missing and not error.conflict:
                raise

    async def write_status(self, kind: Kind, name: str, uid: str, status: Document) -> Document:
        """The whole of it, if the object is still the same one."""
        path = f"{self._path(kind)}/{quote(name)}/status"
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        return await self._write("PATCH", f"{kind}/status", path, patch, JSON_PATCH, {"fieldManager": OPERATOR})

    async def make_pool(self, name: str) -> None:
        """An AgentPool with nothing but defaults."""
        body = {"apiVersion": API_VERSION, "kind": "AgentPool", "metadata": {"name": name}, "spec": {}}
        await self._write("POST", Kind.POOL, self._path(Kind.POOL), body, query={"fieldManager": OPERATOR})

    async def post_event(self, event: Document) -> None:
        """An events.k8s.io/v1 Event."""
        path = f"/apis/events.k8s.io/v1/namespaces/{EVENTS_NAMESPACE}/events"
        await self._write("POST", "events", path, event)

    async def read_secret(self, name: str) -> Document | None:
        """None where there is none."""
        return await self._found("secrets", f"/api/v1/namespaces/{self.namespace}/secrets/{name}")

    async def write_secret(self, secret: Document, present: Document | None) -> None:
        """In place of the one that was read; conflict where it is another one by now."""
        path = f"/api/v1/namespaces/{self.namespace}/secrets"
        if present is None:
            await self._write("POST", "secrets", path, secret)
            return
        metadata = {**secret["metadata"], "resourceVersion": present["metadata"]["resourceVersion"]}
        # The type cannot be changed.
        body = {**secret, "metadata": metadata, "type": present.get("type", secret["type"])}
        await self._write("PUT", "secrets", f"{path}/{secret['metadata']['name']}", body)

    # The Lease: an election.LeaseStore.

    async def read(self) -> Lease | None:
        """The Lease, or None."""
        found = await self._found("leases", f"{self._leases}/{OPERATOR}", LEASE_REQUEST_S)
        return Lease.from_document(found) if found is not None else None

    async def create(self, lease: Lease) -> Lease:
        """Conflict where there is one."""
        body = lease.document(OPERATOR, self.namespace)
        made = await self._request("create", "leases", self._leases, "POST", body, timeout_s=LEASE_REQUEST_S)
        self.writes_total["create", "leases"] += 1
        return Lease.from_document(made)

    async def replace(self, lease: Lease) -> Lease:
        """Conflict where it is not the one that was read."""
        body = lease.document(OPERATOR, self.namespace)
        path = f"{self._leases}/{OPERATOR}"
        made = await self._request("update", "leases", path, "PUT", body, timeout_s=LEASE_REQUEST_S)
        self.writes_total["update", "leases"] += 1
        return Lease.from_document(made)

    @property
    def _leases(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"

    def _path(self, kind: Kind) -> str:
        if kind is Kind.NODE:
            return "/api/v1/nodes"
        if kind is Kind.DAEMON_SET:
            return f"/apis/apps/v1/namespaces/{self.namespace}/{kind}"
        return f"/apis/{API_VERSION}/{kind}"

    async def _found(self, resource: str, path: str, timeout_s: float = REQUEST_S) -> Document | None:
        try:
            found: Document = await self._request("get", resource, path, timeout_s=timeout_s)
        except ClusterError as error:
            if error.missing:
                return None
            raise
        return found

    async def _write(
        self,
        method: str,
        resource: str,
        path: str,
        body: object,
        content_type: str = JSON,
        query: dict[str, str] | None = None,
    ) -> Document:
        verb = _VERBS[method]
        if not self.may_write():
            raise NotLeading(f"{verb} {path}: held back, this replica does not lead any more")
        answer: Document = await self._request(verb, resource, path, method, body, content_type, query)
        self.writes_total[verb, resource] += 1
        return answer

    async def _request(
        self,
        verb: str,
        resource: str,
        path: str,
        method: str = "GET",
        body: object = None,
        content_type: str = JSON,
        query: dict[str, str] | None = None,
        timeout_s: float = REQUEST_S,
    ) -> Any:
        url = f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        status = None
        try:
            authorization = (await self._configuration.auth_settings()).get("BearerToken", {}).get("value")
            headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": f"{OPERATOR}/{__version__}"}
            if authorization:
                headers["Authorization"] = authorization
            response = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=timeout_s
            )
            status = response.status
            content = await response.read()
        except (aiohttp.ClientError, ConfigException, OSError, TimeoutError) as error:
            said = str(error) or type(error).__name__
            raise ClusterError(f"{verb} {path}: the API server does not answer: {said}", status) from error
        finally:
            self.requests_total[verb, resource, str(status or "none")] += 1
        return _answer(verb, path, int(status or 0), content)


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def _answer(verb: str, path: str, status: int, content: bytes) -> Any:
    try:
        answer = json.loads(content)
    except ValueError as error:
        if status < 400:
            raise ClusterError(f"{verb} {path}: the API server's answer is not JSON: {error}") from error
        answer = {}
    if status >= 400:
        said = str(answer.get("message") or content[:200].decode(errors="replace"))
        raise ClusterError(f"{verb} {path}: the API server said {status}: {said}", status, said)
    return answer
