from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from podwire_agent.exchange import client, identity
from podwire_agent.exchange.client import ExchangeClient
from podwire_agent.exchange.messages import RECORDS_LIMIT
from podwire_agent.exchange.server import ExchangeServer
from podwire_agent.statements import Status
from podwire_operator.certificates import CA_LIFE, OVERLAP
from tests.unit.exchange.agents import (
    SHOP,
    SOON_S,
    Installation,
    Secret,
    Shifted,
    Taker,
    answered,
    sender,
    serving,
    statements,
    until,
)

pytestmark = pytest.mark.unit


def speaking(secret: Secret, port: int, clock: Shifted | None = None) -> ExchangeClient:
    return ExchangeClient(secret.identity(), lambda _: ("127.0.0.1", port), clock or Shifted())


def test_what_is_said_is_answered_record_by_record(secret: Secret, served: ExchangeServer, taker: Taker) -> None:
    said = statements(RECORDS_LIMIT + 5)
    with speaking(secret, served.port) as speaker:
        speaker.post(sender(), [said])
        answer = answered(speaker.answers)
        assert speaker.answers(SHOP) == []
    assert answer.statements is said
    assert (answer.statuses == Status.TAKEN).all()
    assert (answer.boot_id, answer.clock_fits, answer.visible) == ("boot-b", True, True)
    assert np.array_equal(np.concatenate([taken["packets"] for _, taken in taker.taken]), said.records["packets"])


def test_one_connection_serves_every_cut(secret: Secret, served: ExchangeServer) -> None:
    with speaking(secret, served.port) as speaker:
        for _ in range(5):
            speaker.post(sender(), [statements(3)])
            answered(speaker.answers)
        assert served.state().connections == 1


def test_it_is_told_where_nothing_can_be_seen(secret: Secret, served: ExchangeServer, taker: Taker) -> None:
    taker.visible = False
    with speaking(secret, served.port) as speaker:
        speaker.post(sender(), [statements(3)])
        assert not answered(speaker.answers).visible


@pytest.mark.parametrize(("wall_s", "fits"), [(0.02, True), (-0.05, True), (0.5, False), (-0.5, False)])
def test_clocks_that_differ_are_measured(secret: Secret, taker: Taker, wall_s: float, fits: bool) -> None:
    with (
        serving(secret, taker, clock=Shifted(mono_s=1000, wall_s=wall_s)) as served,
        speaking(secret, served.port) as speaker,
    ):
        speaker.post(sender(), [statements(3)])
        answer = answered(speaker.answers)
        peer = speaker.state().peers["node-b"]
    [(envelope, _)] = taker.taken
    assert answer.clock_fits is fits
    assert abs(peer.offset_ns - wall_s * 1e9) < 30e6
    assert abs(envelope.offset_ns - 1000e9) <= envelope.error_ns
    assert envelope.offset_ns - envelope.error_ns <= envelope.latest_offset_ns


def test_a_peer_that_has_booted_is_asked_for_its_new_time(secret: Secret, taker: Taker) -> None:
    ports: list[int] = []
    with ExchangeClient(secret.identity(), lambda _: ("127.0.0.1", ports[-1]), Shifted()) as speaker:
        for boot, mono_s in (("boot-b", 5000.0), ("boot-c", 3.0)):
            with serving(secret, taker, boot, Shifted(mono_s=mono_s)) as served:
                ports.append(served.port)
                deadline = time.monotonic() + 2 * SOON_S
                while (answers := speaker.answers(SHOP)) == []:
                    assert time.monotonic() < deadline
                    speaker.post(sender(), [statements(1)])
                    time.sleep(0.05)
                assert answers[0].boot_id == boot
    offsets = [envelope.offset_ns / 1e9 for envelope, _ in taker.taken]
    assert offsets[0] == pytest.approx(5000, abs=1)
    assert offsets[-1] == pytest.approx(3, abs=1)
    assert all(abs(each - 5000) < 1 or abs(each - 3) < 1 for each in offsets)


def test_a_dead_peer_holds_up_nobody_and_is_left_alone_for_longer_and_longer(
    secret: Secret, served: ExchangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 0.5)
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        addresses = {
            "node-b": ("127.0.0.1", served.port),
            "silent": silent.getsockname()[:2],
            "closed": ("127.0.0.1", 1),
        }
        speaker = stack.enter_context(ExchangeClient(secret.identity(), addresses.get, Shifted()))
        dead = [statements(1, node) for node in ("silent", "closed", "unknown")]
        speaker.post(sender(), [*dead, statements(1)])
        answered(speaker.answers)
        until(lambda: speaker.state().failures_total == {"unreachable": 3}, "not counted")
        speaker.post(sender(), [*dead, statements(1)])
        answered(speaker.answers)
        assert speaker.state().failures_total == {"unreachable": 3}


def test_an_impostor_is_told_nothing(secret: Secret, tmp_path: Path, taker: Taker) -> None:
    other = Secret(tmp_path / "other")
    other.write(Installation().reconcile())
    with serving(other, taker) as served, speaking(secret, served.port) as speaker:
        speaker.post(sender(), [statements(1)])
        until(lambda: speaker.state().failures_total == {"unreachable": 1}, "not counted")
    assert taker.taken == []


def test_the_newest_statements_stand_for_those_that_wait(secret: Secret, served: ExchangeServer, taker: Taker) -> None:
    held = [True]

    def hold() -> None:
        until(lambda: not held[0], "held for too long")

    taker.before = hold
    with speaking(secret, served.port) as speaker:
        speaker.post(sender(), [statements(1)])
        until(lambda: speaker._busy == {"node-b"}, "not begun")
        for count in (2, 3, 4):
            speaker.post(sender(), [statements(count)])
        held[0] = False
        until(lambda: len(taker.taken) == 2, "not said")
        assert [len(taken) for _, taken in taker.taken] == [1, 4]


def test_what_a_monitor_said_ends_with_it(secret: Secret, served: ExchangeServer) -> None:
    with speaking(secret, served.port) as speaker:
        speaker.post(sender(), [statements(1)])
        until(lambda: served.state().records_total == 1, "not said")
        until(lambda: not speaker._busy, "still busy")
        speaker.forget(SHOP)
        assert speaker.answers(SHOP) == []


def test_certificates_are_renewed_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taker: Taker) -> None:
    """A life of a CA, in the operator's steps; the two agents read each state at different times."""
    monkeypatch.setattr(identity, "LOOK_S", 0.0)
    installation = Installation()
    installation.now -= CA_LIFE * 0.7 + 2 * OVERLAP
    installation.reconcile()
    installation.now += CA_LIFE * 0.7
    one, other = Secret(tmp_path / "one"), Secret(tmp_path / "other")
    states = [installation.reconcile(later) for later in (timedelta(), OVERLAP, OVERLAP)]
    assert [state["ca.crt"].count(b"BEGIN") for state in states] == [2, 2, 1]
    assert states[0]["tls.crt"] != states[1]["tls.crt"]
    one.write(states[0])
    other.write(states[0])
    served_with, speaks_with = other.identity(), one.identity()
    with (
        ExchangeServer(("127.0.0.1", 0), served_with, "boot-b", lambda _: taker, Shifted()) as served,
        ExchangeClient(speaks_with, lambda _: ("127.0.0.1", served.port), Shifted()) as speaker,
    ):
        for state in states:
            for side in (one, other):
                side.write(state)
                for _ in range(5):
                    speaker.post(sender(), [statements(10)])
                    answered(speaker.answers)
        assert speaker.state().failures_total == {}
        assert served.state().refused_total == {}
        assert served.state().handshakes_failed_total == 0
        assert min(served_with.renewals_total, speaks_with.renewals_total) >= 2


def test_certificates_that_are_damaged_leave_the_former_in_use(
    secret: Secret, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "LOOK_S", 0.0)
    ours = secret.identity()
    good = ours.contexts()
    secret.write({**installation.reconcile(), "tls.key": b"nothing"})
    assert ours.contexts() is good
    assert ours.failures_total == 1
    secret.write(installation.reconcile())
    assert ours.contexts().number == good.number + 1
