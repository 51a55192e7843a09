"""podwire-agent: the commands, their messages and exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from podwire_agent import __version__, doctor, state, tls
from podwire_agent.agent import Agent
from podwire_agent.cleanup import clean
from podwire_agent.errors import PodwireError, ResourceError, UsageError
from podwire_agent.kernel import bpffs
from podwire_agent.kernel.cni import Selector
from podwire_agent.monitor import selector_of
from podwire_agent.settings import (
    DEFAULT_LISTEN,
    DEFAULT_METRICS,
    DEFAULT_POOL,
    LoaderName,
    Membership,
    MetricsAuth,
    Settings,
    default_loader_name,
    default_objects,
)
from podwire_agent.unbuilt import refusals, switched_off, without_cluster
from podwire_api import InvalidResource, NetworkMonitor, notes, parse_duration
from podwire_api.names import NAMESPACE

if TYPE_CHECKING:
    from podwire_agent.cluster_agent import ClusterAgent

log = logging.getLogger("podwire_agent")

_IN_CLUSTER = (
    "--pool",
    "--pod",
    "--namespace",
    "--kubeconfig",
    "--metrics",
    "--metrics-auth",
    "--tls-dir",
    "--exchange-port",
)
"""Options that mean nothing without a cluster; None where they are not given."""

FAILED = 1
BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. Errors go to standard error, three lines at most."""
    options = _parser().parse_args(arguments)
    level = getattr(options, "log_level", "warning").upper()
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(message)s")
    try:
        code: int = options.command(options)
        sys.stdout.flush()
    except InvalidResource as error:
        print(f"podwire-agent: {error.summary(limit=2)}", file=sys.stderr)
        return BAD_INPUT
    except (ResourceError, UsageError) as error:
        print(f"podwire-agent: {error}", file=sys.stderr)
        return BAD_INPUT
    except PodwireError as error:
        print(f"podwire-agent: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Whoever read has left, as head does. What Python would still flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _run(options: argparse.Namespace) -> int:
    stop = threading.Event()
    agent = _agent(options, stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with agent:
        stop.wait(options.duration)
    return FAILED if agent.failed else 0


def _agent(options: argparse.Namespace, stop: threading.Event) -> Agent | ClusterAgent:
    """For files, or for a node of a cluster. UsageError, InvalidResource, ResourceError, ClusterError."""
    given = [name for name in _IN_CLUSTER if getattr(options, name.strip("-").replace("-", "_")) is not None]
    if options.file:
        if given:
            raise UsageError(f"{given[0]} is for a node of a cluster, --file for one without; leave one of them out")
        return Agent(_runnable(options.file), _settings(options), stop)
    if options.node is None:
        raise UsageError("run what? Give --file MONITOR, or on a node of a cluster --node NAME")
    if options.keep:
        raise UsageError("--keep is for --file; in a cluster the agent finds out by itself whether another one follows")
    return _cluster_agent(options, stop)


def _cluster_agent(options: argparse.Namespace, stop: threading.Event) -> ClusterAgent:
    """Its modules are loaded only here: without a cluster nobody needs them."""
    from podwire_agent.cluster_agent import ClusterAgent  # noqa: PLC0415
    from podwire_agent.kube.connection import Connection  # noqa: PLC0415

    membership = Membership(
        pool=options.pool or DEFAULT_POOL,
        pod=options.pod or "",
        namespace=options.namespace or NAMESPACE,
        exchange_port=options.exchange_port,
    )
    connection = Connection.from_kubeconfig(options.kubeconfig) if options.kubeconfig else Connection.in_cluster()
    return ClusterAgent(_settings(options), membership, connection, stop)


def _runnable(paths: Sequence[Path]) -> list[NetworkMonitor]:
    monitors = _load(paths)
    refused = [line for monitor in monitors for line in refusals(monitor)]
    if refused:
        more = f"\n... and {len(refused) - 2} more" if len(refused) > 2 else ""
        raise ResourceError("\n".join(refused[:2]) + more)
    for monitor in monitors:
        for line in [*switched_off(monitor), *without_cluster(monitor)]:
            log.info("monitor %s: %s", monitor.metadata.name, line)
    return monitors


def _load(paths: Sequence[Path]) -> list[NetworkMonitor]:
    from podwire_api import load_file  # noqa: PLC0415 (reads YAML, which takes 2 MB; in a cluster there is none)

    monitors = [monitor for path in paths for monitor in load_file(path)]
    names = [monitor.metadata.name for monitor in monitors]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ResourceError(f"metadata.name: {twice} is in two of the files; each monitor needs a name of its own")
    return monitors


def _validate(options: argparse.Namespace) -> int:
    from podwire_api import load_resources  # noqa: PLC0415 (as above)

    code = 0
    for path in options.file:
        try:
            resources = load_resources(path)
        except InvalidResource as error:
            for problem in error.problems:
                print(problem)
            code = BAD_INPUT
            continue
        for resource in resources:
            print(f"{path}: {resource.kind} {resource.metadata.name} is valid")
            if isinstance(resource, NetworkMonitor):
                for line in [*notes(resource), *refusals(resource)]:
                    print(f"{path}: note: {line}")
    return code


def _doctor(options: argparse.Namespace) -> int:
    monitors = _load([options.file]) if options.file else []
    selector = selector_of(monitors[0].spec) if monitors else Selector()
    diagnosis = doctor.examine(_settings(options), selector)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(diagnosis)).decode())
    else:
        print("\n".join(doctor.in_words(diagnosis)))
    return FAILED if diagnosis.problems else 0


def _get(options: argparse.Namespace) -> int:
    from podwire_agent.local_api import ask  # noqa: PLC0415 (no other command needs it)
    from podwire_agent.state import SOCKET  # noqa: PLC0415 (the same)

    names = ("monitor", "namespace", "workload", "limit")
    query = {name: str(getattr(options, name)) for name in names if getattr(options, name) is not None}
    lines, left_off = ask(options.state_dir / SOCKET, options.what, query)
    sys.stdout.buffer.write(lines)
    if left_off:
        print(f"podwire-agent: {left_off} more; ask for them with --limit", file=sys.stderr)
    return 0


def _cleanup(options: argparse.Namespace) -> int:
    removed = 0
    for line in clean(options.state_dir, options.bpffs, options.monitor):
        print(f"removed {line}")
        removed += 1
    if not removed:
        print("nothing to remove")
    return 0


def _seconds(text: str) -> float:
    try:
        return parse_duration(text) / 1e9
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _loader(text: str) -> LoaderName:
    try:
        return LoaderName(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no loader {text!r}; there are {', '.join(LoaderName)}") from error


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        state_dir=options.state_dir,
        bpffs=options.bpffs,
        objects=options.objects,
        loader=getattr(options, "loader", LoaderName.LIBBPF),
        listen=getattr(options, "listen", "off"),
        metrics=getattr(options, "metrics", None) or DEFAULT_METRICS,
        metrics_auth=MetricsAuth(getattr(options, "metrics_auth", None) or MetricsAuth.KUBERNETES),
        tls_dir=getattr(options, "tls_dir", None) or tls.DEFAULT,
        node=getattr(options, "node", None) or os.uname().nodename,
        refs=getattr(options, "refs", None),
        keep=getattr(options, "keep", False),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podwire-agent", description="Exact counts of who talks to whom on this node."
    )
    parser.add_argument("--version", action="version", version=f"podwire-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "--state-dir", type=Path, default=state.DEFAULT, metavar="DIR", help=f"lock and checkpoints ({state.DEFAULT})"
    )
    place.add_argument("--bpffs", type=Path, default=bpffs.DEFAULT, metavar="DIR", help=f"pins ({bpffs.DEFAULT})")
    place.add_argument(
        "--objects", type=Path, default=default_objects(), metavar="DIR", help="compiled programs (beside the package)"
    )

    run = commands.add_parser("run", parents=[place], help="watch, count and report until SIGTERM or --duration")
    run.set_defaults(command=_run)
    run.add_argument("--file", type=Path, action="append", help="a NetworkMonitor; may be given again")
    run.add_argument("--duration", type=_seconds, metavar="30s", help="end by itself after so long")
    run.add_argument("--node", metavar="NAME", help="the node; with --file its name in reports (the host's name)")
    run.add_argument("--pool", metavar="NAME", help=f"in a cluster: the agent's AgentPool ({DEFAULT_POOL})")
    run.add_argument("--pod", metavar="NAME", help="in a cluster: the agent's pod")
    run.add_argument("--namespace", metavar="NAME", help=f"in a cluster: the agents' ({NAMESPACE})")
    run.add_argument("--kubeconfig", type=Path, metavar="FILE", help="in a cluster, outside a pod: how to reach it")
    run.add_argument(
        "--exchange-port",
        type=int,
        metavar="PORT",
        help="in a cluster: for the agents of other nodes (none: no exchange)",
    )
    run.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="ADDRESS:PORT",
        help=f"health, and without a cluster metrics, or off ({DEFAULT_LISTEN})",
    )
    run.add_argument("--metrics", metavar="ADDRESS:PORT", help=f"in a cluster: metrics, or off ({DEFAULT_METRICS})")
    run.add_argument(
        "--metrics-auth",
        choices=[*MetricsAuth],
        help=f"in a cluster: who may read the metrics ({MetricsAuth.KUBERNETES})",
    )
    run.add_argument(
        "--tls-dir", type=Path, metavar="DIR", help=f"in a cluster: the agents' certificate ({tls.DEFAULT})"
    )
    run.add_argument(
        "--loader",
        type=_loader,
        default=default_loader_name(),
        metavar="{libbpf,bcc}",
        help="who brings the programs into the kernel (PODWIRE_LOADER, else libbpf)",
    )
    run.add_argument(
        "--refs", type=Path, metavar="DIR", help="where cidrsFrom finds ConfigMaps, as DIR/configmaps/NAME/KEY"
    )
    run.add_argument("--keep", action="store_true", help="stay attached at the end; the next run goes on from there")
    run.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")

    validate = commands.add_parser("validate", help="check files without a cluster")
    validate.set_defaults(command=_validate)
    validate.add_argument("file", type=Path, nargs="+", metavar="FILE")

    examine = commands.add_parser("doctor", parents=[place], help="what this node offers and would be watched")
    examine.set_defaults(command=_doctor)
    examine.add_argument("--file", type=Path, help="a NetworkMonitor whose choice of interfaces to try")
    examine.add_argument("--json", action="store_true", help="for machines")

    get = commands.add_parser("get", help="what the agent of this node knows now, as JSON lines")
    get.set_defaults(command=_get)
    get.add_argument("what", choices=["flows", "edges", "interfaces"])
    get.add_argument("--monitor", metavar="NAME", help="of this monitor alone")
    get.add_argument("--namespace", metavar="NAME", help="flows and edges with an end in it")
    get.add_argument("--workload", metavar="NAME", help="flows and edges with it at an end")
    get.add_argument("--limit", type=int, metavar="LINES", help="at most so many, the largest first (1000)")
    get.add_argument(
        "--state-dir", type=Path, default=state.DEFAULT, metavar="DIR", help=f"the agent's ({state.DEFAULT})"
    )

    remove = commands.add_parser("cleanup", parents=[place], help="remove what Podwire left on this node")
    remove.set_defaults(command=_cleanup)
    remove.add_argument("--monitor", metavar="NAME", help="only what this monitor of a file left")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
