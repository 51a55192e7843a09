"""Receivers of what Podwire sends, built by Go: those kept from an earlier run, or made now, once a version.

They are kept in $XDG_CACHE_HOME/podwire/NAME-VERSION. A variable names a directory of ready ones instead.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SAY_EVERY_S = 30.0


class ReceiverError(Exception):
    """A receiver cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Receiver:
    """Programs of one Go module: the directory `name` has the go.mod that requires it, and lists them as tools."""

    name: str
    module: str
    """Whose version is the receiver's."""
    programs: tuple[str, ...]
    takes: str
    """How long it takes to build, in words."""
    tags: str = ""
    variable: str = ""
    """Names a directory of ready ones."""

    @property
    def version(self) -> str:
        """As go.mod requires it: "v0.316.0"."""
        text = (HERE / self.name / "go.mod").read_text()
        required = re.search(rf"^(?:require |\t){re.escape(self.module)} (\S+)", text, re.MULTILINE)
        assert required is not None
        return required[1]

    def program(self, name: str) -> str:
        """The path of one of `programs`, which are built now where nothing has them. ReceiverError."""
        directory = self._given or self._kept
        if missing := self._missing(directory):
            if self._given:
                raise ReceiverError(f"{self.variable}={directory} has no {', '.join(missing)}")
            self._build()
        return str(directory / name)

    def why_not(self) -> str:
        """Why there can be none, without building any; "" where there are or can be."""
        missing = self._missing(self._given or self._kept)
        if missing and self._given:
            return f"{self.variable}={self._given} has no {', '.join(missing)}"
        if missing and not shutil.which("go"):
            return f"no {self.name} {self.version}, and no Go to build it: install Go, or set {self.variable}"
        return ""

    @property
    def _given(self) -> Path | None:
        given = os.environ.get(self.variable) if self.variable else None
        return Path(given) if given else None

    @property
    def _kept(self) -> Path:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return home / "podwire" / f"{self.name}-{self.version}"

    def _missing(self, directory: Path) -> list[str]:
        return [name for name in self.programs if not os.access(directory / name, os.X_OK)]

    def _build(self) -> None:
        """All of them, aside, then renamed; a second builder waits for the first."""
        target = self._kept
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._missing(target):
                return
            fresh = target.with_name(f"{target.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            _say(f"building {self.name} {self.version} into {target}: once, {self.takes}")
            code = self._go(fresh)
            if code or (missing := self._missing(fresh)):
                why = f"go build ended with {code}" if code else f"it made no {', '.join(missing)}"
                shutil.rmtree(fresh)
                raise ReceiverError(f"cannot build {self.name} {self.version}: {why}, see above")
            shutil.rmtree(target, ignore_errors=True)  # an incomplete one
            fresh.rename(target)

    def _go(self, target: Path) -> int:
        """The exit code of `go build`; says that it is at work now and then."""
        command = ["go", "build", "-mod=readonly", "-buildvcs=false", "-tags", self.tags, "-ldflags=-s -w"]
        ours = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
        began_s = time.monotonic()
        # Go writes to standard error what it downloads; standard output is not ours.
        with subprocess.Popen(
            [*command, "-o", f"{target}/", "tool"], cwd=HERE / self.name, env=os.environ | ours, stdout=sys.stderr
        ) as building:
            while True:
                try:
                    return building.wait(SAY_EVERY_S)
                except subprocess.TimeoutExpired:
                    _say(f"building {self.name}: {time.monotonic() - began_s:.0f} s so far")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


PROMETHEUS = Receiver(
    name="prometheus",
    module="github.com/prometheus/prometheus",
    programs=("prometheus", "promtool"),
    takes="about five minutes on two cores",
    tags="remove_all_sd netgo",
    variable="PODWIRE_PROMETHEUS",
)
