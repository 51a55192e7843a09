"""HTTP/1.1 as far as the exchange speaks it, from bytes as they come and into bytes. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from podwire_agent.exchange.messages import BODY_LIMIT, CONTENT_TYPE, PATH, Refusal, Refused

HEAD_LIMIT = 4096
"""Request line and header fields."""


@dataclass(frozen=True, slots=True)
class Head:
    """Of a request for PATH."""

    length: int
    """Of its body."""
    close: bool
    """The connection ends with the answer."""


class RequestReader:
    """One request after another, out of one connection."""

    def __init__(self) -> None:
        self.head: Head | None = None
        """Of the request that is under way, once it is complete."""
        self._buffer = bytearray()

    @property
    def begun(self) -> bool:
        """Something of a request is there."""
        return bool(self._buffer) or self.head is not None

    def feed(self, data: bytes) -> None:
        """What came. Refused: the connection cannot go on."""
        self._buffer += data
        if self.head is None:
            end = self._buffer.find(b"\r\n\r\n", 0, HEAD_LIMIT)
            if end < 0:
                if len(self._buffer) >= HEAD_LIMIT:
                    raise Refused(Refusal.LONG_HEAD, f"the header is longer than {HEAD_LIMIT} bytes")
                return
            self.head = _head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]

    def take(self) -> bytes | None:
        """The body, once it is whole; then the next request begins."""
        if self.head is None or len(self._buffer) < self.head.length:
            return None
        body = bytes(self._buffer[: self.head.length])
        del self._buffer[: self.head.length]
        self.head = None
        self.feed(b"")  # the next one's head may be there
        return body


def response(status: HTTPStatus, body: bytes, content_type: str = CONTENT_TYPE, *, close: bool) -> bytes:
    """A whole answer."""
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return (head + ("Connection: close\r\n\r\n" if close else "\r\n")).encode() + body


def refusal(refused: Refused) -> bytes:
    """The answer to what is refused; the connection ends where nobody can tell where the next request begins."""
    words = f"{refused}\n".encode(errors="backslashreplace")
    return response(refused.refusal.value, words, "text/plain; charset=utf-8", close=True)


def _head(text: bytes) -> Head:
    first, *lines = text.split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        raise Refused(Refusal.MALFORMED, "not an HTTP/1.1 request")
    if parts[1] != PATH.encode():
        raise Refused(Refusal.NOT_FOUND, f"there is nothing but {PATH} here")
    if parts[0] != b"POST":
        raise Refused(Refusal.METHOD, f"only POST is taken at {PATH}")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or name.lower() in fields:
            raise Refused(Refusal.MALFORMED, "a header field is damaged or comes twice")
        fields[name.lower()] = value.strip()
    length = fields.get(b"content-length", b"")
    if b"transfer-encoding" in fields or not (length.isdigit() and len(length) <= 18):
        raise Refused(Refusal.NO_LENGTH, "a body needs a Content-Length")
    if int(length) > BODY_LIMIT:
        raise Refused(Refusal.TOO_LARGE, f"a body of {int(length)} bytes; at most {BODY_LIMIT} are taken")
    close = fields.get(b"connection", b"").lower() == b"close" or parts[2] == b"HTTP/1.0"
    return Head(int(length), close)
