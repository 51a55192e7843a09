"""The import contracts of pyproject.toml, and that they would notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.compile_bpf import ROOT

ROOTS = ("agent", "crds", "operator")


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    sources = os.pathsep.join(str(directory / name) for name in ROOTS)
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(
        command, cwd=directory, env={**os.environ, "PYTHONPATH": sources}, check=False, capture_output=True, text=True
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources and their contracts, to break."""
    for name in ROOTS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.o", "__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_hold() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        pytest.param("core/table.py", "import time", "no clock", id="the core reads a clock"),
        pytest.param(
            "core/table.py", "import podwire_agent.kernel.tc", "strangers", id="the core knows the kernel edge"
        ),
        pytest.param("kernel/tc.py", "import podwire_agent.sinks", "strangers", id="one edge knows another"),
        pytest.param("sinks/lines.py", "import pydantic", "Validation", id="a sink validates"),
        pytest.param("sinks/lines.py", "import ctypes", "foreign functions", id="a sink calls C"),
        pytest.param("model.py", "import podwire_agent.pipeline", "layers", id="the words know the pipeline"),
        pytest.param("kernel/tc.py", "import podwire_agent.kube.view", "strangers", id="the kernel knows the cluster"),
        pytest.param("exchange/server.py", "import podwire_agent.core.loss", "strangers", id="the exchange compares"),
        pytest.param("sinks/lines.py", "import ssl", "TLS only where", id="a sink does TLS by itself"),
        pytest.param("pipeline.py", "import urllib3", "only in kube", id="the tick talks to the API server"),
        pytest.param(
            "kube/view.py", "import kubernetes", "never in an agent", id="the agent has the operator's client"
        ),
        pytest.param("kernel/tc.py", "import subprocess", "no other program", id="an edge runs a command"),
    ],
)
def test_a_forbidden_import_is_noticed(copy: Path, module: str, statement: str, contract: str) -> None:
    with (copy / "agent" / "podwire_agent" / module).open("a") as source:
        source.write(f"\n{statement}\n")
    result = lint(copy)
    assert result.returncode != 0
    broken = [line for line in result.stdout.splitlines() if " BROKEN" in line]
    assert any(contract in line for line in broken), result.stdout


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        pytest.param("judge.py", "import time", "no clock", id="the judge reads a clock"),
        pytest.param("render.py", "import podwire_operator.view", "no clock", id="what is rendered is looked up"),
        pytest.param("judge.py", "import podwire_operator.cluster", "layers", id="the judge talks to the API server"),
        pytest.param("reconcile.py", "import kopf", "kopf in one module", id="kopf decides"),
        pytest.param(
            "election.py", "import kubernetes", "kopf in one module", id="the election has a client of its own"
        ),
        pytest.param("objects.py", "import podwire_agent.model", "no agent", id="the operator knows the agent"),
        pytest.param("replica.py", "import subprocess", "operator starts no other", id="the operator runs a command"),
    ],
)
def test_a_forbidden_import_of_the_operator_is_noticed(copy: Path, module: str, statement: str, contract: str) -> None:
    with (copy / "operator" / "podwire_operator" / module).open("a") as source:
        source.write(f"\n{statement}\n")
    result = lint(copy)
    assert result.returncode != 0
    broken = [line for line in result.stdout.splitlines() if " BROKEN" in line]
    assert any(contract in line for line in broken), result.stdout
