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

import msgspec

from podwire_agent import __version__, doctor, state
from podwire_agent.agent import Agent, selector_of
from podwire_agent.cleanup import clean
from podwire_agent.errors import PodwireError, ResourceError
from podwire_agent.kernel import bpffs
from podwire_agent.kernel.cni import Selector
from podwire_agent.settings import DEFAULT_LISTEN, LoaderName, Settings, default_loader_name, default_objects
from podwire_agent.unbuilt import refusals, switched_off
from podwire_api import InvalidResource, NetworkMonitor, load_file, notes, parse_duration

log = logging.getLogger("podwire_agent")

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
    except ResourceError as error:
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
    monitors = _load(options.file)
    refused = [line for monitor in monitors for line in refusals(monitor)]
    if refused:
        more = f"\n... and {len(refused) - 2} more" if len(refused) > 2 else ""
        raise ResourceError("\n".join(refused[:2]) + more)
    for monitor in monitors:
        for line in switched_off(monitor):
            log.info("monitor %s: %s", monitor.metadata.name, line)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Agent(monitors, _settings(options), stop) as agent:
        stop.wait(options.duration)
    return FAILED if agent.failed else 0


def _load(paths: Sequence[Path]) -> list[NetworkMonitor]:
    monitors = [monitor for path in paths for monitor in load_file(path)]
    names = [monitor.metadata.name for monitor in monitors]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ResourceError(f"metadata.name: {twice} is in two of the files; each monitor needs a name of its own")
    return monitors


def _validate(options: argparse.Namespace) -> int:
    code = 0
    for path in options.file:
        try:
            monitors = load_file(path)
        except InvalidResource as error:
            for problem in error.problems:
                print(problem)
            code = BAD_INPUT
            continue
        for monitor in monitors:
            print(f"{path}: NetworkMonitor {monitor.metadata.name} is valid")
            for line in [*notes(monitor), *refusals(monitor)]:
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
    run.add_argument("--file", type=Path, action="append", required=True, help="a NetworkMonitor; may be given again")
    run.add_argument("--duration", type=_seconds, metavar="30s", help="end by itself after so long")
    run.add_argument("--node", metavar="NAME", help="the node's name in reports (the host's name)")
    run.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="ADDRESS:PORT",
        help=f"health and metrics, or off ({DEFAULT_LISTEN})",
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

    remove = commands.add_parser("cleanup", parents=[place], help="remove what Podwire left on this node")
    remove.set_defaults(command=_cleanup)
    remove.add_argument("--monitor", metavar="NAME", help="only what this monitor of a file left")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
