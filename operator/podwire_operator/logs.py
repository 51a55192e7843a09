"""Lines of the log: JSON for machines, text for people; kopf's own in the same form."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from podwire_operator.settings import LogFormat

FIELDS = "fields"
"""Of a record: what belongs to the message besides its words, as in `log.info(..., extra=fields(monitor=name))`."""

MAX_MESSAGE = 4096

QUIET = {
    "kopf.objects": logging.WARNING,  # a line for each event it hands on
    "kopf._cogs.clients": logging.CRITICAL,  # a line for each request of an outage, which the election tells once
    # Tracebacks of what handlers.py tells in a line; and that it does not get the signals, which are not its business.
    "kopf._core.reactor": logging.CRITICAL,
    "kopf._core.engines": logging.WARNING,  # that it logs in
    "kopf.activities": logging.WARNING,
    "aiohttp.access": logging.WARNING,
}


def fields(**values: str | float | None) -> dict[str, dict[str, str | float | None]]:
    """For `extra=` of a logging call."""
    return {FIELDS: values}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what belongs to it, and the traceback of the unexpected."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_MESSAGE],
        }
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """Time, level and message, then what belongs to it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is the base class's)
        """The line, without its end."""
        more = "".join(f" {key}={value}" for key, value in getattr(record, FIELDS, {}).items())
        return super().formatMessage(record) + more


def configure(level: str, form: LogFormat, stream: TextIO = sys.stderr) -> None:
    """All logging of the process from now on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form is LogFormat.JSON else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    if root.level > logging.DEBUG:
        for name, threshold in QUIET.items():
            logging.getLogger(name).setLevel(threshold)
