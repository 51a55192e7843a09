from __future__ import annotations

import tomllib
from pathlib import Path

from podwire_agent import __version__

ROOT = Path(__file__).parents[2]


def test_the_agent_tells_the_version_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"]
    assert __version__ in (ROOT / "CHANGELOG.md").read_text()
