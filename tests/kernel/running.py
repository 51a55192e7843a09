"""The agent as a process of its own in a namespace, and what it left behind and said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podwire_agent import checkpoint
from tests.kernel.netns import Namespace, eventually

ROOT = Path(__file__).parents[2]

Flow = tuple[str, str, int, int, str]
"""Source, destination, their ports, protocol."""


@dataclass
class Node:
    """Where one agent keeps its state, its pins and its lines; the agent may be started again and again."""

    namespace: Namespace
    directory: Path
    bpffs: Path
    monitor: str = "exact"
    spec: dict[str, Any] = field(default_factory=dict)
    _runs: int = 0

    @property
    def resource(self) -> Path:
        """The NetworkMonitor file, as JSON (which is YAML)."""
        path = self.directory / "monitor.yaml"
        spec = {"pollingPeriod": "1s", "sinks": [{"name": "lines", "stdout": {}}], **self.spec}
        metadata = {"name": self.monitor}
        path.write_text(
            json.dumps({"apiVersion": "podwire.dev/v1alpha1", "kind": "NetworkMonitor", "metadata": metadata, "spec": spec})
        )
        return path

    @property
    def places(self) -> list[str]:
        """The options that tell the agent where its state is."""
        return ["--state-dir", str(self.directory / "state"), "--bpffs", str(self.bpffs)]

    def start(
        self, *options: str, module: str = "podwire_agent.cli", arguments: Sequence[str] = (), root: Path = ROOT
    ) -> Agent:
        """Start an agent, that of the sources in `root`; it is ready when `ready` of the handle says so."""
        self._runs += 1
        lines = self.directory / f"lines-{self._runs:03}"
        errors = self.directory / f"errors-{self._runs:03}"
        command = self.namespace.command(
            *(sys.executable, "-m", module, *arguments, "run", "--file", str(self.resource), *self.places),
            *("--listen", "off", *options),
        )
        with lines.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, cwd=root, env=environment(root))
        return Agent(process, errors)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the agent to its end."""
        command = self.namespace.command(sys.executable, "-m", "podwire_agent.cli", *arguments)
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment())

    def filters(self) -> str:
        """Every TC filter on every interface, as tc prints them."""
        shown = []
        for line in self.namespace.run("ip", "-br", "link").splitlines():
            name = line.split()[0].split("@")[0]
            shown += [self.namespace.run("tc", "filter", "show", "dev", name, hook) for hook in ("ingress", "egress")]
        return "".join(shown)

    def pins(self) -> list[Path]:
        """Everything of ours on bpffs."""
        return [path for path in self.bpffs.rglob("*") if not path.is_dir()]

    def lines(self) -> list[dict[str, Any]]:
        """Every complete line of every run, in order. A process that was killed may leave a torn last line."""
        found = []
        for path in sorted(self.directory.glob("lines-*")):
            *whole, _ = path.read_text().split("\n")
            found += [json.loads(line) for line in whole]
        return found

    def flows_of_lines(self) -> dict[str, Counter[Flow]]:
        """Direction -> packets by flow, each sequence number counted once."""
        once = {line["sequence"]: line for line in self.lines() if line["type"] == "flow"}
        packets: dict[str, Counter[Flow]] = {"from_pod": Counter(), "to_pod": Counter()}
        for line in once.values():
            flow = (line["src_address"], line["dst_address"], line["src_port"], line["dst_port"], line["protocol"])
            packets[line["direction"]][flow] += line["packets"]
        return packets

    def last_ledgers(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(interface, direction) -> the last ledger line of it."""
        return {(line["interface"], line["direction"]): line for line in self.lines() if line["type"] == "ledger"}

    def saved(self) -> checkpoint.Checkpoint:
        """The checkpoint that the last agent left."""
        (path,) = (self.directory / "state").glob("*.checkpoint")
        found = checkpoint.load(path)
        assert found is not None
        return found


@dataclass
class Agent:
    """A started agent."""

    process: subprocess.Popen[bytes]
    errors: Path

    def ready(self, timeout_s: float = 10.0) -> None:
        """Wait until it has attached everywhere; RuntimeError with its words if it ends instead."""

        def said() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"the agent ended with {self.process.returncode}: {self.errors.read_text()}")
            return "ready:" in self.errors.read_text()

        eventually(said, "the agent is ready", timeout_s)

    def kill(self) -> None:
        """SIGKILL; gone on return."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def environment(root: Path = ROOT) -> dict[str, str]:
    """For processes that import the project from the sources in `root`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(root / part) for part in ("agent", "crds", ""))}


@contextmanager
def node(namespace: Namespace, **spec: Any) -> Iterator[Node]:
    """A place for an agent in `namespace`; whatever is left of it is removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="pw-"))
    bpffs = Path("/sys/fs/bpf") / f"pw-test-{os.getpid()}-{directory.name[3:]}"
    bpffs.mkdir()
    try:
        yield Node(namespace, directory, bpffs, spec=spec)
    finally:
        for path in sorted(bpffs.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        bpffs.rmdir()
        shutil.rmtree(directory)
