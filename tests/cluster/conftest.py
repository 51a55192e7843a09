"""Fixtures of the cluster tests: one cluster of two nodes for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, two_nodes
from tests.cluster.images import archives
from tests.cluster.installation import Installation
from tests.cluster.traffic import Pair, pair


@pytest.fixture(scope="session")
def images() -> list[Path]:
    """The images as archives, of these sources; what is unchanged is not built again."""
    return archives()


@pytest.fixture(scope="session")
def cluster(images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two Ready nodes that have the images. A test that breaks something calls `settle` at its end."""
    with two_nodes(tmp_path_factory.mktemp("cluster"), images) as made:
        yield made


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Installation:
    """Podwire, installed from manifests/, without any monitor. A test that breaks it installs it again."""
    installation = Installation(cluster)
    installation.install()
    return installation


@pytest.fixture(scope="module")
def pods(cluster: Cluster) -> Iterator[Pair]:
    """A pod on each node, to talk to each other. A module whose tests kill nodes has other ones."""
    with pair(cluster, "talk") as made:
        yield made


_FIRST, _LAST = "test_harness.py", "test_rbac.py"
"""The cluster by itself, before Podwire comes to it; and a look at what all the others did."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Otherwise in the order of their names."""
    items.sort(key=lambda item: (item.path.name == _LAST) - (item.path.name == _FIRST))
