"""A Kubernetes cluster of two nodes on this machine, for people: the one of the cluster tests.

    make cluster-up         Kubernetes, Podwire's images on both nodes; stays until
    make cluster-down
    make demo-cluster       up, Podwire installed, two pods talk; DEMO_KEEP=1 leaves all of it there

Needs root. A process holds the cluster; whatever ends it, the cluster ends with it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster.binaries import BinariesError, program, programs
from tests.cluster.cluster import Cluster, two_nodes
from tests.cluster.images import archives
from tests.cluster.machine import MachineError

ROOT = Path(__file__).resolve().parent.parent
STATE = Path("/run/podwire-cluster")
DOWN_S = 90.0


class HolderEnded(Exception):
    """The process that was to hold the cluster has ended; the message is what it said."""


def hold(state: Path, images: Sequence[Path]) -> int:
    """Bring it up, write state.json, and keep it until SIGTERM or SIGINT."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"a cluster is there already, see {state}", file=sys.stderr)
            return 1
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        logs = state / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        (state / "state.json").unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        with two_nodes(logs, images) as cluster:
            shutil.copy(cluster.kubeconfig, state / "kubeconfig")
            _write(state / "state.json", _described(cluster))
            while True:
                signal.pause()


def _leave(*_: object) -> None:
    raise SystemExit(0)


def _described(cluster: Cluster) -> dict[str, Any]:
    machines = [cluster.api.machine, *(node.machine for node in cluster.nodes)]
    return {
        "name": cluster.workplace.name,
        "logs": str(cluster.logs),
        "interface": cluster.api.uplink.interface,
        "machines": {machine.name: machine.pid for machine in machines},
        "namespaces": [str(Path(f"/proc/{machine.pid}/ns/net").readlink()) for machine in machines],
    }


def _write(path: Path, document: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document, indent=1))
    fresh.rename(path)


def up(state: Path) -> dict[str, Any]:
    """The state of the cluster, brought up where there is none, with the images of these sources.

    BinariesError, CalledProcessError after it has said why, HolderEnded.
    """
    programs()  # here, since building them takes minutes and says so
    images = [str(path) for path in archives()]
    if (there := up_already(state)) is not None:
        for node in ("node-1", "node-2"):
            ctr = ["nsenter", f"--target={there['machines'][node]}", "--all", "ctr", "--namespace=k8s.io"]
            for path in images:
                subprocess.run([*ctr, "images", "import", path], check=True, stdout=subprocess.DEVNULL)
        return there
    print("bringing up two nodes", flush=True)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = state / "hold.log"
    command = [sys.executable, "-m", "tools.cluster", "hold", "--state", str(state), "--images", *images]
    with log.open("wb") as said:
        holder = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    while holder.poll() is None:
        if (there := up_already(state)) is not None:
            return there
        time.sleep(0.1)
    raise HolderEnded(f"the cluster did not come up: {log.read_text().strip()}")


def down(state: Path) -> None:
    """End it, if it is there. TimeoutError."""
    if not _held(state):
        return
    pid = int((state / "lock").read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_S
    while _held(state):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid}, which holds the cluster, has not ended in {DOWN_S:g} s")
        time.sleep(0.1)
    shutil.rmtree(state)


def up_already(state: Path) -> dict[str, Any] | None:
    """The state of the cluster, if there is one that is up."""
    if not _held(state) or not (state / "state.json").exists():
        return None
    described: dict[str, Any] = json.loads((state / "state.json").read_text())
    return described


def _held(state: Path) -> bool:
    """Whether a process holds a cluster, or brings it up."""
    try:
        with (state / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _explain(state: Path, there: dict[str, Any]) -> None:
    print(f"""
export KUBECONFIG={state}/kubeconfig
alias kubectl={program("kubectl")}

kubectl get nodes
kubectl apply -k manifests/                          # Podwire
kubectl apply -f manifests/samples/cluster.yaml      # a monitor of everything
kubectl get nmon --watch

A command on a node:  nsenter --target {there["machines"]["node-1"]} --all ls /sys/fs/bpf
Its programs' logs:   {there["logs"]}
Ends with:            make cluster-down""")


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["up", "down", "hold"])
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--images", nargs="*", default=[], type=Path, help="archives, for hold")
    options = parser.parse_args()
    if os.geteuid():
        print("a cluster is made of namespaces, mounts and cgroups: run it as root", file=sys.stderr)
        return 1
    try:
        if options.what == "hold":
            return hold(options.state, options.images)
        if options.what == "down":
            down(options.state)
        else:
            _explain(options.state, up(options.state))
    except FileNotFoundError as missing:
        print(f"cluster: {missing.filename} is not installed: make cluster-packages", file=sys.stderr)
        return 1
    except (BinariesError, HolderEnded, MachineError, TimeoutError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        print(f"cluster: `{' '.join(map(str, failed.cmd))}` failed, see above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
