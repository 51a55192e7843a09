"""The tiers: which tests this machine can run, and what was left out and why.

A test's tier is the directory below tests/ that it lies in. PODWIRE_REQUIRE names tiers ("unit,contract,kernel") of
which nothing may be left out: not the tier, and not one of its tests.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.receivers.built import PROMETHEUS
from tools.compile_bpf import OBJECTS, VARIANTS

TESTS = Path(__file__).resolve().parent
BPFFS = Path("/sys/fs/bpf")


def _missing_commands(*commands: str, target: str = "setup") -> str:
    missing = [command for command in commands if not shutil.which(command)]
    return f"not installed: {', '.join(missing)} (run make {target})" if missing else ""


def _refused(*command: str) -> str:
    """What the system said when it refused the command; "" where it did not."""
    tried = subprocess.run(command, check=False, capture_output=True, text=True)
    return tried.stderr.strip().replace("\n", "; ") if tried.returncode else ""


def _bpffs_mounted() -> bool:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return any(fields[1] == str(BPFFS) and fields[2] == "bpf" for fields in mounts)


def _without_unit() -> str:
    return ""


def _without_contract() -> str:
    return _missing_commands("clang", "llvm-strip", "bpftool")


def _without_kernel() -> str:
    if os.geteuid():
        return "not root"
    commands = ("clang", "bpftool", "ip", "tc", "nsenter", "ping", "iperf3", "ethtool", "capsh", "nft", "iptables")
    if missing := _missing_commands(*commands):
        return missing
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError as error:
        return f"libbpf cannot be loaded: {error}"
    if not all((OBJECTS / name).exists() for name in VARIANTS):
        return "the kernel programs are not compiled (run make build)"
    if refusal := _refused("unshare", "--net", "true"):
        return f"no network namespaces: {refusal}"
    if not _bpffs_mounted() and (refusal := _refused("mount", "-t", "bpf", "bpf", str(BPFFS))):
        return f"no bpffs: {refusal}"
    if refusal := _refused("bpftool", "map", "list"):
        return f"no BPF: {refusal}"
    return ""


def _without_images() -> str:
    return _without_kernel() or _missing_commands("buildah", "mmdebstrap", "runc", target="images")


def _without_cluster() -> str:
    if os.geteuid():
        return "not root"
    nodes = ("containerd", "ctr", "runc", "etcd", "nft", "ip", "nsenter", "setpriv", "curl", "pgrep", "bpftool")
    images = ("buildah", "mmdebstrap", "clang")
    if missing := _missing_commands(*nodes, *images, "lua5.1", target="cluster-packages"):
        return missing
    if not binaries.cni_plugins():
        return "no CNI plug-ins (run make cluster-packages)"
    if refusal := _refused("unshare", "--net", "--pid", "--mount", "--fork", "true"):
        return f"no namespaces: {refusal}"
    return binaries.why_not()


def _without_receivers() -> str:
    return _without_kernel() or PROMETHEUS.why_not()


WHY_NOT: dict[str, Callable[[], str]] = {
    "unit": _without_unit,
    "contract": _without_contract,
    "kernel": _without_kernel,
    "receivers": _without_receivers,
    "images": _without_images,
    "cluster": _without_cluster,
}
"""Why a tier cannot run here, in words; "" where it can."""

_REQUIRED = pytest.StashKey[frozenset[str]]()
_LEFT_OUT = pytest.StashKey[list[str]]()


def _tier(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which loaders the kernel tests run with."""
    parser.addoption("--loader", default="libbpf,bcc", help="loaders of the kernel tests, by commas (both)")


def pytest_configure(config: pytest.Config) -> None:
    """Reads what must not be left out."""
    required = frozenset(name.strip() for name in os.environ.get("PODWIRE_REQUIRE", "").split(",") if name.strip())
    if unknown := required - WHY_NOT.keys():
        raise pytest.UsageError(
            f"PODWIRE_REQUIRE: no tier {', '.join(sorted(unknown))}; there are {', '.join(WHY_NOT)}"
        )
    config.stash[_REQUIRED] = required
    config.stash[_LEFT_OUT] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks each test with its tier, and leaves out the tiers that cannot run; an error where they must."""
    by_tier: dict[str, list[pytest.Item]] = {tier: [] for tier in WHY_NOT}
    for item in items:
        by_tier[_tier(item)].append(item)
        item.add_marker(_tier(item))
    items.clear()
    for tier, found in by_tier.items():
        reason = WHY_NOT[tier]() if found else ""
        if not reason:
            items += found
        elif tier in config.stash[_REQUIRED]:
            raise pytest.UsageError(f"the {tier} tests are required and cannot run here: {reason}")
        else:
            config.hook.pytest_deselected(items=found)
            config.stash[_LEFT_OUT].append(f"all {len(found)} {tier} tests: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In a required tier a test that skips itself has failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _tier(item) in item.config.stash[_REQUIRED]:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"required by PODWIRE_REQUIRE, but {reason}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """Says in words, after everything else, what was left out."""
    yield
    if config.stash[_LEFT_OUT]:
        terminalreporter.section("left out", yellow=True)
        for line in config.stash[_LEFT_OUT]:
            terminalreporter.line(line)
