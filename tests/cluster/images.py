"""The images of the cluster tests as archives: Podwire's, built from its Dockerfiles, and a pause image.

Archives are kept below $XDG_CACHE_HOME/podwire/images, one an image ID, the latest KEPT of each image.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.node import PAUSE
from tools.images import build, image

TARGETS = ("agent", "operator")
PAUSE_SOURCE = Path(__file__).parent / "programs" / "pause.c"
KEPT = 4
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def archives(targets: Sequence[str] = TARGETS) -> list[Path]:
    """The pause image and Podwire's, built where their sources have changed. CalledProcessError as of tools.images."""
    with _cache() as cache:
        made = [_pause(cache)]
        build(targets=targets)
        made += [_archive(cache, image(target)) for target in targets]
        for path in made:
            os.utime(path)
            alike = cache.glob(f"{path.name.rpartition('-')[0]}-*.tar")
            for old in sorted(alike, key=lambda each: each.stat().st_mtime)[:-KEPT]:
                old.unlink()
    return made


@contextmanager
def _cache() -> Iterator[Path]:
    """For one process at a time."""
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podwire" / "images"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


def _archive(cache: Path, name: str) -> Path:
    asked = ["buildah", "images", "--no-trunc", "--quiet", name]
    identity = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    repository = name.partition("/")[2].partition(":")[0]
    path = cache / f"{repository}-{identity.removeprefix('sha256:')[:16]}.tar"
    if not path.exists():
        fresh = path.with_suffix(".tar.new")
        fresh.unlink(missing_ok=True)
        subprocess.run(["buildah", "push", "--quiet", name, f"docker-archive:{fresh}:{name}"], check=True)
        fresh.rename(path)
    return path


def _pause(cache: Path) -> Path:
    source = PAUSE_SOURCE.read_bytes()
    path = cache / f"pause-{hashlib.sha256(source).hexdigest()[:16]}.tar"
    if not path.exists():
        fresh = path.with_suffix(".tar.new")
        with tempfile.TemporaryDirectory() as directory:
            compiled = Path(directory) / "pause"
            subprocess.run(["clang", "-O2", "-static", "-o", compiled, PAUSE_SOURCE], check=True)
            _write_image(fresh, PAUSE, "pause", compiled.read_bytes())
        fresh.rename(path)
    return path


def _write_image(path: Path, name: str, program: str, content: bytes) -> None:
    """A docker archive of an image with one file, which it runs."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        _add(files, program, content, mode=0o755)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    machine = platform.machine()
    configuration = json.dumps(
        {
            "architecture": ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {"Entrypoint": [f"/{program}"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    described = f"{hashlib.sha256(configuration).hexdigest()}.json"
    layers = [f"{digest}/layer.tar"]
    with tarfile.open(path, "w") as archive:
        _add(archive, described, configuration)
        _add(archive, layers[0], layer.getvalue())
        manifest = [{"Config": described, "RepoTags": [name], "Layers": layers}]
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
