"""The programs of Kubernetes: those this machine has, those kept from an earlier run, or built by Go.

PODWIRE_KUBERNETES or KUBEBUILDER_ASSETS names a directory of ready ones. Else they are built from the module in
kubernetes/, once a version, into $XDG_CACHE_HOME/podwire/kubernetes-VERSION.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

MODULE = Path(__file__).with_name("kubernetes")
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
PLACES = ("PODWIRE_KUBERNETES", "KUBEBUILDER_ASSETS")
"""Variables that name a directory of ready programs, the first that is set."""

CNI_PLACES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))


class BinariesError(Exception):
    """Programs of Kubernetes cannot be had; the message says why and what to do."""


def version() -> str:
    """Of Kubernetes, as kubernetes/go.mod requires it: "v1.36.3"."""
    required = re.search(r"^require k8s\.io/kubernetes (\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert required is not None
    return required[1]


@cache
def programs() -> Path:
    """The directory with all PROGRAMS, which are built now where nothing has them. BinariesError."""
    if given := _given():
        if missing := _missing(given[1]):
            raise BinariesError(
                f"{given[0]}={given[1]} has no {', '.join(missing)}; the cluster tests need {', '.join(PROGRAMS)} of "
                "one version: put them there, or unset the variable and they are built by Go"
            )
        return given[1]
    kept = _kept()
    if _missing(kept):
        _build(kept)
    return kept


def program(name: str) -> str:
    """The path of one of PROGRAMS. BinariesError."""
    return str(programs() / name)


def cni_plugins() -> Path | None:
    """Where the CNI plug-ins of this machine are."""
    return next((place for place in CNI_PLACES if (place / "bridge").exists()), None)


def why_not() -> str:
    """Why there can be no programs, without building any; "" where there are or can be."""
    if given := _given():
        missing = _missing(given[1])
        return f"{given[0]}={given[1]} has no {', '.join(missing)}" if missing else ""
    if _missing(_kept()) and not shutil.which("go"):
        return f"no Kubernetes {version()}, and no Go to build it: install Go, or set {PLACES[0]} to ready programs"
    return ""


def _given() -> tuple[str, Path] | None:
    return next(((name, Path(place)) for name in PLACES if (place := os.environ.get(name))), None)


def _kept() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "podwire" / f"kubernetes-{version()}"


def _missing(directory: Path) -> list[str]:
    return [name for name in PROGRAMS if not os.access(directory / name, os.X_OK)]


def _build(target: Path) -> None:
    """All of them, aside, then renamed; a second builder waits for the first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _missing(target):
            return
        fresh = target.with_name(f"{target.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        print(f"building Kubernetes {version()} into {target}: once, about six minutes on two cores", file=sys.stderr)
        stamp = f"-s -w -X k8s.io/component-base/version.gitVersion={version()}"
        command = ["go", "build", "-mod=readonly", "-buildvcs=false", "-ldflags", stamp, "-o", f"{fresh}/"]
        ours = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
        # Go writes to standard error what it downloads; standard output is not ours.
        built = subprocess.run([*command, "tool"], check=False, cwd=MODULE, env=os.environ | ours, stdout=sys.stderr)
        if built.returncode or (missing := _missing(fresh)):
            why = f"go build ended with {built.returncode}" if built.returncode else f"it made no {', '.join(missing)}"
            shutil.rmtree(fresh)
            raise BinariesError(f"cannot build Kubernetes {version()}: {why}, see above")
        shutil.rmtree(target, ignore_errors=True)  # an incomplete one
        fresh.rename(target)
