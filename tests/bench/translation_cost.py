"""What services cost: finding flows among translated connections, and following these.

CPU of the thread, so that what else runs counts only by the caches it fills.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing

import numpy as np

from podwire_agent.clock import SystemClock
from podwire_agent.core.translation_table import TranslationTable
from podwire_agent.kernel.conntrack_messages import mirrored
from podwire_agent.model import CONNECTION, TUPLE, Records
from podwire_agent.translating import Conntrack
from tests.bench.figures import Figure
from tests.kernel.netns import Host
from tests.kernel.services import SERVICE, SERVICE_PORT, Server, as_a_node, connected, forget_connections, translate

ROUNDS = 15
CONNECTIONS = 100_000
FLOWS = 100_000
CHANGES = 5000
REAL = 2000

LOOK_UP_BUDGET_MS = 30.0
NS_PER_S = 10**9


def cost() -> list[Figure]:
    """RuntimeError, OSError."""
    return [_look_up(), *_change(), _follow()]


def _look_up() -> Figure:
    """Four forms alike: as the client sends, as the server receives, and the replies of both."""
    known = _connections(CONNECTIONS)
    table = TranslationTable(seed=1)
    table.replace(known, 0, NS_PER_S)
    translations = table.snapshot(NS_PER_S)
    order = np.random.default_rng(1).permutation(FLOWS)
    seen = np.zeros(FLOWS, TUPLE)
    original, translated = known["original"], known["translated"]
    for form, tuples in enumerate((original, translated, mirrored(original), mirrored(translated))):
        seen[form::4] = tuples[form::4]
    seen = seen[order]
    first, last = np.full(FLOWS, 2 * NS_PER_S, np.uint64), np.full(FLOWS, 3 * NS_PER_S, np.uint64)
    if not translations.of(seen, first, last).found.all():
        raise RuntimeError("a known connection was not found")
    times = [_elapsed(lambda: translations.of(seen, first, last)) for _ in range(ROUNDS)]
    detail = f"{FLOWS} flows, all found, among {CONNECTIONS} connections; median of {ROUNDS} {np.median(times):.1f}"
    return Figure("services looked up, 100 000 flows", min(times), "ms", LOOK_UP_BUDGET_MS, detail)


def _change() -> list[Figure]:
    """One look of a second in which that many begin and as many end."""
    table = TranslationTable(seed=1)
    known = _connections(CONNECTIONS + ROUNDS * CHANGES)
    table.replace(known[:CONNECTIONS], 0, NS_PER_S)
    times = []
    for number in range(ROUNDS):
        begin = CONNECTIONS + number * CHANGES
        begun, ended = known[begin : begin + CHANGES].copy(), known[number * CHANGES : (number + 1) * CHANGES].copy()
        for changes in (begun, ended):
            changes["after_mono_ns"], changes["until_mono_ns"] = (2 + number) * NS_PER_S, (3 + number) * NS_PER_S
        ended["ended"] = 1
        changes = np.zeros(2 * CHANGES, CONNECTION)
        changes[::2], changes[1::2] = begun, ended

        def look(changes: Records = changes, now: int = (3 + number) * NS_PER_S) -> None:
            table.change(changes)
            table.snapshot(now)

        times.append(_elapsed(look))
    detail = f"{CHANGES} begin and {CHANGES} end, {CONNECTIONS} known; best of {ROUNDS}, worst {max(times):.1f}"
    quiet = min(_elapsed(lambda: table.snapshot(20 * NS_PER_S)) for _ in range(ROUNDS))
    return [
        Figure("connections brought up to date", min(times), "ms", None, detail),
        Figure("connections, nothing new", quiet, "ms", None, f"{len(table)} known"),
    ]


def _follow() -> Figure:
    """The kernel's own events, from the socket to the table."""
    with Host(pods=2) as host:
        as_a_node(host)
        translate(host)
        client, backend = host.pods
        with host.namespace.entered():
            conntrack = Conntrack(SystemClock(), seed=1)
        with conntrack._held, closing(Server(backend)) as server:
            conntrack.translations()
            for _ in range(REAL):
                with connected(client, server, (SERVICE[socket.AF_INET], SERVICE_PORT)):
                    pass
            forget_connections(host.namespace)
            elapsed = _elapsed(conntrack.translations)
            figures = conntrack.figures
            if figures.overruns_total or figures.entries < REAL // 2:
                raise RuntimeError(f"not all events arrived: {figures}")
    detail = f"{REAL} connections begun and ended, received, decoded and brought up to date at once"
    return Figure("a connection followed", 1000 * elapsed / REAL, "us", None, detail)


def _connections(count: int) -> Records:
    """Of pods to a service with 200 backends."""
    number = np.arange(count)
    made = np.zeros(count, CONNECTION)
    for name in ("original", "translated"):
        tuples = made[name]
        tuples["src_address"][:, 10:] = tuples["dst_address"][:, 10:] = [255, 255, 10, 0, 0, 0]
        tuples["src_address"][:, 13], tuples["src_address"][:, 15] = 1, 1 + number // 20_000
        tuples["src_port"], tuples["protocol"] = 30_000 + number % 20_000, 6
    made["original"]["dst_address"][:, 13:], made["original"]["dst_port"] = [96, 0, 10], 80
    made["translated"]["dst_address"][:, 13] = 2
    made["translated"]["dst_address"][:, 15], made["translated"]["dst_port"] = number % 200, 8080
    return made


def _elapsed(function: Callable[[], object]) -> float:
    """CPU in ms."""
    begun = time.thread_time()
    function()
    return 1000 * (time.thread_time() - begun)
