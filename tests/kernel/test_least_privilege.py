"""The program under the agent's two capabilities."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.loaders import why_no_bcc
from tests.kernel.packet_table import CASES
from tools.compile_bpf import VARIANTS

CAP_NET_ADMIN, CAP_BPF = 12, 39
"""Of linux/capability.h."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_program_loads_and_counts_with_bpf_and_net_admin_alone(variant: str, objects: dict[str, Path]) -> None:
    loads_and_counts(objects[variant])


def test_bcc_too_loads_and_counts_with_bpf_and_net_admin_alone(bcc_tree: Path) -> None:
    if reason := why_no_bcc():
        pytest.skip(reason)
    loads_and_counts(bcc_tree)


def loads_and_counts(path: Path) -> None:
    kept = "-all,+bpf,+net_admin"
    narrowed = ["setpriv", f"--bounding-set={kept}", f"--inh-caps={kept}"]
    command = [sys.executable, "-m", "tests.kernel.least_privilege", str(path)]
    done = subprocess.run([*narrowed, *command], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["capabilities"] == 1 << CAP_NET_ADMIN | 1 << CAP_BPF
    # Two programs a direction: the veth's and the host interface's.
    expected = [2 * len(CASES), 2 * sum(len(case.frame) for case in CASES)]
    assert answer["seen"] == {"FROM_POD": expected, "TO_POD": expected}
