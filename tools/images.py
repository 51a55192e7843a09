"""Builds the images with buildah, and says how large they are.

    make images
    .venv/bin/python -m tools.images --no-cache        options of `buildah bud`

localhost/podwire-agent:VERSION is the agent, :VERSION-bcc the one with BCC, localhost/podwire-operator:VERSION the
operator. The base is Debian's image, or whatever BASE_IMAGE names. Where Debian's cannot be pulled its like is made
from Debian's packages by mmdebstrap, once: kept below $XDG_CACHE_HOME/podwire.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASE = "bookworm"
PUBLISHED_BASE = f"debian:{RELEASE}-slim"
OWN_BASE = f"localhost/podwire-base:{RELEASE}-slim"


@dataclass(frozen=True, slots=True)
class Target:
    """A stage of a Dockerfile that becomes an image."""

    file: str
    name: str
    suffix: str = ""
    """What the tag has after the version."""


TARGETS = {
    "agent": Target("Dockerfile.agent", "podwire-agent"),
    "agent-bcc": Target("Dockerfile.agent", "podwire-agent", "-bcc"),
    "operator": Target("Dockerfile.operator", "podwire-operator"),
}
"""By the stage's name."""

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PULL_S = 120

# As Debian's slim images: no documents but the licences, no manuals, no translations.
LEFT_OUT = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    *(f"path-exclude=/usr/share/{part}/*" for part in ("groff", "info", "linda", "lintian", "locale", "man")),
)

MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
"""Of mmdebstrap's package; without it the package usrmerge does that work, and brings all of Perl."""


def version() -> str:
    """Podwire's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def image(target: str) -> str:
    """The name and tag of a target's image."""
    return f"localhost/{TARGETS[target].name}:{version()}{TARGETS[target].suffix}"


def build(options: Sequence[str] = (), targets: Iterable[str] = TARGETS) -> None:
    """Build the targets; `options` are for `buildah bud`. CalledProcessError after the failed command has said why."""
    arguments = {"BASE_IMAGE": os.environ.get("BASE_IMAGE") or _base(), "VERSION": version()}
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if (revision := subprocess.run(described, check=False, capture_output=True, text=True)).returncode == 0:
        arguments["REVISION"] = revision.stdout.strip()
    if index := os.environ.get("PIP_INDEX_URL"):
        arguments["PIP_INDEX_URL"] = index
    command = ["buildah", "bud", "--quiet", "--layers", "--network", "host", "--isolation", "chroot"]
    if CERTIFICATES.exists():  # the machine may trust more than pip's own bundle does
        command += ["--secret", f"id=certificates,src={CERTIFICATES}"]
        arguments["PIP_CERT"] = "/run/secrets/certificates"
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for target in targets:
        named = ["--file", str(ROOT / TARGETS[target].file), "--target", target, "--tag", image(target)]
        subprocess.run([*command, *options, *named, str(ROOT)], check=True, stdout=subprocess.DEVNULL)


def _base() -> str:
    """The base image: what is here already, else Debian's, else one of our own making."""
    if _size(OWN_BASE):
        return OWN_BASE
    try:
        pulled = subprocess.run(
            ["buildah", "pull", "--quiet", "--policy", "missing", PUBLISHED_BASE],
            check=False,
            capture_output=True,
            timeout=PULL_S,
        )
    except subprocess.TimeoutExpired:
        pass
    else:
        if pulled.returncode == 0:
            return PUBLISHED_BASE
    print(f"{PUBLISHED_BASE} cannot be pulled; its like is made from Debian's packages", file=sys.stderr)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podwire"
    archive = cache / f"{RELEASE}-slim.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = cache / f"{RELEASE}-slim.{os.getpid()}.tar"
        left_out = [f"--dpkgopt={option}" for option in LEFT_OUT]
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--hook-dir={MERGED_USR}", *left_out]
        made = subprocess.run([*command, RELEASE, str(fresh)], check=False, capture_output=True, text=True)
        if made.returncode:
            fresh.unlink(missing_ok=True)
            print(made.stderr[-2000:], file=sys.stderr)
            made.check_returncode()
        fresh.rename(archive)
    container = _output("buildah", "from", "scratch")
    try:
        _output("buildah", "add", "--quiet", container, str(archive))
        _output("buildah", "config", "--cmd", "bash", container)
        _output("buildah", "commit", "--quiet", container, OWN_BASE)
    finally:
        _output("buildah", "rm", container)
    return OWN_BASE


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _size(name: str) -> int:
    """Bytes of an image's files, its base included; 0 where there is no such image."""
    command = ["buildah", "images", "--json", name]
    asked = subprocess.run(command, check=False, capture_output=True, text=True)
    if asked.returncode:
        return 0
    amount, unit = json.loads(asked.stdout)[0]["size"].split()
    return round(float(amount) * {"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


def main() -> int:
    """Build, then one line an image."""
    try:
        build(sys.argv[1:])
    except FileNotFoundError as missing:
        print(f"cannot build the images: {missing.filename} is not installed: make images as root", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        print(f"cannot build the images: `{' '.join(failed.cmd)}` failed, see above", file=sys.stderr)
        return 1
    for target in TARGETS:
        print(f"{image(target):40} {_size(image(target)) / 1e6:6.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
