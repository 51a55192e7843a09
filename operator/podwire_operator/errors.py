"""What can go wrong, by meaning. Converted once at the edge where it happens, with `raise ... from`.

Every message says what was attempted, on what, what the system said, and what to do.
"""

from __future__ import annotations

from http import HTTPStatus


class OperatorError(Exception):
    """Any error of the operator that a person can act on."""


class SettingsError(OperatorError):
    """The command line, the environment or the credentials cannot be used."""


class EndpointError(OperatorError):
    """The HTTP endpoint cannot listen where it was told to."""


class CertificateError(OperatorError):
    """A stored certificate or key cannot be used."""


class ClusterError(OperatorError):
    """The API server refused or did not answer."""

    def __init__(self, message: str, status: int | None = None, said: str = "") -> None:
        """`status`: of HTTP; None where there was no answer. `said`: the server's own words."""
        super().__init__(message)
        self.status = status
        self.said = said or message

    @property
    def unanswered(self) -> bool:
        """No answer, or one that says to come again: an outage, not a refusal."""
        busy = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
        return self.status is None or self.status in busy

    @property
    def missing(self) -> bool:
        """The object, or its kind, is not there."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def conflict(self) -> bool:
        """Somebody else was first: read again and try again."""
        return self.status == HTTPStatus.CONFLICT

    @property
    def refused(self) -> bool:
        """Trying the same again is in vain until somebody changes something.

        A field that the server's schema does not know comes back as 500, "failed to create typed patch object".
        """
        if self.status is None or self.conflict or self.unanswered:
            return False
        return self.status < HTTPStatus.INTERNAL_SERVER_ERROR or "typed patch" in self.said


class NotLeading(ClusterError):
    """A write was held back: another replica may be leading by now."""
