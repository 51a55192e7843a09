"""Which pod had an address, and when: so that one that is given again is charged to whoever had it at that time.

A pod has its address earlier than the API server tells so, and has lost it earlier than it tells that. What is known
for sure of an address that went from one pod to the next:

- the former had it until the next one can have had it at the earliest: when its node took that one on;
- the next one has it from when the former was seen to be over (its phase, or another address in its status: a node
  tells either only once the pod's network is gone). Where the former merely vanished, as after a forced deletion, it
  may have gone on for a while: then from when the next one was seen with the address.

In between the address is nobody's, and so it is while two pods are seen to have it: one of them has lost it. Times are
CLOCK_MONOTONIC, ns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import chain

from podwire_agent.kube.objects import Pod

ALWAYS = (1 << 64) - 1
"""Later than any time."""
FORMER_LIMIT = 8192
"""Addresses of former holders that are remembered; the ones that left first are forgotten first."""


@dataclass(slots=True, eq=False)
class Tenure:
    """One pod's time with a key."""

    key: bytes
    """An address, a port at an address (objects.port_bytes), or whatever one pod has at a time."""
    pod: Pod
    """As it was last in view."""
    start_mono_ns: int
    """It has it for sure from then on..."""
    end_mono_ns: int = ALWAYS
    """... until then, for a next one may have it afterwards."""
    left_mono_ns: int = ALWAYS
    """When it was seen no more to have it; until then at least."""
    over: bool = False
    """When it left, it had lost it for sure."""


@dataclass(frozen=True, slots=True)
class Held:
    """All tenures at one moment, by columns."""

    keys: list[bytes]
    pods: list[Pod]
    starts_mono_ns: list[int]
    ends_mono_ns: list[int]
    lefts_mono_ns: list[int]


class Tenures:
    """Not for several threads at once."""

    def __init__(self) -> None:
        self.version = 0
        """Grows when a key changes hands."""
        self.forgotten_total = 0
        """Tenures that were given up sooner than asked for, since there were too many."""
        self._last: dict[bytes, Tenure] = {}
        self._earlier: dict[bytes, list[Tenure]] = {}
        """Those before the last one."""
        self._left: deque[tuple[int, Tenure]] = deque()
        """In the order in which they left, with the time: one that came back may be here twice."""
        self._contested: dict[bytes, dict[str, Pod]] = {}
        """Keys that several pods are seen to have; the pods by uid."""

    def __len__(self) -> int:
        return len(self._last) + sum(map(len, self._earlier.values()))

    def holder(self, key: bytes) -> Pod | None:
        """The pod that has it now; of several the one that was seen last to have got it."""
        tenure = self._last.get(key)
        return tenure.pod if tenure is not None and tenure.left_mono_ns == ALWAYS else None

    def last(self, key: bytes) -> Tenure | None:
        """The newest one, over or not."""
        return self._last.get(key)

    def hold(self, key: bytes, pod: Pod, now_mono_ns: int, earliest_mono_ns: int) -> None:
        """From now on it is seen to be this pod's, which cannot have had it before `earliest_mono_ns`."""
        self.version += 1
        last = self._last.get(key)
        if last is None:
            self._last[key] = Tenure(key, pod, earliest_mono_ns)
            return
        if last.pod.uid == pod.uid:
            last.pod, last.end_mono_ns, last.left_mono_ns, last.over = pod, ALWAYS, ALWAYS, False
            return
        self._cut(key, earliest_mono_ns)
        start_mono_ns = max(last.left_mono_ns if last.over else now_mono_ns, last.end_mono_ns)
        if last.left_mono_ns == ALWAYS:
            self._contested.setdefault(key, {last.pod.uid: last.pod})[pod.uid] = pod
            start_mono_ns = ALWAYS
        self._succeed(last, Tenure(key, pod, start_mono_ns), now_mono_ns)

    def leave(self, key: bytes, uid: str, now_mono_ns: int, *, over: bool) -> None:
        """The pod is not seen to have it any more, if it was; `over`: it has lost it for sure."""
        last = self._last.get(key)
        if last is None:
            return
        if last.pod.uid == uid and last.left_mono_ns == ALWAYS:
            self.version += 1
            last.over = over
            self._let_go(last, now_mono_ns)
        claims = self._contested.get(key, {})
        if claims.pop(uid, None) is not None and len(claims) == 1:
            self.version += 1
            del self._contested[key]
            [pod] = claims.values()
            self._settle(last, pod, now_mono_ns)

    def begin(self, key: bytes, since_mono_ns: int) -> None:
        """Whoever has it had it for sure from then on only."""
        last = self._last.get(key)
        if last is not None:
            last.start_mono_ns = max(last.start_mono_ns, since_mono_ns)

    def end(self, key: bytes, uid: str, until_mono_ns: int) -> None:
        """The pod, which has left, had it for sure until then only."""
        last = self._last.get(key)
        if last is not None and last.pod.uid == uid:
            last.end_mono_ns = max(min(last.end_mono_ns, until_mono_ns), last.start_mono_ns)

    def doubt(self, key: bytes, since_mono_ns: int, until_mono_ns: int) -> None:
        """Whose it was meanwhile is not known."""
        last = self._last.get(key)
        if last is None or last.start_mono_ns >= until_mono_ns:
            return
        self.version += 1
        self._cut(key, since_mono_ns)
        last.start_mono_ns = until_mono_ns
        last.end_mono_ns = ALWAYS if last.left_mono_ns == ALWAYS else until_mono_ns

    def renew(self, key: bytes, pod: Pod) -> None:
        """The pod that has it is this now: the former state of it need not be kept."""
        last = self._last.get(key)
        if last is not None and last.pod.uid == pod.uid:
            last.pod = pod
        if pod.uid in (claims := self._contested.get(key, {})):
            claims[pod.uid] = pod

    def forget(self, before_mono_ns: int) -> None:
        """Those that left before."""
        while self._left and (self._left[0][0] < before_mono_ns or len(self._left) > FORMER_LIMIT):
            left_mono_ns, tenure = self._left.popleft()
            if tenure.left_mono_ns != left_mono_ns:
                continue  # it came back
            self.version += 1
            self.forgotten_total += left_mono_ns >= before_mono_ns
            if self._last.get(tenure.key) is tenure:
                del self._last[tenure.key]
            elif (earlier := self._earlier.get(tenure.key)) is not None:
                earlier.remove(tenure)
                if not earlier:
                    del self._earlier[tenure.key]

    def held(self) -> Held:
        """All of them, those that are over too, in no order."""
        tenures = [*self._last.values(), *chain.from_iterable(self._earlier.values())]
        return Held(
            keys=[each.key for each in tenures],
            pods=[each.pod for each in tenures],
            starts_mono_ns=[each.start_mono_ns for each in tenures],
            ends_mono_ns=[each.end_mono_ns for each in tenures],
            lefts_mono_ns=[each.left_mono_ns for each in tenures],
        )

    def _settle(self, last: Tenure, pod: Pod, now_mono_ns: int) -> None:
        """Of several pods one is left."""
        if last.pod.uid == pod.uid:
            last.start_mono_ns = now_mono_ns
        else:
            last.end_mono_ns = max(min(last.end_mono_ns, now_mono_ns), last.start_mono_ns)
            self._succeed(last, Tenure(last.key, pod, max(now_mono_ns, last.end_mono_ns)), now_mono_ns)

    def _succeed(self, last: Tenure, new: Tenure, now_mono_ns: int) -> None:
        if last.left_mono_ns == ALWAYS:
            self._let_go(last, now_mono_ns)
        self._earlier.setdefault(new.key, []).append(last)
        self._last[new.key] = new

    def _cut(self, key: bytes, until_mono_ns: int) -> None:
        """Another one may have had it from then on."""
        for each in (*self._earlier.get(key, ()), self._last[key]):
            each.end_mono_ns = max(min(each.end_mono_ns, until_mono_ns), each.start_mono_ns)

    def _let_go(self, tenure: Tenure, now_mono_ns: int) -> None:
        tenure.left_mono_ns = now_mono_ns
        self._left.append((now_mono_ns, tenure))
