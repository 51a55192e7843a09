"""kubectl, as a person runs it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.binaries import program

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Said:
    """What a command wrote, and how it ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Kubectl:
    """With one kubeconfig."""

    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str = "", timeout_s: float = TIMEOUT_S) -> str:
        """What it wrote to standard output. AssertionError where it failed, with what it said."""
        said = self.tried(*arguments, stdin=stdin, timeout_s=timeout_s)
        assert said.code == 0, f"kubectl {' '.join(arguments)}: {said.err}"
        return said.out

    def tried(self, *arguments: str, stdin: str = "", timeout_s: float = TIMEOUT_S) -> Said:
        """The same, whether it fails or not. TimeoutExpired after `timeout_s`."""
        command = [program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, check=False, input=stdin, capture_output=True, text=True, timeout=timeout_s)
        return Said(done.returncode, done.stdout, done.stderr)

    def get(self, *arguments: str) -> Any:
        """An object, or a List."""
        return json.loads(self("get", "--output=json", *arguments))
