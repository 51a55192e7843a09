"""podwire-operator: the command, its messages and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from podwire_operator import __version__, logs, replica
from podwire_operator.errors import OperatorError, SettingsError
from podwire_operator.settings import (
    DEFAULT_LISTEN,
    LogFormat,
    Settings,
    default_agent_image,
    default_namespace,
    identity,
    parse_listen,
)

FAILED = 1
BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except SettingsError as error:
        print(f"podwire-operator: {error}", file=sys.stderr)
        return BAD_INPUT
    except OperatorError as error:
        print(f"podwire-operator: {error}", file=sys.stderr)
        return FAILED
    return code


def _run(options: argparse.Namespace) -> int:
    logs.configure(options.log_level, LogFormat(options.log_format))
    if options.listen != "off":
        parse_listen(options.listen)
    settings = Settings(
        agent_image=options.agent_image,
        namespace=options.namespace,
        identity=identity(),
        kubeconfig=options.kubeconfig,
        listen=options.listen,
    )
    asyncio.run(replica.run(settings))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podwire-operator", description="Puts Podwire's agents on nodes, and tells what became of each monitor."
    )
    parser.add_argument("--version", action="version", version=f"podwire-operator {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="until SIGTERM")
    run.set_defaults(command=_run)
    run.add_argument(
        "--agent-image",
        default=default_agent_image(),
        metavar="IMAGE",
        help="of pools that name none (PODWIRE_AGENT_IMAGE, else %(default)s)",
    )
    run.add_argument(
        "--namespace",
        default=default_namespace(),
        help="of agents, Lease and Secrets (POD_NAMESPACE, else %(default)s)",
    )
    run.add_argument("--kubeconfig", type=Path, metavar="FILE", help="outside a cluster: how to reach it")
    run.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="ADDRESS:PORT",
        help="health and metrics, or off (%(default)s)",
    )
    run.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    run.add_argument("--log-format", choices=[each.value for each in LogFormat], default=LogFormat.JSON.value)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
