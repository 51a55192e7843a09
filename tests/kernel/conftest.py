"""Fixtures of the kernel tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire_agent.settings import LoaderName
from tests.kernel.agent_fixtures import bare_place as bare_place
from tests.kernel.agent_fixtures import place as place
from tests.kernel.datapath_fixtures import datapath as datapath
from tests.kernel.datapath_fixtures import loaded_datapath as loaded_datapath
from tests.kernel.datapath_fixtures import objects as objects
from tests.kernel.loaders import agents_loader as agents_loader
from tests.kernel.loaders import bcc_tree as bcc_tree
from tests.kernel.loaders import loader as loader
from tests.kernel.loaders import loader_name as loader_name
from tests.kernel.netns import Host, remove_leftovers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that depends on the loader runs with each."""
    if "loader_name" in metafunc.fixturenames:
        names = [LoaderName(name) for name in metafunc.config.getoption("--loader").split(",")]
        metafunc.parametrize("loader_name", names, indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers() -> None:
    remove_leftovers()


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with two pods on a bridge, quiet."""
    with Host(pods=2) as made:
        made.settle()
        yield made


@pytest.fixture
def tmp_bpffs() -> Iterator[Path]:
    """A directory of its own on bpffs; whatever is pinned there is gone at the end."""
    directory = Path("/sys/fs/bpf") / f"pw-test-{os.getpid()}"
    directory.mkdir()
    yield directory
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()
