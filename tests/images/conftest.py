"""Fixtures of the images' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.container import Image, Node, mounted, small_node
from tests.kernel.netns import Host, remove_leftovers
from tools.images import TARGETS, build


@pytest.fixture(scope="session")
def _built() -> None:
    """The images are those of these sources; what is unchanged is not built again."""
    remove_leftovers()
    build()


@pytest.fixture(scope="session", params=["agent", "agent-bcc"])
def target(request: pytest.FixtureRequest) -> str:
    """Each agent's."""
    return str(request.param)


@pytest.fixture(scope="session")
def image(_built: None, target: str) -> Iterator[Image]:
    """The target's image, mounted."""
    with mounted(target) as found:
        yield found


@pytest.fixture(scope="session", params=TARGETS)
def every_image(_built: None, request: pytest.FixtureRequest) -> Iterator[Image]:
    """Each image of ours, mounted."""
    with mounted(request.param) as found:
        yield found


@pytest.fixture(scope="session")
def operator_image(_built: None) -> Iterator[Image]:
    """The operator's image, mounted."""
    with mounted("operator") as found:
        yield found


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with two pods on a bridge, quiet."""
    with Host(pods=2) as made:
        made.settle()
        yield made


@pytest.fixture
def node(host: Host, tmp_path: Path) -> Iterator[Node]:
    """What a container sees of that host."""
    with small_node(host.namespace, tmp_path) as made:
        yield made
