"""Who may read /metrics: asked of the API server, as controllers do, and remembered for a short time.

TokenReview says whose token it is, SubjectAccessReview whether that one may `get` the path. A flood of strange tokens
neither reaches the API server as one, nor drives out what is known of the good ones.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import msgspec

from podwire_agent.errors import ClusterError

log = logging.getLogger(__name__)

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 (a path)
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

ALLOWED_S = 60.0
"""A yes is asked for again after this."""
REFUSED_S = 10.0
"""A no: who was just given the right need not wait long."""
AWAY_S = 600.0
"""While the API server does not answer, a yes holds so long since it was given."""
ALLOWED_KEPT = 64
REFUSED_KEPT = 256
REVIEWS_AT_ONCE = 2
REVIEW_S = 3.0
"""For one request to the API server, and for the wait for one's turn."""
STRANGERS_A_SECOND = 5.0
"""Tokens not known to be good that are asked about, on average; those that are known are asked about in any case."""
STRANGERS_AT_ONCE = 20.0
LOG_EVERY_S = 60.0


class Verdict(Enum):
    """May the bearer of a token read?"""

    ALLOWED = "allowed"
    STRANGER = "stranger"
    """The cluster does not know the token, any more or at all."""
    FORBIDDEN = "forbidden"
    """It is known whose it is, and that one has no right to."""
    UNKNOWN = "unknown"
    """The API server does not say, or is not asked so often."""


class Requests(Protocol):
    """What is needed of a Connection."""

    def request(self, method: str, path: str, *, body: bytes | None = None, timeout_s: float = 10.0) -> bytes:
        """The answer's body. ClusterError."""


class _User(msgspec.Struct, omit_defaults=True, gc=False):
    """authentication/v1 UserInfo, which is what a SubjectAccessReview wants to be told."""

    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class _Known(msgspec.Struct, gc=False):
    """authentication/v1 TokenReviewStatus."""

    authenticated: bool = False
    user: _User = msgspec.field(default_factory=_User)


class _Allowed(msgspec.Struct, gc=False):
    """authorization/v1 SubjectAccessReviewStatus."""

    allowed: bool = False


class _TokenReview(msgspec.Struct, gc=False):
    status: _Known = msgspec.field(default_factory=_Known)


class _AccessReview(msgspec.Struct, gc=False):
    status: _Allowed = msgspec.field(default_factory=_Allowed)


@dataclass(frozen=True, slots=True)
class _Remembered:
    verdict: Verdict
    at_s: float


class Access:
    """To one path. Safe for threads; `verdict` may wait for the API server, some seconds at most."""

    def __init__(
        self, connection: Requests, path: str = "/metrics", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` in seconds."""
        self._connection = connection
        self._path = path
        self._clock = clock
        self._salt = secrets.token_bytes(16)
        self._turns = threading.Semaphore(REVIEWS_AT_ONCE)
        self._lock = threading.Lock()
        self._allowed: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._refused: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._strangers = STRANGERS_AT_ONCE
        """That may be asked about now."""
        self._strangers_at_s = clock()
        self._reviews: Counter[str] = Counter()
        self._logged_s = -LOG_EVERY_S

    def reviews(self) -> Mapping[str, int]:
        """What became of the questions: a Verdict's value, or "skipped" where there were too many."""
        with self._lock:
            return dict(self._reviews)

    def verdict(self, token: str) -> Verdict:
        """Of the one who bears this token. The token itself is not kept, only what it hashes to."""
        digest = hashlib.blake2b(token.encode(errors="surrogateescape"), key=self._salt).digest()
        if (remembered := self._remembered(digest)) is not None:
            return remembered
        if not self._turns.acquire(timeout=REVIEW_S):
            return self._unanswered(digest, "skipped")
        try:
            # Somebody else may have asked the same meanwhile.
            if (remembered := self._remembered(digest)) is not None:
                return remembered
            if not self._may_ask(digest):
                return self._unanswered(digest, "skipped")
            try:
                found = self._reviewed(token)
            except (ClusterError, msgspec.MsgspecError) as error:
                self._complain(error)
                return self._unanswered(digest, Verdict.UNKNOWN.value)
            self._remember(digest, found)
            return found
        finally:
            self._turns.release()

    def _remembered(self, digest: bytes) -> Verdict | None:
        """What is known and recent enough."""
        with self._lock:
            for kept, limit_s in ((self._allowed, ALLOWED_S), (self._refused, REFUSED_S)):
                entry = kept.get(digest)
                if entry is not None and self._clock() - entry.at_s < limit_s:
                    kept.move_to_end(digest)
                    return entry.verdict
        return None

    def _unanswered(self, digest: bytes, outcome: str) -> Verdict:
        """A former yes holds on for a while."""
        with self._lock:
            self._reviews[outcome] += 1
            entry = self._allowed.get(digest)
            if entry is not None and self._clock() - entry.at_s < AWAY_S:
                return Verdict.ALLOWED
        return Verdict.UNKNOWN

    def _may_ask(self, digest: bytes) -> bool:
        with self._lock:
            if digest in self._allowed:
                return True
            now_s = self._clock()
            gained = (now_s - self._strangers_at_s) * STRANGERS_A_SECOND
            self._strangers = min(STRANGERS_AT_ONCE, self._strangers + gained)
            self._strangers_at_s = now_s
            if self._strangers < 1:
                return False
            self._strangers -= 1
            return True

    def _remember(self, digest: bytes, verdict: Verdict) -> None:
        with self._lock:
            self._reviews[verdict.value] += 1
            self._allowed.pop(digest, None)
            self._refused.pop(digest, None)
            allowed = verdict is Verdict.ALLOWED
            kept, limit = (self._allowed, ALLOWED_KEPT) if allowed else (self._refused, REFUSED_KEPT)
            kept[digest] = _Remembered(verdict, self._clock())
            while len(kept) > limit:
                kept.popitem(last=False)

    def _reviewed(self, token: str) -> Verdict:
        """By the API server. ClusterError, MsgspecError."""
        said = self._post(TOKEN_REVIEWS, "authentication.k8s.io/v1", "TokenReview", {"token": token})
        known = msgspec.json.decode(said, type=_TokenReview).status
        if not known.authenticated:
            return Verdict.STRANGER
        user = known.user
        spec = {
            "nonResourceAttributes": {"path": self._path, "verb": "get"},
            "user": user.username,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
        }
        said = self._post(ACCESS_REVIEWS, "authorization.k8s.io/v1", "SubjectAccessReview", spec)
        allowed = msgspec.json.decode(said, type=_AccessReview).status.allowed
        return Verdict.ALLOWED if allowed else Verdict.FORBIDDEN

    def _post(self, path: str, version: str, kind: str, spec: Mapping[str, Any]) -> bytes:
        body = msgspec.json.encode({"apiVersion": version, "kind": kind, "spec": spec})
        return self._connection.request("POST", path, body=body, timeout_s=REVIEW_S)

    def _complain(self, error: Exception) -> None:
        with self._lock:
            now_s = self._clock()
            if now_s - self._logged_s < LOG_EVERY_S:
                return
            self._logged_s = now_s
        log.warning("who reads %s cannot be asked of the API server: %s", self._path, error)
