"""One parameter of the kernel tests: who brings the programs into the kernel (--loader=libbpf,bcc)."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest

from podwire_agent.kernel.bcc_loader import INTERPRETERS, BccLoader
from podwire_agent.kernel.loader import LibbpfLoader, Loader
from podwire_agent.settings import LoaderName
from tools.bcc_sources import TREE, make_tree


@cache
def why_no_bcc() -> str:
    """What keeps BCC from being tried here, in words; "" where nothing does."""
    asked = [[interpreter, "-I", "-c", "import bcc; bcc.BPF"] for interpreter in INTERPRETERS]
    if all(subprocess.run(command, check=False, capture_output=True).returncode for command in asked):
        return f"{' and '.join(INTERPRETERS)} have no BCC (Debian: python3-bpfcc; run make setup)"
    return "" if TREE.is_dir() else "what BCC compiles is not collected (run make build)"


@pytest.fixture(scope="session")
def loader_name(request: pytest.FixtureRequest) -> LoaderName:
    """Each of --loader in turn."""
    name = LoaderName(request.param)
    if name is LoaderName.BCC and (reason := why_no_bcc()):
        pytest.skip(reason)
    return name


@pytest.fixture(scope="session")
def bcc_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What BCC compiles, collected from the sources as they are now."""
    tree = tmp_path_factory.mktemp("bcc") / "tree"
    make_tree(tree)
    return tree


@pytest.fixture(scope="session")
def loader(loader_name: LoaderName, objects: dict[str, Path], bcc_tree: Path) -> Loader:
    """Of the sources as they are now."""
    if loader_name is LoaderName.BCC:
        return BccLoader(bcc_tree, coarse_clock=True)
    return LibbpfLoader(objects["flow.bpf.o"])


@pytest.fixture
def agents_loader(loader_name: LoaderName, monkeypatch: pytest.MonkeyPatch) -> LoaderName:
    """Agents that are started load so."""
    monkeypatch.setenv("PODWIRE_LOADER", loader_name)
    return loader_name
