"""A real Prometheus as a process of its own, and promtool."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from tests.kernel.netns import Namespace, eventually
from tests.receivers.built import PROMETHEUS

READY_S = 30.0
PORT = 9090


def lint(page: bytes) -> str:
    """What `promtool check metrics` finds wrong with a page in the text format; "" where that is nothing."""
    command = [PROMETHEUS.program("promtool"), "check", "metrics"]
    done = subprocess.run(command, check=False, input=page, capture_output=True)
    found = (done.stdout + done.stderr).decode()
    return found if done.returncode else ""


class Prometheus:
    """Context manager: it is ready. Its data and its log are in `directory`."""

    def __init__(
        self,
        directory: Path,
        scrape_configs: Sequence[dict[str, Any]],
        within: Callable[..., list[str]],
        fetch: Callable[[str], tuple[int, bytes]],
    ) -> None:
        """`within`: from a command to the one that runs it in its place; `fetch` gets a path of it: status and body."""
        self._directory = directory
        self._within = within
        self._fetch = fetch
        self._process: subprocess.Popen[bytes] | None = None
        settings = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(json.dumps({"global": settings, "scrape_configs": scrape_configs}))

    def __enter__(self) -> Self:
        here = self._directory
        command = self._within(
            *("env", f"--chdir={here}"),  # it wants to know where it is, and in a namespace it may be nowhere
            PROMETHEUS.program("prometheus"),
            f"--config.file={here}/prometheus.yml",
            f"--storage.tsdb.path={here}/data",
            f"--web.listen-address=127.0.0.1:{PORT}",
            "--log.level=warn",
        )
        with (here / "prometheus.log").open("wb") as log:
            ours = os.environ | {"GOMAXPROCS": "1"}
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ours)
        eventually(self._ready, "Prometheus is ready", READY_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        return list(self._api("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """Of a query with one result; None where there is none yet."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def samples(self, selector: str, window: str = "1h") -> dict[tuple[tuple[str, str], ...], list[float]]:
        """All that was stored: labels to values in the order of time."""
        return {
            tuple(sorted(series["metric"].items())): [float(value) for _, value in series["values"]]
            for series in self.query(f"{selector}[{window}]")
        }

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and how that goes."""
        return list(self._api("targets")["activeTargets"])

    def _api(self, name: str, **arguments: str) -> Any:
        _, body = self._fetch(f"/api/v1/{name}?{urlencode(arguments)}")
        answer = json.loads(body)
        assert answer["status"] == "success", answer
        return answer["data"]

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"Prometheus ended: {(self._directory / 'prometheus.log').read_text()}")
        try:
            return self._fetch("/-/ready")[0] == 200
        except OSError:
            return False


def in_namespace(directory: Path, namespace: Namespace, scrape_configs: Sequence[dict[str, Any]]) -> Prometheus:
    """One that runs in a network namespace of this host."""

    def fetch(path: str) -> tuple[int, bytes]:
        def read() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return namespace.start(read).result(15)

    return Prometheus(directory, scrape_configs, namespace.command, fetch)
