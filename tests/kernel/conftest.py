"""Fixtures of the kernel tests."""

from __future__ import annotations

from collections.abc import Iterator

import os
from pathlib import Path

import pytest

from tests.kernel.datapath_fixtures import datapath as datapath
from tests.kernel.datapath_fixtures import loaded_datapath as loaded_datapath
from tests.kernel.datapath_fixtures import objects as objects
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


@pytest.fixture
def tmp_bpffs() -> Iterator[Path]:
    """A directory of its own on bpffs; whatever is pinned there is gone at the end."""
    directory = Path("/sys/fs/bpf") / f"pw-test-{os.getpid()}"
    directory.mkdir()
    yield directory
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()
