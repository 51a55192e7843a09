"""What GitOps tools make of an object: Argo CD by our health script in a real Lua, Flux by the library it uses."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEALTH = ROOT / "manifests" / "argocd" / "health.lua"
MODULE = Path(__file__).with_name("kstatus")

_ASKED = """
local answer = dofile(arg[1])
io.write(answer.status, "\\n", answer.message)
"""


def argocd(obj: Mapping[str, Any]) -> tuple[str, str]:
    """Argo CD's status and message: the script finds the object in the global variable obj."""
    script = f"obj = {_lua(obj)}\n{_ASKED}"
    done = subprocess.run(
        ["lua5.1", "-", str(HEALTH)], check=False, input=script, capture_output=True, text=True, timeout=10
    )
    assert done.returncode == 0, done.stderr
    status, _, message = done.stdout.partition("\n")
    return status, message


def _lua(value: Any) -> str:
    """JSON's value as an expression of Lua 5.1; in a table null is the same as nothing."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{_lua(key)}] = {_lua(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(_lua(each) for each in value) + "}"
    if isinstance(value, str):
        return '"' + "".join(f"\\{byte:03}" for byte in value.encode()) + '"'
    return "nil" if value is None else json.dumps(value)


def kstatus(objects: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The library's status and message of each object. Skips the test where it cannot be built."""
    done = subprocess.run(
        [_program()], check=False, input=json.dumps(objects), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return [(answer["status"], answer["message"]) for answer in json.loads(done.stdout)]


def _program() -> str:
    """Built once for each version of its sources, into $XDG_CACHE_HOME/podwire."""
    sources = b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podwire"
    target = cache / f"kstatus-{hashlib.sha256(sources).hexdigest()[:16]}"
    if target.exists():
        return str(target)
    if not shutil.which("go"):
        pytest.skip("kstatus is not built, and there is no Go to build it")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kstatus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            print(f"building {target}: once, less than a minute", file=sys.stderr)
            fresh = target.with_suffix(".new")
            command = [
                "go",
                "build",
                "-mod=readonly",
                "-trimpath",
                "-buildvcs=false",
                "-ldflags=-s -w",
                "-o",
                str(fresh),
            ]
            ours = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
            built = subprocess.run(
                command, check=False, cwd=MODULE, env=os.environ | ours, capture_output=True, text=True
            )
            assert built.returncode == 0, built.stderr
            fresh.rename(target)
    return str(target)
