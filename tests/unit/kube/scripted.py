"""An API server as a script: what it answers to each list and each watch, in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from podwire_agent.errors import ClusterError
from podwire_agent.kube.connection import Connection
from podwire_agent.kube.credentials import Credentials
from podwire_agent.kube.stopping import Stop

Answer = bytes | ClusterError
Lines = Sequence[bytes | ClusterError] | ClusterError


class ScriptedConnection(Connection):
    """Told in advance; when nothing is left to answer it stops whoever asks."""

    def __init__(self, stop: Stop, lists: Sequence[Answer] = (), watches: Sequence[Lines] = ()) -> None:
        super().__init__(Credentials("127.0.0.1", 1))
        self.stop = stop
        self.lists = list(lists)
        self.watches = list(watches)
        self.asked: list[tuple[str, dict[str, str]]] = []
        """What was asked: "list" or "watch", and the query."""

    def request(self, *_: str, **given: Any) -> bytes:
        self.asked.append(("list", dict(given["query"])))
        return _given(self.lists.pop(0)) if self.lists else self._end()

    @contextmanager
    def stream(self, _path: str, query: Mapping[str, str], *_: Any) -> Iterator[Iterator[bytes]]:
        self.asked.append(("watch", dict(query)))
        if not self.watches:
            self._end()
        lines = self.watches.pop(0)
        if isinstance(lines, ClusterError):
            raise lines
        yield map(_given, lines)

    def _end(self) -> bytes:
        self.stop.set()
        raise ClusterError(None, "the script has ended")


def _given(answer: Answer) -> bytes:
    if isinstance(answer, ClusterError):
        raise answer
    return answer


def page(*items: dict[str, Any], version: int = 1, more: str = "") -> bytes:
    return json.dumps({"metadata": {"resourceVersion": str(version), "continue": more}, "items": items}).encode()


def event(kind: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode()


def item(name: str, version: int = 1, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}, **fields}


class Server(Connection):
    """Takes requests by a function of the test's, and remembers them with the times they came at."""

    def __init__(self, answer: Callable[[str, str, Any], Any]) -> None:
        super().__init__(Credentials("127.0.0.1", 1))
        self.answer = answer
        self.requests: list[tuple[str, str, Any]] = []
        self.changed = threading.Condition()

    def request(self, method: str, path: str, **given: Any) -> bytes:
        body = given.get("body")
        document = json.loads(body) if body else None
        with self.changed:
            self.requests.append((method, path, document))
            self.changed.notify_all()
        return json.dumps(self.answer(method, path, document)).encode()

    def wait_for(self, count: int, timeout_s: float = 5.0) -> bool:
        """Until so many requests came."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.requests) >= count, timeout_s)
