"""What can go wrong, by meaning. Converted once at the edge where it happens, with `raise ... from`.

Every message says what was attempted, on what, what the system said, and what to do.
"""

from __future__ import annotations


class PodwireError(Exception):
    """Any error of the agent that a person can act on."""


class ResourceError(PodwireError):
    """The NetworkMonitor cannot be run: unreadable, invalid, or asks for what is not built."""


class UsageError(PodwireError):
    """The command line contradicts itself."""


class StateError(PodwireError):
    """The state directory or the pins are in use, unreadable, or of somebody else."""


class KernelError(PodwireError):
    """The kernel refused something: a capability, a feature, a limit."""


class LoadError(KernelError):
    """The object file could not be read or the kernel did not accept the program."""


class AttachError(KernelError):
    """The program could not be put on an interface."""


class InterfaceGone(AttachError):
    """The interface went away while it was worked on: not a failure."""


class SinkClosed(PodwireError):
    """Nobody takes the reports of a sink any more."""


class EndpointError(PodwireError):
    """The local HTTP endpoint cannot listen where it was told to."""


class MonitorUnknown(PodwireError):
    """Metrics of a monitor were asked for that this agent does not serve."""


class ClusterError(PodwireError):
    """The API server refused or did not answer."""

    def __init__(self, status: int | None, message: str) -> None:
        """`status`: of HTTP; None where there was no answer, or one that could not be understood."""
        super().__init__(message)
        self.status = status

    @property
    def denied(self) -> bool:
        """Who we are, or what we may do, is not (any more) known to the server."""
        return self.status in {401, 403}


class ExchangeError(PodwireError):
    """The agents' exchange cannot listen, or has no certificate."""
