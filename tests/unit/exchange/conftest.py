"""An installation with its certificates, and a server that takes what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire_agent.exchange.server import ExchangeServer
from tests.unit.exchange.agents import Installation, Secret, Taker, serving


@pytest.fixture
def installation() -> Installation:
    return Installation()


@pytest.fixture
def secret(tmp_path: Path, installation: Installation) -> Secret:
    secret = Secret(tmp_path / "tls")
    secret.write(installation.reconcile())
    return secret


@pytest.fixture
def taker() -> Taker:
    return Taker()


@pytest.fixture
def served(secret: Secret, taker: Taker) -> Iterator[ExchangeServer]:
    with serving(secret, taker) as served:
        yield served
