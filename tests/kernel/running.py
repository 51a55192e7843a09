"""The agent as a process of its own in a namespace, and what it left behind and said."""

from __future__ import annotations

import json
import os
import re
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
from typing import IO, Any

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
    agents: list[Agent] = field(default_factory=list)
    """Every one that was started."""

    @property
    def resource(self) -> Path:
        """The NetworkMonitor file."""
        return self.write(self.monitor, **self.spec)

    def write(self, monitor: str, **spec: Any) -> Path:
        """A NetworkMonitor file, as JSON (which is YAML); polled every second, with lines on stdout."""
        path = self.directory / f"{monitor}.yaml"
        spec = {"pollingPeriod": "1s", "sinks": [{"name": "lines", "stdout": {}}], **spec}
        resource = {"apiVersion": "podwire.dev/v1alpha1", "kind": "NetworkMonitor", "metadata": {"name": monitor}}
        path.write_text(json.dumps({**resource, "spec": spec}))
        return path

    @property
    def places(self) -> list[str]:
        """The options that tell the agent where its state is."""
        return ["--state-dir", str(self.directory / "state"), "--bpffs", str(self.bpffs)]

    def start(
        self,
        *options: str,
        module: str = "podwire_agent.cli",
        arguments: Sequence[str] = (),
        root: Path = ROOT,
        capabilities: str = "",
        out: IO[bytes] | None = None,
    ) -> Agent:
        """Start an agent, that of the sources in `root`; it is ready when `ready` of the handle says so.

        `capabilities`: those that are left to it, as setpriv wants them. `out`: takes its lines instead of a file.
        """
        lines = self.directory / f"lines-{len(self.agents):03}"
        errors = self.directory / f"errors-{len(self.agents):03}"
        kept = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"] if capabilities else []
        command = self.namespace.command(
            *(*kept, sys.executable, "-m", module, *arguments, "run", "--file", str(self.resource), *self.places),
            *("--listen", "off", *options),
        )
        with lines.open("wb") as file, errors.open("wb") as err:
            process = subprocess.Popen(command, stdout=out or file, stderr=err, cwd=root, env=environment(root))
        self.agents.append(Agent(process, errors, lines))
        return self.agents[-1]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the agent to its end."""
        command = self.namespace.command(sys.executable, "-m", "podwire_agent.cli", *arguments)
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment())

    def filters(self) -> str:
        """Every TC filter on every interface, as tc prints them."""
        return "".join(shown for name in self.namespace.interfaces() for shown in self._filters_of(name))

    def _filters_of(self, interface: str) -> list[str]:
        try:
            return [
                self.namespace.run("tc", "filter", "show", "dev", interface, hook) for hook in ("ingress", "egress")
            ]
        except RuntimeError:
            if interface in self.namespace.interfaces():
                raise
            return []  # it went away meanwhile, as those of a deleted namespace do

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

    def flow_lines(self, monitor: str = "") -> list[dict[str, Any]]:
        """The flow lines of a monitor (the only one by default), each sequence number once."""
        wanted = monitor or self.monitor
        lines = [line for line in self.lines() if line["type"] == "flow" and line["monitor"] == wanted]
        return list({line["sequence"]: line for line in lines}.values())

    def flows_of_lines(self) -> dict[str, Counter[Flow]]:
        """Direction -> packets by flow."""
        packets: dict[str, Counter[Flow]] = {"from_pod": Counter(), "to_pod": Counter()}
        for line in self.flow_lines():
            packets[line["direction"]][flow_of(line)] += line["packets"]
        return packets

    def flows(self, interface: str, direction: str, monitor: str = "") -> dict[Flow, tuple[int, int]]:
        """What was reported of an interface: flow -> packets, bytes."""
        found: dict[Flow, tuple[int, int]] = {}
        for line in self.flow_lines(monitor):
            if (line["interface"], line["direction"]) == (interface, direction):
                packets, octets = found.get(flow_of(line), (0, 0))
                found[flow_of(line)] = (packets + line["packets"], octets + line["bytes"])
        return found

    def ledgers(self, monitor: str = "") -> dict[tuple[str, str], list[dict[str, Any]]]:
        """(interface, direction) -> the last ledger line of each of its lives: all but the last of them are `gone`."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for line in self.lines():
            if line["type"] == "ledger" and line["monitor"] == (monitor or self.monitor):
                lives = found.setdefault((line["interface"], line["direction"]), [])
                if lives and (not lives[-1].get("gone") or lives[-1] == line):
                    lives.pop()
                lives.append(line)
        return found

    def last_ledgers(self, monitor: str = "") -> dict[tuple[str, str], dict[str, Any]]:
        """(interface, direction) -> the last ledger line of it."""
        return {at: lives[-1] for at, lives in self.ledgers(monitor).items()}

    def identity_holds(self, monitor: str = "", *, verifiable: bool = True) -> None:
        """Every packet is accounted, from the lines of all runs, on quiet interfaces and after an orderly end.

        On every interface and direction that was ever watched: what was seen is what was counted, filtered,
        unsupported and overflowed; what was counted is the sum of the flow lines; and where `verifiable`, what was
        seen is what the interface's own counter, read here, has moved since attach.
        """
        reported: dict[tuple[str, str], tuple[int, int]] = {}
        for line in self.flow_lines(monitor):
            at = (line["interface"], line["direction"])
            packets, octets = reported.get(at, (0, 0))
            reported[at] = (packets + line["packets"], octets + line["bytes"])
        lives_of = self.ledgers(monitor)
        assert lives_of or not reported
        for at, lives in lives_of.items():
            for unit in ("packets", "bytes"):
                for line in lives:
                    parts = [line[name][unit] for name in ("counted", "filtered", "unsupported", "overflowed")]
                    assert line["seen"][unit] == sum(parts), line
                counted = sum(line["counted"][unit] for line in lives)
                assert counted == reported.get(at, (0, 0))[unit == "bytes"], (at, unit, lives)
            there = at[0] in self.namespace.interfaces()  # not, where it went after the agent's end
            if verifiable and there and not lives[-1].get("gone"):
                self._agrees(lives[-1])

    def _agrees(self, line: dict[str, Any]) -> None:
        counters = self.namespace.counters(line["interface"])
        host = line["interface"] in self.spec.get("interfaces", {}).get("hostInterfaces", ())
        if (line["direction"] == "from_pod") != host:
            buffers, octets = counters.rx_packets, counters.rx_bytes
        else:
            buffers, octets = counters.tx_packets, counters.tx_bytes
        low, high, seen = line["before_attach"]["low"], line["before_attach"]["high"], line["seen"]
        assert line["verifiable"], line
        assert line["verdict"].startswith("agrees"), line
        assert low["buffers"] <= buffers - seen["buffers"] <= high["buffers"], (line, counters)
        tags = 4 * seen["buffers"] if "VLAN" in line["verdict"] else 0
        assert low["bytes"] <= octets - seen["buffer_bytes"] <= high["bytes"] + tags, (line, counters)

    def attached(self) -> set[str]:
        """The interfaces with a filter or a pinned TCX link of ours."""
        names = self.namespace.interfaces()
        by_filter = {name for name in names if any("podwire/" in shown for shown in self._filters_of(name))}
        indexes = {index: name for name, index in names.items()}
        links = [path.name.split("-")[1] for path in self.pins() if path.name.startswith("link-")]
        return by_filter | {indexes[int(index)] for index in links}

    def saved(self) -> checkpoint.Checkpoint:
        """The checkpoint that the last agent left."""
        (path,) = (self.directory / "state").glob("*.checkpoint")
        found = checkpoint.load(path)
        assert found is not None
        return found


def flow_of(line: dict[str, Any]) -> Flow:
    """What a flow line tells of."""
    return (line["src_address"], line["dst_address"], line["src_port"], line["dst_port"], line["protocol"])


@dataclass
class Agent:
    """A started agent."""

    process: subprocess.Popen[bytes]
    errors: Path
    lines: Path

    def ready(self, timeout_s: float = 10.0) -> None:
        """Wait until it has attached everywhere; RuntimeError with its words if it ends instead."""

        def said() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"the agent ended with {self.process.returncode}: {self.errors.read_text()}")
            return "ready:" in self.errors.read_text()

        eventually(said, "the agent is ready", timeout_s)

    def words(self) -> str:
        """What it said on stderr, without the log lines."""
        lines = self.errors.read_text().splitlines()
        return "\n".join(line for line in lines if not re.match(r"\d{4}-\d\d-\d\d .* (INFO|WARNING|ERROR) ", line))

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
    made = Node(namespace, directory, bpffs, spec=spec)
    try:
        yield made
    finally:
        for agent in made.agents:
            agent.kill()
        for path in sorted(bpffs.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        bpffs.rmdir()
        shutil.rmtree(directory)
