"""Fixtures of the tests with real receivers: a host with pods and an agent, as the kernel tests have them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.agent_fixtures import bare_place as bare_place
from tests.kernel.agent_fixtures import place as place
from tests.kernel.netns import Host, remove_leftovers


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers() -> None:
    remove_leftovers()


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with two pods on a bridge, quiet."""
    with Host(pods=2) as made:
        made.settle()
        yield made
