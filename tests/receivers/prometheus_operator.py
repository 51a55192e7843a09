"""The kinds of the Prometheus Operator, as its Go module brings them: what an API server checks a PodMonitor by."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path

from tests.receivers.built import ReceiverError

MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


@cache
def definition(plural: str) -> Path:
    """The CustomResourceDefinition of a kind: "podmonitors". ReceiverError where Go does not bring it."""
    ours = {"GOFLAGS": "-mod=mod", "GOWORK": "off"}
    command = ["go", "mod", "download", "-json", MODULE]
    try:
        done = subprocess.run(command, check=True, cwd="/", env=os.environ | ours, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ReceiverError(f"{MODULE} cannot be had: {getattr(error, 'stderr', '') or error}") from error
    directory = Path(json.loads(done.stdout)["Dir"])
    return directory / "example" / "prometheus-operator-crd" / f"monitoring.coreos.com_{plural}.yaml"
