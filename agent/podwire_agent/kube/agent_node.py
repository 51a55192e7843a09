"""What the agent tells of itself: its AgentNode, made where it is missing, written seldom."""

from __future__ import annotations

import logging
import random
import threading
import time
from http import HTTPStatus

import msgspec

from podwire_agent.errors import ClusterError
from podwire_agent.kube.connection import Connection
from podwire_agent.kube.objects import Meta, Page
from podwire_agent.kube.reflector import retry_s
from podwire_agent.kube.view import NODES_PATH
from podwire_agent.ports import Clock
from podwire_api.agentnode import AgentNodeStatus
from podwire_api.names import AGENT_NODE_KIND, AGENT_NODES, API_VERSION

log = logging.getLogger(__name__)

AGENT_NODES_PATH = f"/apis/{API_VERSION}/{AGENT_NODES}"

BURST = 5
"""Changes of state told at once after a quiet time: an agent that starts has several, and so has a person's edit."""
GAP_S = 10.0
"""From then on a change of state is told this often."""
JITTER = 0.1
"""Of the interval between figures, both ways."""
FIGURES_S = 30.0
"""Between two writes of figures alone, at least; in a large cluster so much that all agents write NODES_A_SECOND."""
NODES_A_SECOND = 20
COUNT_S = 600.0
"""Between two looks at how many nodes there are."""
CLOSE_S = REQUEST_S = 3.0

_NODES = msgspec.json.Decoder(Page[Meta])


class AgentNodeWriter:
    """Writes in a thread of its own, which begins at once; the last status given is the one that counts."""

    def __init__(
        self, connection: Connection, node: str, clock: Clock, interval_s: float | None = None, *, gap_s: float = GAP_S
    ) -> None:
        """`interval_s`: between two writes of figures alone; None: by the number of nodes. `gap_s`: between two
        changes of state, after BURST.
        """
        self.writes_total = 0
        self.failures_total = 0
        self._connection = connection
        self._node = node
        self._path = f"{AGENT_NODES_PATH}/{node}"
        self._clock = clock
        self._counts = interval_s is None
        self._interval_s = FIGURES_S if interval_s is None else interval_s
        self._gap_ns = int(gap_s * 1e9)
        self._changed = threading.Condition()
        self._wanted: AgentNodeStatus | None = None
        self._urgent = False
        self._closing_mono_ns: int | None = None
        self._failures = 0
        self._not_before_mono_ns = 0
        """After a failure."""
        self._counted_mono_ns: int | None = None
        """When the nodes were counted last."""
        self._figures_mono_ns = 0
        """When figures are due."""
        self._spent_mono_ns = 0
        """Until when changes of state have used up what they are allowed: one each gap, and a burst after quiet."""
        self._thread = threading.Thread(target=self._run, name="agent node", daemon=True)
        self._thread.start()

    @property
    def interval_s(self) -> float:
        """Between two writes of figures alone, now."""
        return self._interval_s

    def write(self, status: AgentNodeStatus, urgent: bool) -> None:
        """Have `status` written, with the time of writing as its heartbeat: soon where `urgent`, else when due."""
        with self._changed:
            self._wanted = status
            self._urgent |= urgent
            self._changed.notify_all()

    def close(self, final: AgentNodeStatus | None) -> None:
        """Write the last status, at most CLOSE_S, and end; None: as it was given last, if that is not written yet."""
        with self._changed:
            if final is not None:
                self._wanted = final
                self._urgent = True
            self._closing_mono_ns = self._clock.mono_ns() + int(CLOSE_S * 1e9)
            self._not_before_mono_ns = 0
            self._changed.notify_all()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("the last status of %s is not written: the API server is too slow", self._path)

    def _run(self) -> None:
        while (status := self._next()) is not None:
            try:
                self._send(status)
            except ClusterError as error:
                self._failed(error)
            else:
                self._failures = 0
                self._count_nodes()

    def _next(self) -> AgentNodeStatus | None:
        """The status that is due, once one is; None at the end."""
        with self._changed:
            while True:
                now_mono_ns = self._clock.mono_ns()
                closing = self._closing_mono_ns
                if closing is not None and (self._wanted is None or not self._urgent or now_mono_ns > closing):
                    return None
                due_mono_ns = self._due_mono_ns()
                if self._wanted is not None and now_mono_ns >= due_mono_ns:
                    break
                self._changed.wait(None if self._wanted is None else (due_mono_ns - now_mono_ns) / 1e9)
            if self._urgent:
                self._spent_mono_ns = max(now_mono_ns, self._spent_mono_ns) + self._gap_ns
            spread = random.uniform(1 - JITTER, 1 + JITTER)
            self._figures_mono_ns = now_mono_ns + int(self._interval_s * spread * 1e9)
            self._urgent = False
            return self._wanted

    def _due_mono_ns(self) -> int:
        if self._closing_mono_ns is not None:
            return self._not_before_mono_ns
        soon_mono_ns = self._spent_mono_ns - (BURST - 1) * self._gap_ns
        due_mono_ns = min(self._figures_mono_ns, soon_mono_ns) if self._urgent else self._figures_mono_ns
        return max(self._not_before_mono_ns, due_mono_ns)

    def _failed(self, error: ClusterError) -> None:
        with self._changed:
            self._failures += 1
            self.failures_total += 1
            self._urgent = True
            self._not_before_mono_ns = self._clock.mono_ns() + int(retry_s(self._failures) * 1e9)
        log.log(logging.WARNING if self._failures == 1 else logging.DEBUG, "%s", error)

    def _send(self, status: AgentNodeStatus) -> None:
        """ClusterError."""
        seconds, ns = divmod(self._clock.unix_ns(), 1_000_000_000)
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ns // 1000:06}Z"
        body = merge_patch(status.model_copy(update={"heartbeat": now}))
        try:
            self._patch(body)
        except ClusterError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            self._create()
            self._patch(body)
        self.writes_total += 1

    def _count_nodes(self) -> None:
        """Now and then: how seldom figures are written depends on it."""
        now_mono_ns = self._clock.mono_ns()
        counted = self._counted_mono_ns
        recent = counted is not None and now_mono_ns - counted < COUNT_S * 1e9
        if not self._counts or recent or self._closing_mono_ns is not None:
            return
        self._counted_mono_ns = now_mono_ns
        try:
            page = _decoded(self._connection.request("GET", NODES_PATH, query={"limit": "1"}, timeout_s=REQUEST_S))
        except ClusterError as error:
            log.debug("counting the nodes: %s", error)
            return
        nodes = len(page.items) + page.metadata.remaining_item_count
        self._interval_s = max(FIGURES_S, nodes / NODES_A_SECOND)

    def _patch(self, body: bytes) -> None:
        self._connection.request(
            "PATCH", f"{self._path}/status", body=body, content_type="application/merge-patch+json", timeout_s=REQUEST_S
        )

    def _create(self) -> None:
        """Owned by the Node, so that it goes with it. ClusterError."""
        document = {
            "apiVersion": API_VERSION,
            "kind": AGENT_NODE_KIND,
            "metadata": {
                "name": self._node,
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "Node",
                        "name": self._node,
                        "uid": self._node_uid(),
                        "blockOwnerDeletion": False,
                    }
                ],
            },
        }
        try:
            self._connection.request("POST", AGENT_NODES_PATH, body=msgspec.json.encode(document), timeout_s=REQUEST_S)
        except ClusterError as error:
            if error.status != HTTPStatus.CONFLICT:  # it came into being in between
                raise

    def _node_uid(self) -> str:
        """As of now: a node that was made anew has another one. By a list, since that is what the agent may do."""
        query = {"fieldSelector": f"metadata.name={self._node}"}
        answer = self._connection.request("GET", NODES_PATH, query=query, timeout_s=REQUEST_S)
        nodes = _decoded(answer).items
        if not nodes:
            raise ClusterError(None, f"making {self._path}: the cluster has no Node {self._node}; check --node")
        return nodes[0].metadata.uid


def _decoded(answer: bytes) -> Page[Meta]:
    """A page of nodes. ClusterError."""
    try:
        return _NODES.decode(answer)
    except msgspec.MsgspecError as error:
        raise ClusterError(None, f"GET {NODES_PATH}: the API server's answer makes no sense: {error}") from error


def merge_patch(status: AgentNodeStatus) -> bytes:
    """A merge patch that leaves nothing of a former status: what is not set is null; lists are replaced whole."""
    unset = {model_field.alias: None for model_field in AgentNodeStatus.model_fields.values()}
    given = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return msgspec.json.encode({"status": {**unset, **given}})
