"""An image of ours as a container under runc, with what a node would give to such a pod and no more."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

from tests.kernel.netns import Namespace, eventually
from tools.images import image

BPFFS = "/run/podwire-bpffs"
RESOURCES = "/etc/podwire"

_serial = count()


@dataclass(frozen=True)
class Image:
    """An image's files, mounted, and its configuration as OCI defines it."""

    root: Path
    config: Mapping[str, Any]

    def commands(self) -> set[str]:
        """The programs on its path."""
        path = next(value for value in self.config["Env"] if value.startswith("PATH=")).removeprefix("PATH=")
        places = [self.root / place.lstrip("/") for place in path.split(":")]
        return {command.name for place in places if place.is_dir() for command in place.iterdir()}

    def packages(self) -> set[str]:
        """Names in its environment's site-packages."""
        return {path.name for path in self.root.glob("opt/podwire/lib/python3*/site-packages/*")}


@contextmanager
def mounted(target: str) -> Iterator[Image]:
    """A target's image, which has been built; unmounted at the end."""
    container = _output("buildah", "from", "--pull-never", image(target))
    try:
        described = json.loads(_output("buildah", "inspect", container))
        yield Image(Path(_output("buildah", "mount", container)), described["OCIv1"]["config"])
    finally:
        _output("buildah", "rm", container)


@dataclass
class Node:
    """What of a node a container sees: its network, and directories for state, pins and the monitors' files."""

    network: Namespace
    directory: Path

    @property
    def state(self) -> Path:
        """The node's /run/podwire."""
        return self.directory / "state"

    @property
    def bpffs(self) -> Path:
        """The node's bpffs."""
        return self.directory / "bpffs"

    @property
    def resources(self) -> Path:
        """Files that a container finds in RESOURCES."""
        return self.directory / "resources"

    def pins(self) -> list[Path]:
        """What somebody pinned; the kernel itself puts two files into every bpffs."""
        return [path for path in self.bpffs.rglob("*") if path.suffix != ".debug" and not path.is_dir()]


@dataclass(frozen=True)
class Pod:
    """What the manifests give to a container of ours."""

    capabilities: tuple[str, ...] = ()
    mounts: Callable[[Node], list[dict[str, Any]]] = lambda _: []


def _agents_mounts(node: Node) -> list[dict[str, Any]]:
    private = ["rbind", "rw", "nosuid", "noexec", "nodev"]
    return [
        {"destination": "/run/podwire", "type": "bind", "source": str(node.state), "options": private},
        {"destination": BPFFS, "type": "bind", "source": str(node.bpffs), "options": private},
        {"destination": RESOURCES, "type": "bind", "source": str(node.resources), "options": [*private, "ro"]},
    ]


AGENT = Pod(("CAP_BPF", "CAP_NET_ADMIN"), _agents_mounts)
OPERATOR = Pod()


@contextmanager
def small_node(network: Namespace, directory: Path) -> Iterator[Node]:
    """A node with a bpffs of its own, unmounted at the end."""
    node = Node(network, directory)
    for place in (node.state, node.bpffs, node.resources):
        place.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(node.bpffs)], check=True)
    try:
        yield node
    finally:
        subprocess.run(["umount", str(node.bpffs)], check=True)


class Container:
    """A started container; it is gone on exit, whatever it did."""

    def __init__(self, image: Image, node: Node, *arguments: str, pod: Pod = AGENT) -> None:
        """`arguments` follow the image's entry point."""
        self.name = f"pw{os.getpid()}-{next(_serial)}"
        bundle = node.directory / self.name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(_specification(image, node, pod, arguments)))
        self._runc = ["runc", "--root", str(node.directory / "runc")]
        self._said = bundle / "stdout", bundle / "stderr"
        with self._said[0].open("wb") as out, self._said[1].open("wb") as err:
            command = [*self._runc, "run", "--bundle", str(bundle), self.name]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            subprocess.run([*self._runc, "delete", "--force", self.name], check=False)
            self._process.wait(10)

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._said[0].read_text()

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return self._said[1].read_text()

    def wait_until_said(self, words: str, timeout_s: float = 30.0) -> None:
        """Wait for `words` on standard error; RuntimeError where it ends without them."""

        def said() -> bool:
            ended = self._process.poll() is not None
            if words in self.stderr:
                return True
            if ended:
                raise RuntimeError(f"the container ended with {self._process.returncode}: {self.stderr}")
            return False

        eventually(said, f"{words!r} is said", timeout_s)

    def status(self) -> dict[str, str]:
        """/proc/PID/status of its first process."""
        pid = json.loads(_output(*self._runc, "state", self.name))["pid"]
        return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())

    def mounts(self) -> dict[str, str]:
        """Its mount points -> their options."""
        pid = json.loads(_output(*self._runc, "state", self.name))["pid"]
        fields = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
        return {mount[1]: mount[3] for mount in fields}

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        _output(*self._runc, "kill", self.name, name)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Its exit code, when it has ended."""
        return self._process.wait(timeout_s)


def _specification(image: Image, node: Node, pod: Pod, arguments: tuple[str, ...]) -> dict[str, Any]:
    """As a container runtime on a node fills it in."""
    privileges = {kind: list(pod.capabilities) for kind in ("bounding", "effective", "permitted")}
    user, _, group = image.config["User"].partition(":")
    nosuid = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "hostname": "small-node",
        "root": {"path": str(image.root), "readonly": True},
        "process": {
            "args": [*image.config["Entrypoint"], *arguments],
            "env": image.config["Env"],
            "cwd": image.config["WorkingDir"],
            "user": {"uid": int(user), "gid": int(group)},
            "capabilities": privileges,
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": nosuid},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*nosuid, "ro"]},
            *pod.mounts(node),
        ],
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("mount", "pid", "ipc", "uts")),
                {"type": "network", "path": str(node.network.path)},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def _output(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()
